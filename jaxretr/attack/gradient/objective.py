"""Map the token vectors of a layer to the value that an attack maximizes, with an encoder, fixed inputs and a loss.

Input: token vectors of a batch, perturbed or not, and a context that the attack does not change: `Target` for queries,
`LanguageTarget` for their language bias, `PassageTarget` for passages. Output: one value per row. A context is a pytree
and an argument of the compiled attack; everything that determines the compiled function is hashable.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int

from jaxretr.attack.gradient.losses import Loss, scores_of
from jaxretr.model.functions import EncoderFunctions, Params

Layer = Literal["word", "post_ln"]
"""The perturbed vectors: word embeddings, before position, token type and LayerNorm (`word`); or the vectors after all
three, which the first transformer layer reads (`post_ln`)."""


@dataclass(frozen=True)
class SplitEncoder:
    """An encoder split at the perturbed layer.

    Attributes:
      functions: the encoder, without dropout; in float32 for reported figures.
      layer: the perturbed layer.
    """

    functions: EncoderFunctions
    layer: Layer = "word"

    def clean(
        self, params: Params, ids: Int[Array, "rows length"], mask: Bool[Array, "rows length"]
    ) -> Float32[Array, "rows length hidden"]:
        """Return the token vectors at the layer."""
        embeds = self.functions.embed_tokens(params, ids)
        return self.functions.normalize_embeds(params, embeds, mask) if self.layer == "post_ln" else embeds

    def encode(
        self, params: Params, vectors: Float32[Array, "rows length hidden"], mask: Bool[Array, "rows length"]
    ) -> Float32[Array, "rows dim"]:
        """Return the unit embeddings of token vectors at the layer."""
        if self.layer == "post_ln":
            return self.functions.encode_normalized(params, vectors, mask)
        return self.functions.encode(params, vectors, mask)


class Target(NamedTuple):
    """The fixed inputs of an attack on a batch of queries.

    Attributes:
      params: the encoder's parameters.
      mask: True for the real tokens of the queries.
      passages: embeddings of each query's relevant passages and hard negatives; on a third axis, the translations of
        an answer if distinct answers are counted.
      relevant, irrelevant: marks in `passages`, see `jaxretr.attack.gradient.losses`.
      directions: per query, differences between the mean token vector of another language and that of the query's
        language; None for attacks that do not use them.
    """

    params: Params
    mask: Bool[Array, "queries length"]
    passages: Float32[Array, "queries passages *members dim"]
    relevant: Bool[Array, "queries passages"]
    irrelevant: Bool[Array, "queries passages"]
    directions: Float32[Array, "queries directions hidden"] | None = None


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
        """Return the inner products of the queries' embeddings with the passages, in full float32.

        The score of an answer with several translations is their best score.
        """
        scores = scores_of(self.encoder.encode(target.params, vectors, target.mask), target.passages)
        return scores if scores.ndim == 2 else jnp.max(scores, axis=2)


class LanguageTarget(NamedTuple):
    """The fixed inputs of an attack on the language bias of queries.

    Attributes:
      params, mask, passages: as in `Target`.
      favored: passages in the language that the attacker promotes.
      others: all other passages.
      relevant: relevant passages in any language; their best score must not fall.
      floor: the best relevant score of the clean query.
    """

    params: Params
    mask: Bool[Array, "queries length"]
    passages: Float32[Array, "queries passages dim"]
    favored: Bool[Array, "queries passages"]
    others: Bool[Array, "queries passages"]
    relevant: Bool[Array, "queries passages"]
    floor: Float32[Array, " queries"]


@dataclass(frozen=True)
class LanguageObjective:
    """The score mass that moved to one language at unchanged relevance.

        logsumexp(s / T over favored) - logsumexp(s / T over others) - weight * max(floor - s+, 0) / T

    Attributes:
      encoder: see `SplitEncoder`.
      temperature: T, in units of the scores.
      weight: weight of the penalty on a fall of the best relevant score s+.
    """

    encoder: SplitEncoder
    temperature: float = 0.02
    weight: float = 10.0

    def __call__(
        self, target: LanguageTarget, vectors: Float32[Array, "queries length hidden"]
    ) -> Float32[Array, " queries"]:
        scores = scores_of(self.encoder.encode(target.params, vectors, target.mask), target.passages)
        best = jnp.max(scores, axis=1, where=target.relevant, initial=-jnp.inf)
        scaled = scores / self.temperature
        moved = jax.nn.logsumexp(scaled, axis=1, where=target.favored) - jax.nn.logsumexp(
            scaled, axis=1, where=target.others
        )
        return moved - self.weight * jnp.maximum(target.floor - best, 0) / self.temperature


class PassageTarget(NamedTuple):
    """The fixed inputs of an attack on a batch of passages: parameters, mask of real tokens, one query per passage."""

    params: Params
    mask: Bool[Array, "passages length"]
    queries: Float32[Array, "passages dim"]


@dataclass(frozen=True)
class PassageObjective:
    """The score of a passage for its query, or the negative score.

    No other score changes, so this score alone decides the rank.

    Attributes:
      encoder: see `SplitEncoder`.
      promote: whether the attack raises the passage; otherwise it lowers the passage.
    """

    encoder: SplitEncoder
    promote: bool

    def __call__(
        self, target: PassageTarget, vectors: Float32[Array, "passages length hidden"]
    ) -> Float32[Array, " passages"]:
        passages = self.encoder.encode(target.params, vectors, target.mask)
        scores = jnp.sum(passages * target.queries, axis=1)
        return scores if self.promote else -scores
