"""Training on word embeddings that an adversary has moved within balls, to raise the loss of the batch.

In: the objective, parameters and this device's share of a batch. Out: losses and gradients of the parameters, as a
`Hardening` returns them. Queries and passages move together. The adversary's gradient is that of the sum of all
devices' losses, for the transpose of `parallel.gather` adds up; only its direction counts. It attacks the network that
is updated: dropout drops the same entries in all passes of an update.
"""

from collections.abc import Callable

import jax
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


def _loss(
    objective: Objective, batch: PairBatch, dropout_key: Key[Array, ""] | None
) -> Callable[[Params, Words], Contrast]:
    """The loss as a function of parameters and perturbation."""

    def loss(params: Params, delta: Words) -> Contrast:
        words = moved(objective.words(params, batch), delta)
        return objective.contrast(objective.sentences(params, words, batch, dropout_key), batch)

    return loss
