"""From a layer's token vectors to what an attack maximises: encoder, what stays fixed, and a loss put together.

In: token vectors of a batch, perturbed or not, and a context that the attack leaves fixed: `Target` for queries,
`LanguageTarget` for their language bias, `PassageTarget` for passages. Out: one value a row. A context is a pytree that
goes into the compiled attack as an argument; what decides the function is hashable.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int

from jaxretr.attack.gradient.losses import Loss
from jaxretr.model.functions import EncoderFunctions, Params

Layer = Literal["word", "post_ln"]
"""Which vectors are perturbed: word embeddings, before position, token type and LayerNorm; or those after all three,
which the first transformer layer reads."""


@dataclass(frozen=True)
class SplitEncoder:
    """An encoder cut open at the layer that is perturbed.

    Attributes:
      functions: in float32 for the figures that count; there is no dropout.
      layer: where it is cut.
    """

    functions: EncoderFunctions
    layer: Layer = "word"

    def clean(
        self, params: Params, ids: Int[Array, "rows length"], mask: Bool[Array, "rows length"]
    ) -> Float32[Array, "rows length hidden"]:
        """The token vectors at the layer."""
        embeds = self.functions.embed_tokens(params, ids)
        return self.functions.normalize_embeds(params, embeds, mask) if self.layer == "post_ln" else embeds

    def encode(
        self, params: Params, vectors: Float32[Array, "rows length hidden"], mask: Bool[Array, "rows length"]
    ) -> Float32[Array, "rows dim"]:
        """Unit embeddings from there."""
        if self.layer == "post_ln":
            return self.functions.encode_normalized(params, vectors, mask)
        return self.functions.encode(params, vectors, mask)


class Target(NamedTuple):
    """What an attack on a batch of queries leaves fixed.

    Attributes:
      params: the encoder's parameters.
      mask: True for the queries' real tokens.
      passages: embeddings of each query's relevant passages and hard negatives.
      relevant, irrelevant: which of `passages` count as what, see `jaxretr.attack.gradient.losses`.
    """

    params: Params
    mask: Bool[Array, "queries length"]
    passages: Float32[Array, "queries passages dim"]
    relevant: Bool[Array, "queries passages"]
    irrelevant: Bool[Array, "queries passages"]


@dataclass(frozen=True)
class QueryObjective:
    """The loss of queries as a function of their token vectors."""

    encoder: SplitEncoder
    loss: Loss

    def __call__(self, target: Target, vectors: Float32[Array, "queries length hidden"]) -> Float32[Array, " queries"]:
        return self.loss(self.scores(target, vectors), target.relevant, target.irrelevant)

    def scores(
        self, target: Target, vectors: Float32[Array, "queries length hidden"]
    ) -> Float32[Array, "queries passages"]:
        """Inner products in full float32 of the queries' embeddings with the passages'."""
        return _scores(self.encoder.encode(target.params, vectors, target.mask), target.passages)


class LanguageTarget(NamedTuple):
    """What an attack on the language bias of queries leaves fixed.

    Attributes:
      params, mask, passages: as in `Target`.
      favoured: passages in the language that the attacker pushes up; `others`: all the rest.
      relevant: passages whose best score is to stay, whatever their language.
      floor: that score of the clean query.
    """

    params: Params
    mask: Bool[Array, "queries length"]
    passages: Float32[Array, "queries passages dim"]
    favoured: Bool[Array, "queries passages"]
    others: Bool[Array, "queries passages"]
    relevant: Bool[Array, "queries passages"]
    floor: Float32[Array, " queries"]


@dataclass(frozen=True)
class LanguageObjective:
    """How far score mass has moved to one language at fixed relevance.

        logsumexp(s / T over favoured) - logsumexp(s / T over others) - weight * max(floor - s+, 0) / T

    Attributes:
      encoder: see `SplitEncoder`.
      temperature: T, in units of the scores.
      weight: of the penalty on a fall of the best relevant score s+.
    """

    encoder: SplitEncoder
    temperature: float = 0.02
    weight: float = 10.0

    def __call__(
        self, target: LanguageTarget, vectors: Float32[Array, "queries length hidden"]
    ) -> Float32[Array, " queries"]:
        scores = _scores(self.encoder.encode(target.params, vectors, target.mask), target.passages)
        best = jnp.max(scores, axis=1, where=target.relevant, initial=-jnp.inf)
        scaled = scores / self.temperature
        moved = jax.nn.logsumexp(scaled, axis=1, where=target.favoured) - jax.nn.logsumexp(
            scaled, axis=1, where=target.others
        )
        return moved - self.weight * jnp.maximum(target.floor - best, 0) / self.temperature


class PassageTarget(NamedTuple):
    """What an attack on a batch of passages leaves fixed: the parameters, the real tokens, and a query for each."""

    params: Params
    mask: Bool[Array, "passages length"]
    queries: Float32[Array, "passages dim"]


@dataclass(frozen=True)
class PassageObjective:
    """A passage's score for its query, or its negative: no other score changes, so its rank follows this alone.

    Attributes:
      encoder: see `SplitEncoder`.
      promote: whether the passage is to rise; otherwise it is to fall.
    """

    encoder: SplitEncoder
    promote: bool

    def __call__(
        self, target: PassageTarget, vectors: Float32[Array, "passages length hidden"]
    ) -> Float32[Array, " passages"]:
        passages = self.encoder.encode(target.params, vectors, target.mask)
        scores = jnp.sum(passages * target.queries, axis=1)
        return scores if self.promote else -scores


def _scores(
    queries: Float32[Array, "queries dim"], passages: Float32[Array, "queries passages dim"]
) -> Float32[Array, "queries passages"]:
    return jnp.einsum("qd,qpd->qp", queries, passages, precision=jax.lax.Precision.HIGHEST)
