"""What every method of hardening is: a function of one device's batch that returns losses and gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float32, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import Params
from jaxretr.train.objective import Objective

Hardening = Callable[[Objective, Params, PairBatch, Key[Array, ""] | None, Key[Array, ""]], tuple["Hardened", Params]]
"""(objective, parameters, this device's batch, dropout key, key) -> this device's losses and gradients.

The dropout key is this device's own, None for no dropout. The other key is the same on every device and new in every
update; random draws for a text follow from it and the text's place in the global batch, so that they do not depend on
the number of devices.
"""


class Hardened(NamedTuple):
    """This device's share of one hardened update, all scalars.

    Attributes:
      loss: what the gradients are those of.
      accuracy: of the clean batch, as in `Contrast`.
      clean_loss: of the batch without an adversary.
      adversarial_loss: of the batch as the adversary left it, or the regularising term, before its weight.
    """

    loss: Float32[Array, ""]
    accuracy: Float32[Array, ""]
    clean_loss: Float32[Array, ""]
    adversarial_loss: Float32[Array, ""]


def weighted_sum(grads: Params, weight: float, others: Params) -> Params:
    """grads + weight * others, leaf by leaf."""
    return jax.tree.map(lambda a, b: a + weight * b, grads, others)
