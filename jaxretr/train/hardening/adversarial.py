"""Adversarial training: word embeddings move within balls so that the loss of the batch rises.

Input: the objective, parameters and this device's rows of a batch. Output: losses and gradients of the parameters, as a
`Hardening` returns them. Queries and passages move together. The adversary ascends the sum of all devices' losses,
because the transpose of `parallel.gather` is a sum. The mean would give the same direction. The adversary attacks the
network that is updated: dropout drops the same entries in all passes of an update.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import Params
from jaxretr.train.hardening.method import Hardened, weighted_sum
from jaxretr.train.hardening.space import Budget, Space, moved
from jaxretr.train.loss import LossMetrics
from jaxretr.train.objective import Objective, WordEmbeddings


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
    """The clean loss plus `weight` times the loss after one step along the steepest direction.

    The step length is the radius. With the norm `frobenius`, this is the method of Miyato et al. (2017), arXiv
    1605.07725, eq. 5 and 6. Costs two gradients; `key` is not used.
    """
    del key
    loss = _loss(objective, batch, dropout_key)
    words = objective.word_embeddings(params, batch)
    space = Space.of(words, batch, budget)
    zero = space.zero(words)
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
    """The clean loss plus `weight` times the loss at the end of projected gradient ascent from a random start.

    The ascent takes `steps` steps of 2.5 radii / `steps`. Madry et al. (2018), arXiv 1706.06083, who train without the
    clean term. Costs `steps` + 2 gradients.
    """
    loss = _loss(objective, batch, dropout_key)
    words = objective.word_embeddings(params, batch)
    space = Space.of(words, batch, budget)

    def step(delta: WordEmbeddings, _: None) -> tuple[WordEmbeddings, None]:
        gradient, _accuracy = jax.grad(loss, argnums=1, has_aux=True)(params, delta)
        return space.ascend(delta, gradient, 2.5 / steps), None

    delta, _ = jax.lax.scan(step, space.draw(words, key), length=steps)
    (clean, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, space.zero(words))
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

    Each point costs one gradient, because one backward pass gives the gradients of parameters and perturbation. A
    forward pass measures the clean loss. Each step is 2.5 radii / `steps` long. Zhu et al. (2020), arXiv 1909.11764,
    algorithm 1.
    """
    loss = _loss(objective, batch, dropout_key)
    words = objective.word_embeddings(params, batch)
    space = Space.of(words, batch, budget)

    def step(state: tuple[WordEmbeddings, Array, Params], _: None) -> tuple[tuple[WordEmbeddings, Array, Params], None]:
        delta, total, sums = state
        (value, _accuracy), (grads, gradient) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, delta)
        ascended = space.ascend(delta, gradient, 2.5 / steps)
        return (ascended, total + value / steps, weighted_sum(sums, 1 / steps, grads)), None

    start = (space.draw_entries(words, key), jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    (_, adversarial, grads), _ = jax.lax.scan(step, start, length=steps)
    clean = loss(params, space.zero(words))
    return Hardened(adversarial, clean.accuracy, clean.loss, adversarial), grads


def _loss(
    objective: Objective, batch: PairBatch, dropout_key: Key[Array, ""] | None
) -> Callable[[Params, WordEmbeddings], LossMetrics]:
    """Return the loss as a function of parameters and perturbation."""

    def loss(params: Params, delta: WordEmbeddings) -> LossMetrics:
        words = moved(objective.word_embeddings(params, batch), delta)
        return objective.loss(objective.sentence_embeddings(params, words, batch, dropout_key), batch)

    return loss
