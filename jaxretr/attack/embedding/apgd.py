"""Auto-PGD: projected gradient ascent with momentum and a step size that finds itself.

In and out: as in `jaxretr.attack.embedding.gradient`. After Croce and Hein (2020), arXiv 2003.01690, without the box
that images live in. The authors' program rounds the periods between checkpoints, and treats the first checkpoint, in
another way; that the two are equally strong has not been checked.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from jaxretr.attack.embedding.space import Attack, Epsilon, Objective, Space, choose, split_keys
from jaxretr.perturb.balls import Norm

_MOMENTUM = 0.75  # alpha
_INCREASING = 0.75  # rho: the share of steps that must increase the objective


class _Walk(NamedTuple):
    """Where the run from one start is."""

    delta: Float32[Array, "queries length hidden"]
    loss: Float32[Array, " queries"]
    gradient: Float32[Array, "queries length hidden"]
    previous: Float32[Array, "queries length hidden"]
    best: Attack
    best_gradient: Float32[Array, "queries length hidden"]
    step_size: Float32[Array, " queries"]
    increases: Int32[Array, " queries"]  # since the last checkpoint
    checkpoint_best: Float32[Array, " queries"]
    checkpoint_halved: Bool[Array, " queries"]


@partial(jax.jit, static_argnames=("objective", "norm", "steps", "restarts"))
def apgd(
    objective: Objective,
    context: Any,
    embeds: Float32[Array, "queries length hidden"],
    attackable: Bool[Array, "queries length"],
    epsilon: Epsilon,
    keys: Key[Array, " queries"],
    *,
    norm: Norm,
    steps: int = 100,
    restarts: int = 1,
) -> Attack:
    """The best point of `restarts` runs of `steps` steps, the first of them 2 epsilon long.

    At a checkpoint the step size is halved, and the walk goes on from its best point, where fewer than three quarters
    of the steps since the last one increased the objective, or where neither the step size nor the best value has
    changed since then. Costs 3 * restarts * (steps + 1) + 1.
    """
    space = Space(objective, context, embeds, attackable, epsilon, norm)

    def step(walk: _Walk, now: tuple[Array, Array]) -> tuple[_Walk, None]:
        momentum, period = now
        ahead = space.step(walk.delta, walk.gradient, walk.step_size)
        moved = momentum * (ahead - walk.delta) + (1 - momentum) * (walk.delta - walk.previous)
        delta = space.project(walk.delta + moved)
        loss, gradient, dead = space.ascend(delta)
        best = walk.best.or_better(delta, loss, dead)
        best_gradient = choose(loss > walk.best.loss, gradient, walk.best_gradient)
        increases = walk.increases + (loss > walk.loss)

        checkpoint = period > 0
        stuck = ~walk.checkpoint_halved & (best.loss == walk.checkpoint_best)
        halve = checkpoint & ((increases < _INCREASING * period) | stuck)
        return _Walk(
            delta=choose(halve, best.delta, delta),
            loss=jnp.where(halve, best.loss, loss),
            gradient=choose(halve, best_gradient, gradient),
            previous=walk.delta,
            best=best,
            best_gradient=best_gradient,
            step_size=jnp.where(halve, walk.step_size / 2, walk.step_size),
            increases=jnp.where(checkpoint, 0, increases),
            checkpoint_best=jnp.where(checkpoint, best.loss, walk.checkpoint_best),
            checkpoint_halved=jnp.where(checkpoint, halve, walk.checkpoint_halved),
        ), None

    def restart(best: Attack, keys: Key[Array, " queries"]) -> tuple[Attack, None]:
        start = space.draw(keys)
        loss, gradient, dead = space.ascend(start)
        walk = _Walk(
            delta=start,
            loss=loss,
            gradient=gradient,
            previous=start,
            best=Attack(start, loss, dead),
            best_gradient=gradient,
            step_size=2 * space.epsilon,
            increases=jnp.zeros_like(dead),
            checkpoint_best=loss,
            checkpoint_halved=jnp.zeros(len(loss), bool),
        )
        momentum = jnp.where(jnp.arange(steps) == 0, 1.0, _MOMENTUM)  # the first step has nothing to carry on
        walk, _ = jax.lax.scan(step, walk, (momentum, jnp.asarray(checkpoint_periods(steps), jnp.int32)))
        return best.or_better(*walk.best), None

    return jax.lax.scan(restart, space.clean(), split_keys(keys, restarts))[0]


def checkpoint_periods(steps: int) -> list[int]:
    """For each step 0, or at a checkpoint the steps since the last one.

    Checkpoints are at ceil(p_j steps), p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06), p_j <= 1.
    """
    periods = [0] * steps
    percent, width, last = 22, 22, 0
    while percent <= 100:  # in hundredths, which are exact
        after = -(-percent * steps // 100)
        if after > last:
            periods[after - 1], last = after - last, after
        width = max(width - 3, 6)
        percent += width
    return periods
