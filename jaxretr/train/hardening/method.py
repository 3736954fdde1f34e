"""The interface of hardening methods: a function of one device's batch that returns losses and gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float32, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import Params
from jaxretr.train.objective import Objective

Hardening = Callable[[Objective, Params, PairBatch, Key[Array, ""] | None, Key[Array, ""]], tuple["Hardened", Params]]
"""(objective, parameters, this device's batch, dropout key, key) -> this device's losses and gradients.

The dropout key is specific to this device; None means no dropout. The other key is the same on every device and new in
every update. The random draws of a text depend on it and on the text's position in the global batch, so they do not
depend on the number of devices."""


class Hardened(NamedTuple):
    """Losses and accuracy of this device's rows in one hardened update; all are scalars.

    Attributes:
      loss: the loss that the gradients belong to.
      accuracy: accuracy of the clean batch, as in `LossMetrics`.
      clean_loss: loss of the batch without an adversary.
      adversarial_loss: loss of the perturbed batch, or the regularization term before its weight.
    """

    loss: Float32[Array, ""]
    accuracy: Float32[Array, ""]
    clean_loss: Float32[Array, ""]
    adversarial_loss: Float32[Array, ""]


def weighted_sum(grads: Params, weight: float, others: Params) -> Params:
    """Return grads + weight * others, leaf by leaf."""
    return jax.tree.map(lambda a, b: a + weight * b, grads, others)
