"""Attacks that see scores and no gradient: the tests for a model that hides its gradient.

Arguments and results are the same as in `jaxretr.attack.gradient.pgd`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

from jaxretr.attack.gradient.pgd import cosine
from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, Epsilon, Objective, PerturbationSpace, split_keys
from jaxretr.perturb.balls import Norm

ROUNDS, PAIRS = 10, 50
"""`black_box` estimates the gradient from 50 pairs of points in each of 10 rounds: 1,000 scores."""
_REACH = 0.1  # distance of a pair from its center, as a share of the radius


@partial(jax.jit, static_argnames=("objective", "norm", "draws"))
def random_draws(
    objective: Objective,
    context: Any,
    embeds: Float32[Array, "queries length hidden"],
    attackable: Bool[Array, "queries length"],
    epsilon: Epsilon,
    keys: Key[Array, " queries"],
    *,
    norm: Norm,
    draws: int,
) -> BestPerturbation:
    """Return the best of `draws` random points of the ball, the baseline of every gradient attack. Costs draws + 1."""
    space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm)

    def draw(best: BestPerturbation, keys: Key[Array, " queries"]) -> tuple[BestPerturbation, None]:
        delta = space.draw(keys)
        return best.or_better(delta, space.value(delta)), None

    return jax.lax.scan(draw, space.clean(), split_keys(keys, draws))[0]


@partial(jax.jit, static_argnames=("objective", "norm"))
def black_box(
    objective: Objective,
    context: Any,
    embeds: Float32[Array, "queries length hidden"],
    attackable: Bool[Array, "queries length"],
    epsilon: Epsilon,
    keys: Key[Array, " queries"],
    *,
    norm: Norm,
) -> BestPerturbation:
    """Ascend along gradients that are estimated from differences of scores at pairs of opposite random points.

    The estimate is that of natural evolution strategies (Ilyas et al. 2018, arXiv 1804.08598), summed over all rounds.
    In n dimensions, m pairs recover about sqrt(m / n) of the length of the gradient. Costs 1,011.
    """
    space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm)
    near = space.within(_REACH * space.epsilon)

    def ascend(state: tuple[Array, Array, BestPerturbation], inputs: tuple[Array, Array]) -> tuple[Any, None]:
        delta, gradient, best = state
        fraction, keys = inputs

        def compare(total: Array, keys: Key[Array, " queries"]) -> tuple[Array, None]:
            offset = near.draw(keys)
            rise = space.value(delta + offset) - space.value(delta - offset)
            return total + rise[:, None, None] * offset, None

        gradient, _ = jax.lax.scan(compare, gradient, split_keys(keys, PAIRS))
        delta = space.step(delta, gradient, fraction * space.epsilon)
        return (delta, gradient, best.or_better(delta, space.value(delta))), None

    zero = jnp.zeros_like(embeds)
    rounds = (cosine(ROUNDS), split_keys(keys, ROUNDS))
    return jax.lax.scan(ascend, (zero, zero, space.clean()), rounds)[0][2]


def _search_random(*batch: Any, norm: Norm, steps: int, restarts: int) -> BestPerturbation:
    return random_draws(*batch, norm=norm, draws=steps * restarts)


def _search_black_box(*batch: Any, norm: Norm, **_: int) -> BestPerturbation:
    return black_box(*batch, norm=norm)


RANDOM = Algorithm(
    "random",
    _search_random,
    gradients=lambda steps, restarts: 0,
    values=lambda steps, restarts: steps * restarts + 1,
)
BLACK_BOX = Algorithm(
    "black_box",
    _search_black_box,
    gradients=lambda steps, restarts: 0,
    values=lambda steps, restarts: ROUNDS * (2 * PAIRS + 1) + 1,
)
