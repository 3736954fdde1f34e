"""Auto-PGD: projected gradient ascent with momentum and an adaptive step size.

Source: Croce and Hein (2020), arXiv 2003.01690,
without the box constraint of images. The authors' code rounds the periods between checkpoints differently and
treats the first checkpoint differently. Nobody has checked whether both implementations are equally strong.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, PerturbationSpace, choose, split_keys

_MOMENTUM = 0.75  # alpha
_INCREASING = 0.75  # rho: the share of steps that must increase the objective


class _RunState(NamedTuple):
    """State of a run from one starting point."""

    delta: Float32[Array, "queries length hidden"]
    loss: Float32[Array, " queries"]
    gradient: Float32[Array, "queries length hidden"]
    previous: Float32[Array, "queries length hidden"]
    best: BestPerturbation
    best_gradient: Float32[Array, "queries length hidden"]
    step_size: Float32[Array, " queries"]
    increases: Int32[Array, " queries"]  # since the last checkpoint
    checkpoint_best: Float32[Array, " queries"]
    checkpoint_halved: Bool[Array, " queries"]


def apgd(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Return the best point of `restarts` runs of `steps` steps; the first step is 2 epsilon long.

    A checkpoint halves the step size and restarts from the best point under either of two conditions: fewer than
    three quarters of the steps since the last checkpoint increased the objective, or neither the step size nor the best
    value changed since the last checkpoint. Costs 3 * restarts * (steps + 1) + 1.
    """

    def step(run: _RunState, schedule: tuple[Array, Array]) -> tuple[_RunState, None]:
        momentum, period = schedule
        ahead = space.step(run.delta, run.gradient, run.step_size)
        moved = momentum * (ahead - run.delta) + (1 - momentum) * (run.delta - run.previous)
        delta = space.project(run.delta + moved)
        loss, gradient, zero = space.ascend(delta)
        best = run.best.or_better(delta, loss, zero)
        best_gradient = choose(loss > run.best.loss, gradient, run.best_gradient)
        increases = run.increases + (loss > run.loss)

        checkpoint = period > 0
        stuck = ~run.checkpoint_halved & (best.loss == run.checkpoint_best)
        halve = checkpoint & ((increases < _INCREASING * period) | stuck)
        return _RunState(
            delta=choose(halve, best.delta, delta),
            loss=jnp.where(halve, best.loss, loss),
            gradient=choose(halve, best_gradient, gradient),
            previous=run.delta,
            best=best,
            best_gradient=best_gradient,
            step_size=jnp.where(halve, run.step_size / 2, run.step_size),
            increases=jnp.where(checkpoint, 0, increases),
            checkpoint_best=jnp.where(checkpoint, best.loss, run.checkpoint_best),
            checkpoint_halved=jnp.where(checkpoint, halve, run.checkpoint_halved),
        ), None

    def restart(best: BestPerturbation, keys: Key[Array, " queries"]) -> tuple[BestPerturbation, None]:
        start = space.draw(keys)
        loss, gradient, zero = space.ascend(start)
        run = _RunState(
            delta=start,
            loss=loss,
            gradient=gradient,
            previous=start,
            best=BestPerturbation(start, loss, zero),
            best_gradient=gradient,
            step_size=2 * space.epsilon,
            increases=jnp.zeros_like(zero),
            checkpoint_best=loss,
            checkpoint_halved=jnp.zeros(len(loss), bool),
        )
        momentum = jnp.where(jnp.arange(steps) == 0, 1.0, _MOMENTUM)  # the first step has no momentum
        run, _ = jax.lax.scan(step, run, (momentum, jnp.asarray(checkpoint_periods(steps), jnp.int32)))
        return best.or_better(*space.verified(run.best)), None

    return jax.lax.scan(restart, space.clean(), split_keys(keys, restarts))[0]


def checkpoint_periods(steps: int) -> list[int]:
    """Return, per step, 0, or at a checkpoint the number of steps since the last checkpoint.

    Checkpoints are at ceil(p_j steps), p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06), p_j <= 1.
    """
    periods = [0] * steps
    percent, width, last = 22, 22, 0
    while percent <= 100:  # integer percentages keep the arithmetic exact
        after = -(-percent * steps // 100)
        if after > last:
            periods[after - 1], last = after - last, after
        width = max(width - 3, 6)
        percent += width
    return periods


APGD = Algorithm(
    "apgd",
    apgd,
    gradients=lambda steps, restarts: restarts * (steps + 1),
    values=lambda steps, restarts: 1,
    verifications=lambda restarts: restarts,
)
