"""Ascents that do not start from the plain margin: toward single distractors, and from moves toward another language.

Arguments and results are the same as in `jaxretr.attack.gradient.pgd`; the objective is a `QueryObjective`. Both
attacks leave local maxima of the margin near the clean point, where `pgd` stops.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

from jaxretr.attack.gradient.losses import Margin
from jaxretr.attack.gradient.objective import QueryObjective, Target
from jaxretr.attack.gradient.pgd import climb
from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, Epsilon, PerturbationSpace
from jaxretr.perturb.balls import Norm

DISTRACTORS = 9
"""Number of distractors that `targeted` ascends toward, as the targeted attacks of AutoAttack (arXiv 2003.01690)."""


@partial(jax.jit, static_argnames=("objective", "norm", "steps", "restarts"))
def targeted(
    objective: QueryObjective,
    context: Target,
    embeds: Float32[Array, "queries length hidden"],
    attackable: Bool[Array, "queries length"],
    epsilon: Epsilon,
    keys: Key[Array, " queries"],
    *,
    norm: Norm,
    steps: int = 30,
    restarts: int = 1,
) -> BestPerturbation:
    """Raise the score of one distractor over the best relevant score, for each of the nine nearest distractors.

    The result is the best of the nine end points under `objective`. Neighbors of a distractor rise with it, so the
    whole top k can fall. Each ascent takes a third of the steps; `keys` and `restarts` are not used. Costs
    9 * (3 ceil(steps / 3) + 2) + 2.
    """
    space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm)
    toward_one = dataclasses.replace(objective, loss=Margin(1))
    scores = jnp.where(context.irrelevant, objective.scores(context, embeds), -jnp.inf)
    _, nearest = jax.lax.top_k(scores, min(DISTRACTORS, scores.shape[1]))

    def attempt(best: BestPerturbation, distractor: Array) -> tuple[BestPerturbation, None]:
        only = context._replace(irrelevant=jax.nn.one_hot(distractor, scores.shape[1], dtype=bool))
        aimed = PerturbationSpace(toward_one, only, embeds, attackable, epsilon, norm)
        found = climb(aimed, jnp.zeros_like(embeds), aimed.nothing(), -(-steps // 3))
        return best.or_better(found.delta, space.value(found.delta), found.zero_gradients), None

    return jax.lax.scan(attempt, space.clean(), nearest.T)[0]


@partial(jax.jit, static_argnames=("objective", "norm", "steps", "restarts"))
def from_language(
    objective: QueryObjective,
    context: Target,
    embeds: Float32[Array, "queries length hidden"],
    attackable: Bool[Array, "queries length"],
    epsilon: Epsilon,
    keys: Key[Array, " queries"],
    *,
    norm: Norm,
    steps: int = 30,
    restarts: int = 1,
) -> BestPerturbation:
    """Ascend as `pgd` from a move of all tokens toward another language, the best of `context.directions`.

    This attack adapts to models that were trained to align languages. `keys` and `restarts` are not used. Costs one
    forward pass per direction, and 3 * steps + 2.
    """
    space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm)
    edge = space.epsilon[:, None, None]
    if context.directions is None:
        raise ValueError("the context has no directions; pass the mean offsets to other languages")

    def attempt(best: BestPerturbation, direction: Array) -> tuple[BestPerturbation, None]:
        delta = edge * space.steepest(attackable[:, :, None] * direction[:, None])
        return best.or_better(delta, space.value(delta)), None

    best, _ = jax.lax.scan(attempt, space.clean(), jnp.moveaxis(context.directions, 1, 0))
    return climb(space, best.delta, best, steps)


TARGETED = Algorithm(
    "targeted",
    targeted,
    gradients=lambda steps, restarts: DISTRACTORS * -(-steps // 3),
    values=lambda steps, restarts: 2 * DISTRACTORS + 2,
)
FROM_LANGUAGE = Algorithm(
    "from_language",
    from_language,
    gradients=lambda steps, restarts: steps,
    values=lambda steps, restarts: 2,
    uses_directions=True,
)
