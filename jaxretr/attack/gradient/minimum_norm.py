"""Minimum-norm attacks: the smallest perturbation that loses a query.

Input: a `PerturbationSpace`. Its radius is the largest that counts, and its objective must be positive exactly if the
query is lost, as `Margin` is. Output: per query, the smallest losing perturbation that was found. A query without one
keeps the zero perturbation, and its loss is not positive.

One minimum-norm search replaces a ladder of attacks at fixed radii: the size of its result gives robust success at
every radius.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from jaxretr.attack.gradient.pgd import climb, cosine
from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, PerturbationSpace, choose, split_keys

_RADIUS_STEP = 0.2  # share by which the radius changes in the first step; it falls along the cosine
_SHRUNK = 0.97  # `core` searches within this share of the smallest radius found
_SCALES = (0.8, 0.88, 0.92, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995)  # multiples of a result that `_polished` tries
_FURTHER_SCALES = (1.0, 1.01, 1.03, 1.1)  # multiples of a result in bfloat16, which may not lose in float32


class _Walk(NamedTuple):
    """State of one search.

    Attributes:
      delta: the current point.
      radius: the current radius; the walk stays within it.
      best: the smallest losing point so far.
      size: its size; infinite if there is none.
    """

    delta: Float32[Array, "queries length hidden"]
    radius: Float32[Array, " queries"]
    best: BestPerturbation
    size: Float32[Array, " queries"]


def fmn(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Search for the smallest losing perturbation by steps within a radius that adapts.

    Fast minimum norm (Pintor et al. 2021, arXiv 2102.12827). Before a query is lost, the radius is the distance at
    which a linear objective would lose it. Then the radius shrinks while the point is losing, and grows while it is
    not. The first run starts at zero; the others start at random points of the smallest losing ball. Here the step is a
    multiple of the radius, from 2 to 0 along a cosine, as in `pgd`. Costs restarts * (3 steps + 1) + 9.
    """
    return _polished(space, *_restarted(space, keys, steps, restarts))


def core(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Return the smallest losing perturbation of several searches.

    The searches are `fmn` from zero, `fmn` from `restarts` random points, and one ascent as in `pgd`. The ascent starts
    from the smallest result of `fmn`, projected onto a ball of 97 % of its size, and stays in this ball.

    Costs (restarts + 1) * (3 steps + 1) + 3 ceil(steps / 3) + 10: 222 by default.
    """
    best, size = _restarted(space, keys, steps, restarts + 1)
    smaller = space.within(_SHRUNK * jnp.minimum(size, space.epsilon))
    start = choose(jnp.isfinite(size), smaller.project(best.delta), space.zero)
    found = climb(smaller, start, smaller.nothing(), -(-steps // 3))
    return _polished(space, *_smaller(space, best, size, found))


def _restarted(
    space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int
) -> tuple[BestPerturbation, Float32[Array, " queries"]]:
    """Return the smallest losing perturbation of several runs, and its size."""

    def restart(state: tuple[BestPerturbation, Array], start: tuple[Array, Array]) -> tuple[Any, None]:
        best, size = state
        keys, number = start
        at_random = space.within(jnp.minimum(size, space.epsilon)).draw(keys)
        return _walk(space, jnp.where(number == 0, 0, at_random), best, size, steps), None

    start = (space.nothing(), jnp.full(len(keys), jnp.inf))
    return jax.lax.scan(restart, start, (split_keys(keys, restarts), jnp.arange(restarts)))[0]


def _walk(
    space: PerturbationSpace,
    start: Float32[Array, "queries length hidden"],
    best: BestPerturbation,
    size: Float32[Array, " queries"],
    steps: int,
) -> tuple[BestPerturbation, Float32[Array, " queries"]]:
    def step(walk: _Walk, fraction: Array) -> tuple[_Walk, None]:
        loss, gradient, zero = space.ascend(walk.delta)
        at = space.size(walk.delta)
        best, size = _smaller(space, walk.best, walk.size, BestPerturbation(walk.delta, loss, zero))
        change = 1e-3 + _RADIUS_STEP * fraction / 2
        # A little beyond the distance at which a linear objective is zero, so that rounding does not stop short of it.
        linear = (1 + change) * (at - loss / jnp.maximum(space.slope(gradient), jnp.finfo(jnp.float32).tiny))
        radius = jnp.where(
            loss > 0,
            jnp.minimum(walk.radius, at) * (1 - change),
            jnp.where(jnp.isfinite(size), walk.radius * (1 + change), linear),
        )
        # No point beyond the smallest losing point or the largest radius that counts is worth a visit.
        radius = jnp.minimum(radius, jnp.minimum(space.epsilon, (1 - change / 2) * size))
        inside = space.within(radius)
        return _Walk(inside.step(walk.delta, gradient, fraction * radius), radius, best, size), None

    walk = _Walk(start, jnp.full_like(size, jnp.inf), best, size)
    walk, _ = jax.lax.scan(step, walk, cosine(steps))
    loss = space.value(walk.delta)
    return _smaller(
        space, walk.best, walk.size, BestPerturbation(walk.delta, loss, jnp.zeros_like(best.zero_gradients))
    )


def _smaller(
    space: PerturbationSpace,
    best: BestPerturbation,
    size: Float32[Array, " queries"],
    found: BestPerturbation,
) -> tuple[BestPerturbation, Float32[Array, " queries"]]:
    """Keep the smaller losing point of each query, and its size; add up the zero gradients."""
    at = space.size(found.delta)
    better = (found.loss > 0) & (at < size) & (at <= space.epsilon * (1 + 1e-6))
    kept = BestPerturbation(
        choose(better, found.delta, best.delta),
        jnp.where(better, found.loss, best.loss),
        best.zero_gradients + found.zero_gradients,
    )
    return kept, jnp.where(better, at, size)


def _polished(space: PerturbationSpace, found: BestPerturbation, size: Float32[Array, " queries"]) -> BestPerturbation:
    """Try multiples of each result, and return the smallest that loses in float32."""

    def attempt(state: tuple[BestPerturbation, Array], scale: Array) -> tuple[Any, None]:
        delta = scale * found.delta
        scaled = BestPerturbation(delta, space.value(delta), jnp.zeros_like(found.zero_gradients))
        return _smaller(space, *state, scaled), None

    if space.is_exact:
        return jax.lax.scan(attempt, (found, size), jnp.array(_SCALES))[0][0]
    nothing = space.nothing()._replace(zero_gradients=found.zero_gradients)
    scales = jnp.array((*_SCALES, *_FURTHER_SCALES))
    return jax.lax.scan(attempt, (nothing, jnp.full_like(size, jnp.inf)), scales)[0][0]


FMN = Algorithm(
    "fmn",
    fmn,
    gradients=lambda steps, restarts: restarts * steps,
    values=lambda steps, restarts: restarts + len(_SCALES),
    minimal=True,
    verifications=lambda restarts: len(_FURTHER_SCALES),
)
CORE = Algorithm(
    "core",
    core,
    gradients=lambda steps, restarts: (restarts + 1) * steps + -(-steps // 3),
    values=lambda steps, restarts: restarts + 2 + len(_SCALES),
    minimal=True,
    verifications=lambda restarts: 1 + len(_FURTHER_SCALES),
)
