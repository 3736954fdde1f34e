"""From word embeddings of queries to what an attack maximises: encoder, fixed passages and loss put together.

In: word embeddings, perturbed or not, and a `Target`. Out: one value a query. What does not change during an attack
is a pytree that goes into its compiled function as an argument; what decides the function is hashable.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from jaxretr.attack.embedding.losses import Loss
from jaxretr.model.functions import EncoderFunctions, Params


class Target(NamedTuple):
    """What an attack on a batch of queries leaves fixed; a JAX pytree.

    Attributes:
      params: the encoder's parameters.
      mask: True for the queries' real tokens.
      passages: embeddings of each query's relevant passages and hard negatives.
      relevant, irrelevant: which of `passages` count as what, see `jaxretr.attack.embedding.losses`.
    """

    params: Params
    mask: Bool[Array, "queries length"]
    passages: Float32[Array, "queries passages dim"]
    relevant: Bool[Array, "queries passages"]
    irrelevant: Bool[Array, "queries passages"]


@dataclass(frozen=True)
class QueryObjective:
    """The loss of queries as a function of their word embeddings, before position, token type and LayerNorm.

    Attributes:
      encoder: in float32 for the figures that count; there is no dropout.
      loss: see `jaxretr.attack.embedding.losses`.
    """

    encoder: EncoderFunctions
    loss: Loss

    def __call__(self, target: Target, embeds: Float32[Array, "queries length hidden"]) -> Float32[Array, " queries"]:
        return self.loss(self.scores(target, embeds), target.relevant, target.irrelevant)

    def scores(
        self, target: Target, embeds: Float32[Array, "queries length hidden"]
    ) -> Float32[Array, "queries passages"]:
        """Inner products in full float32 of the queries' embeddings with the passages'."""
        queries = self.encoder.encode(target.params, embeds, target.mask)
        return jnp.einsum("qd,qpd->qp", queries, target.passages, precision=jax.lax.Precision.HIGHEST)
