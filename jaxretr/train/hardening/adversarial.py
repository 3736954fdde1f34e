"""Training on word embeddings that an adversary has moved within balls, to raise the loss of the batch.

In: the objective, parameters and this device's share of a batch. Out: losses and gradients of the parameters, as a
`Hardening` returns them. Queries and passages move together. The adversary's gradient is that of the sum of all
devices' losses, for the transpose of `parallel.gather` adds up; only its direction counts. It attacks the network that
is updated: dropout drops the same entries in all passes of an update.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import Params
from jaxretr.train.hardening.method import Hardened, weighted_sum
from jaxretr.train.hardening.space import Budget, Space, moved
from jaxretr.train.loss import Contrast
from jaxretr.train.objective import Objective, Words


def fgm(
    objective: Objective,
    params: Params,
    batch: PairBatch,
    dropout_key: Key[Array, ""] | None,
    key: Key[Array, ""],
    *,
    budget: Budget,
    weight: float,
) -> tuple[Hardened, Params]:
    """The clean loss, plus `weight` times the loss one step along the steepest direction away.

    The step is as long as the radius. Miyato et al. (2017), arXiv 1605.07725, eq. 5 and 6, there with the norm
    `frobenius`. Costs two gradients; nothing is drawn from `key`.
    """
    del key
    loss = _loss(objective, batch, dropout_key)
    words = objective.words(params, batch)
    space = Space.of(words, batch, budget)
    zero = space.clean(words)
    (clean, accuracy), (grads, gradient) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, zero)
    delta = space.ascend(zero, gradient, 1.0)
    (adversarial, _), adversarial_grads = jax.value_and_grad(loss, has_aux=True)(params, delta)
    return (
        Hardened(clean + weight * adversarial, accuracy, clean, adversarial),
        weighted_sum(grads, weight, adversarial_grads),
    )


def pgd(
    objective: Objective,
    params: Params,
    batch: PairBatch,
    dropout_key: Key[Array, ""] | None,
    key: Key[Array, ""],
    *,
    budget: Budget,
    steps: int,
    weight: float,
) -> tuple[Hardened, Params]:
    """The clean loss, plus `weight` times the loss where projected gradient ascent from a random start ends.

    `steps` steps of 2.5 radii / `steps`. Madry et al. (2018), arXiv 1706.06083, who train without the clean term. Costs
    `steps` + 2 gradients.
    """
    loss = _loss(objective, batch, dropout_key)
    words = objective.words(params, batch)
    space = Space.of(words, batch, budget)

    def step(delta: Words, _: None) -> tuple[Words, None]:
        gradient, _accuracy = jax.grad(loss, argnums=1, has_aux=True)(params, delta)
        return space.ascend(delta, gradient, 2.5 / steps), None

    delta, _ = jax.lax.scan(step, space.draw(words, key), length=steps)
    (clean, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, space.clean(words))
    (adversarial, _), adversarial_grads = jax.value_and_grad(loss, has_aux=True)(params, delta)
    return (
        Hardened(clean + weight * adversarial, accuracy, clean, adversarial),
        weighted_sum(grads, weight, adversarial_grads),
    )


def freelb(
    objective: Objective,
    params: Params,
    batch: PairBatch,
    dropout_key: Key[Array, ""] | None,
    key: Key[Array, ""],
    *,
    budget: Budget,
    steps: int,
) -> tuple[Hardened, Params]:
    """The mean loss at the `steps` points that projected gradient ascent visits, the random start first.

    Each point costs one gradient, for that of the parameters comes with that of the perturbation; a forward pass
    measures the clean loss. Steps of 2.5 radii / `steps`. Zhu et al. (2020), arXiv 1909.11764, algorithm 1.
    """
    loss = _loss(objective, batch, dropout_key)
    words = objective.words(params, batch)
    space = Space.of(words, batch, budget)

    def step(state: tuple[Words, Array, Params], _: None) -> tuple[tuple[Words, Array, Params], None]:
        delta, total, sums = state
        (value, _accuracy), (grads, gradient) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, delta)
        ascended = space.ascend(delta, gradient, 2.5 / steps)
        return (ascended, total + value / steps, weighted_sum(sums, 1 / steps, grads)), None

    start = (space.draw_entries(words, key), jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    (_, adversarial, grads), _ = jax.lax.scan(step, start, length=steps)
    clean = loss(params, space.clean(words))
    return Hardened(adversarial, clean.accuracy, clean.loss, adversarial), grads


def _loss(
    objective: Objective, batch: PairBatch, dropout_key: Key[Array, ""] | None
) -> Callable[[Params, Words], Contrast]:
    """The loss as a function of parameters and perturbation."""

    def loss(params: Params, delta: Words) -> Contrast:
        words = moved(objective.words(params, batch), delta)
        return objective.contrast(objective.sentences(params, words, batch, dropout_key), batch)

    return loss
