"""Gradient attacks in the embedding space: an objective and clean embeddings come in, perturbations go out.

Every attack takes the same arguments and is one compiled function of a batch of queries: radii, embeddings and
everything in `context` may change without compiling again.

    attack = pgd(objective, context, embeds, attackable, epsilon, keys, norm="token_l2", steps=20, restarts=2)

- objective: (context, embeds) -> one value a query, to be maximised; hashable, such as `QueryObjective`. The value of
  a query may depend on its own embeddings only.
- context: a pytree of what the objective needs besides, such as `Target`.
- embeds: clean embeddings, float32 [queries, length, hidden].
- attackable: bool [queries, length]; elsewhere the perturbation is exactly zero.
- epsilon: radius, float32, a scalar or one a query. At 0 the perturbation is exactly zero.
- keys: random keys, one a query, for the attacks that draw; a query's result does not depend on its batch.
- norm: which ball, see `jaxretr.perturb.balls`.

PGD, APGD (`jaxretr.attack.embedding.apgd`) and random draws return the best point they have seen, the clean one
included, so they never do worse than no attack. A gradient costs about three forward passes, hence the costs below in
forward passes of the batch.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

from jaxretr.attack.embedding.space import Attack, Epsilon, Objective, Space, split_keys
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
) -> Attack:
    """One step of length epsilon along the steepest direction; with `linf` this is FGSM. Costs 4.

    FGM is Miyato et al. (2017), arXiv 1605.07725, there in the norm `frobenius`; FGSM is Goodfellow et al. (2015),
    arXiv 1412.6572. The step is taken even where it does not pay.
    """
    space = Space(objective, context, embeds, attackable, epsilon, norm)
    zero = jnp.zeros_like(embeds)
    _, gradient, dead = space.ascend(zero)
    delta = space.step(zero, gradient, space.epsilon)
    return Attack(delta, space.value(delta), dead)


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
) -> Attack:
    """Projected gradient ascent from random starts, in steps of 2.5 epsilon / `steps` (Madry et al., arXiv 1706.06083).

    Costs restarts * (3 steps + 1) + 1.
    """
    space = Space(objective, context, embeds, attackable, epsilon, norm)

    def restart(best: Attack, keys: Key[Array, " queries"]) -> tuple[Attack, None]:
        def step(state: tuple[Array, Attack], _: None) -> tuple[tuple[Array, Attack], None]:
            delta, best = state
            loss, gradient, dead = space.ascend(delta)
            return (space.step(delta, gradient, 2.5 / steps * space.epsilon), best.or_better(delta, loss, dead)), None

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
) -> Attack:
    """The best of `draws` random points of the ball: what an attack with gradients must beat. Costs draws + 1."""
    space = Space(objective, context, embeds, attackable, epsilon, norm)

    def draw(best: Attack, keys: Key[Array, " queries"]) -> tuple[Attack, None]:
        delta = space.draw(keys)
        return best.or_better(delta, space.value(delta)), None

    return jax.lax.scan(draw, space.clean(), split_keys(keys, draws))[0]
