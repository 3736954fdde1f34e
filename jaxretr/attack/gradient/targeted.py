"""Ascents that do not start from the plain margin: toward single distractors, and from moves toward another language.

Input: a `PerturbationSpace` whose objective is a `QueryObjective`. Output: perturbations. Both attacks leave local
maxima of the margin near the clean point, where `pgd` stops.
"""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxretr.attack.gradient.losses import Margin
from jaxretr.attack.gradient.objective import QueryObjective
from jaxretr.attack.gradient.pgd import climb
from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, PerturbationSpace

DISTRACTORS = 9
"""Number of distractors that `targeted` ascends toward, as the targeted attacks of AutoAttack (arXiv 2003.01690)."""


def targeted(space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int) -> BestPerturbation:
    """Raise the score of one distractor over the best relevant score, for each of the nine nearest distractors.

    The result is the best of the nine end points under `objective`. Neighbors of a distractor rise with it, so the
    whole top k can fall. Each ascent takes a third of the steps; `keys` and `restarts` are not used. Costs
    9 * (3 ceil(steps / 3) + 2) + 2.
    """
    context, objective = space.context, cast(QueryObjective, space.objective)
    toward_one = dataclasses.replace(objective, loss=Margin(1))
    scores = jnp.where(context.irrelevant, objective.scores(context, space.embeds), -jnp.inf)
    _, nearest = jax.lax.top_k(scores, min(DISTRACTORS, scores.shape[1]))

    def attempt(best: BestPerturbation, distractor: Array) -> tuple[BestPerturbation, None]:
        only = context._replace(irrelevant=jax.nn.one_hot(distractor, scores.shape[1], dtype=bool))
        aimed = space.aimed(toward_one, only)
        found = climb(aimed, aimed.zero, aimed.nothing(), -(-steps // 3))
        return best.or_better(found.delta, space.value(found.delta), found.zero_gradients), None

    return jax.lax.scan(attempt, space.clean(), nearest.T)[0]


def from_language(
    space: PerturbationSpace, keys: Key[Array, " queries"], steps: int, restarts: int
) -> BestPerturbation:
    """Ascend as `pgd` from a move of all tokens toward another language, the best of the context's `directions`.

    This attack adapts to models that were trained to align languages. `keys` and `restarts` are not used. Costs one
    forward pass per direction, and 3 * steps + 2.
    """
    edge = space.epsilon[:, None, None]

    def attempt(best: BestPerturbation, direction: Array) -> tuple[BestPerturbation, None]:
        delta = edge * space.steepest(space.attackable[:, :, None] * direction[:, None])
        return best.or_better(delta, space.value(delta)), None

    best, _ = jax.lax.scan(attempt, space.clean(), jnp.moveaxis(space.context.directions, 1, 0))
    return climb(space, best.delta, best, steps)


TARGETED = Algorithm(
    "targeted",
    targeted,
    gradients=lambda steps, restarts: DISTRACTORS * -(-steps // 3),
    values=lambda steps, restarts: 2 * DISTRACTORS + 2,
    verifications=lambda restarts: DISTRACTORS,
)
FROM_LANGUAGE = Algorithm(
    "from_language",
    from_language,
    gradients=lambda steps, restarts: steps,
    values=lambda steps, restarts: 2,
    uses_directions=True,
    verifications=lambda restarts: 1,
)
