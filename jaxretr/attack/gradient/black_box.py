"""Attacks that see scores and no gradient: the tests for a model that hides its gradient.

Input: a `PerturbationSpace`. Output: perturbations.
"""

from typing import Any

import jax
from jaxtyping import Array, Key

from jaxretr.attack.gradient.pgd import cosine
from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, PerturbationSpace, split_keys

ROUNDS, PAIRS = 10, 50
"""`black_box` estimates the gradient from 50 pairs of points in each of 10 rounds: 1,000 scores."""
_REACH = 0.1  # distance of a pair from its center, as a share of the radius


def random_draws(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Return the best of `steps` random points of the ball per restart, the baseline of every gradient attack.

    Costs steps * restarts + 1.
    """

    def draw(best: BestPerturbation, keys: Key[Array, " queries"]) -> tuple[BestPerturbation, None]:
        delta = space.draw(keys)
        return best.or_better(delta, space.value(delta)), None

    return jax.lax.scan(draw, space.clean(), split_keys(keys, steps * restarts))[0]


def black_box(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Ascend along gradients that are estimated from differences of scores at pairs of opposite random points.

    The estimate is that of natural evolution strategies (Ilyas et al. 2018, arXiv 1804.08598), summed over all rounds.
    In n dimensions, m pairs recover about sqrt(m / n) of the length of the gradient. `steps` and `restarts` are not
    used. Costs 1,011.
    """
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

    rounds = (cosine(ROUNDS), split_keys(keys, ROUNDS))
    return jax.lax.scan(ascend, (space.zero, space.zero, space.clean()), rounds)[0][2]


RANDOM = Algorithm(
    "random",
    random_draws,
    gradients=lambda steps, restarts: 0,
    values=lambda steps, restarts: steps * restarts + 1,
)
BLACK_BOX = Algorithm(
    "black_box",
    black_box,
    gradients=lambda steps, restarts: 0,
    values=lambda steps, restarts: ROUNDS * (2 * PAIRS + 1) + 1,
)
