"""FGM, PGD and random draws. Input: an objective and clean embeddings. Output: perturbations.

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

PGD, APGD (`jaxretr.attack.gradient.apgd`) and random draws return the best point they visit, the clean point included,
so they never do worse than no attack. Costs are in forward passes of the batch; a gradient costs about three.
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
    """Ascend by projected gradient steps of 2.5 epsilon / `steps` from random starts (Madry et al., arXiv 1706.06083).

    Costs restarts * (3 steps + 1) + 1.
    """
    space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm)

    def restart(best: BestPerturbation, keys: Key[Array, " queries"]) -> tuple[BestPerturbation, None]:
        def step(state: tuple[Array, BestPerturbation], _: None) -> tuple[tuple[Array, BestPerturbation], None]:
            delta, best = state
            loss, gradient, zero = space.ascend(delta)
            return (space.step(delta, gradient, 2.5 / steps * space.epsilon), best.or_better(delta, loss, zero)), None

        (delta, best), _ = jax.lax.scan(step, (space.draw(keys), best), length=steps)
        return best.or_better(delta, space.value(delta)), None

    return jax.lax.scan(restart, space.clean(), split_keys(keys, restarts))[0]


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


def _search_fgm(*batch: Any, norm: Norm, **_: int) -> BestPerturbation:
    return fgm(*batch[:-1], norm=norm)  # without keys


def _search_random(*batch: Any, norm: Norm, steps: int, restarts: int) -> BestPerturbation:
    return random_draws(*batch, norm=norm, draws=steps * restarts)


FGM = Algorithm("fgm", _search_fgm, gradients=lambda steps, restarts: 1, values=lambda steps, restarts: 1)
PGD = Algorithm(
    "pgd", pgd, gradients=lambda steps, restarts: restarts * steps, values=lambda steps, restarts: restarts + 1
)
RANDOM = Algorithm(
    "random",
    _search_random,
    gradients=lambda steps, restarts: 0,
    values=lambda steps, restarts: steps * restarts + 1,
)
