"""FGM and PGD. Input: an objective and clean embeddings. Output: perturbations.

Every attack takes the same arguments and is one compiled function of a batch of queries. Radii, embeddings and
everything in `context` may change without a new compilation.

    best = pgd(objective, context, embeds, attackable, epsilon, keys, norm="token_l2", steps=20, restarts=2)

- objective: (context, embeds) -> one value per query, to be maximized; hashable, such as `QueryObjective`. The value of
  a query may depend on its own embeddings only.
- context: a pytree of everything else that the objective needs, such as `Target`.
- embeds: clean embeddings, float32 [queries, length, hidden].
- attackable: bool [queries, length]; at other positions the perturbation is exactly zero.
- epsilon: radius, float32, a scalar or one per query. At 0 the perturbation is exactly zero.
- keys: one random key per query, for attacks with random draws. The result of a query does not depend on its batch.
- norm: norm of the ball, see `jaxretr.perturb.balls`.

All attacks but FGM return the best point they visit, the clean point included, so they never do worse than no attack.
Costs are in forward passes of the batch; a gradient costs about three.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

from jaxretr.attack.gradient.space import Algorithm, BestPerturbation, Epsilon, Objective, PerturbationSpace, split_keys
from jaxretr.perturb.balls import Norm


@partial(jax.jit, static_argnames=("objective", "norm"))
def fgm(
    objective: Objective,
    context: Any,
    embeds: Float32[Array, "queries length hidden"],
    attackable: Bool[Array, "queries length"],
    epsilon: Epsilon,
    *,
    norm: Norm,
) -> BestPerturbation:
    """Take one step of length epsilon along the steepest direction; with the norm `linf` this is FGSM. Costs 4.

    FGM is Miyato et al. (2017), arXiv 1605.07725, with the norm `frobenius`; FGSM is Goodfellow et al. (2015),
    arXiv 1412.6572. The result is this step, even if the objective is lower than at the clean point.
    """
    space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm)
    zero = jnp.zeros_like(embeds)
    _, gradient, zero_gradients = space.ascend(zero)
    delta = space.step(zero, gradient, space.epsilon)
    return BestPerturbation(delta, space.value(delta), zero_gradients)


@partial(jax.jit, static_argnames=("objective", "norm", "steps", "restarts"))
def pgd(
    objective: Objective,
    context: Any,
    embeds: Float32[Array, "queries length hidden"],
    attackable: Bool[Array, "queries length"],
    epsilon: Epsilon,
    keys: Key[Array, " queries"],
    *,
    norm: Norm,
    steps: int = 20,
    restarts: int = 1,
) -> BestPerturbation:
    """Ascend by projected gradient steps whose length falls from 2 epsilon to 0 along a cosine.

    The first run starts at zero, the other `restarts - 1` runs start at random points of the ball. Madry et al.
    (arXiv 1706.06083) start at random and take steps of one length. In hundreds of dimensions, a random point is at the
    edge of the ball in a useless direction; docs/robustness.md has figures of both. Costs restarts * (3 steps + 1) + 1.
    """
    space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm)

    def restart(best: BestPerturbation, start: tuple[Array, Array]) -> tuple[BestPerturbation, None]:
        keys, number = start
        return climb(space, jnp.where(number == 0, 0, space.draw(keys)), best, steps), None

    return jax.lax.scan(restart, space.clean(), (split_keys(keys, restarts), jnp.arange(restarts)))[0]


def climb(
    space: PerturbationSpace, start: Float32[Array, "queries length hidden"], best: BestPerturbation, steps: int
) -> BestPerturbation:
    """Return the best point of a walk whose step length falls from 2 epsilon to 0 along a cosine, or `best`.

    Costs 3 * steps + 1.
    """

    def step(state: tuple[Array, BestPerturbation], fraction: Array) -> tuple[tuple[Array, BestPerturbation], None]:
        delta, best = state
        loss, gradient, zero = space.ascend(delta)
        return (space.step(delta, gradient, fraction * space.epsilon), best.or_better(delta, loss, zero)), None

    (delta, best), _ = jax.lax.scan(step, (start, best), cosine(steps))
    return best.or_better(delta, space.value(delta))


def cosine(steps: int) -> Float32[Array, " steps"]:
    """Return factors that fall from 2 to nearly 0 along half a period of a cosine."""
    return 1 + jnp.cos(jnp.pi * jnp.arange(steps) / steps)


def _search_fgm(*batch: Any, norm: Norm, **_: int) -> BestPerturbation:
    return fgm(*batch[:-1], norm=norm)  # without keys


FGM = Algorithm("fgm", _search_fgm, gradients=lambda steps, restarts: 1, values=lambda steps, restarts: 1)
PGD = Algorithm(
    "pgd", pgd, gradients=lambda steps, restarts: restarts * steps, values=lambda steps, restarts: restarts + 1
)
