"""The contrastive loss of a batch, as a function of parameters and word embeddings.

In: parameters and this device's share of a batch. Out: its word embeddings, its sentence embeddings and the loss of
`jaxretr.train.loss`. What lies between word embeddings and loss is open to hardening (`jaxretr.train.hardening`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
from jaxtyping import Array, Float32, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import EncoderFunctions, Params
from jaxretr.train.loss import Contrast, Scores, Sentences, in_batch_scores, info_nce
from jaxretr.types import TokenBatch


class Words(NamedTuple):
    """Word embeddings of both sides of a batch, or perturbations of them.

    The texts of the passages are those of all columns, row after row.
    """

    queries: Float32[Array, "queries query_length hidden"]
    passages: Float32[Array, "passages passage_length hidden"]


@dataclass(frozen=True)
class Objective:
    """What is minimised: an encoder and how its embeddings are compared (see `info_nce`). Per device and pure."""

    encoder: EncoderFunctions
    temperature: float
    symmetric: bool

    def words(self, params: Params, batch: PairBatch) -> Words:
        """What the first layer gets, before positions and LayerNorm."""
        return Words(
            self.encoder.embed_tokens(params, batch.queries.ids),
            self.encoder.embed_tokens(params, passage_texts(batch).ids),
        )

    def sentences(self, params: Params, words: Words, batch: PairBatch, key: Key[Array, ""] | None) -> Sentences:
        """Encodes both sides; the same dropout key drops the same entries, None drops none."""
        masks = (batch.queries.mask, passage_texts(batch).mask)
        if batch.packing:
            queries, passages = self.encoder.encode_packed(params, words, masks, batch.packing, key)
        else:
            keys = (None, None) if key is None else jax.random.split(key)
            queries, passages = (self.encoder.encode(params, *side) for side in zip(words, masks, keys, strict=True))
        return Sentences(queries, passages.reshape(*batch.passage_content.shape, -1))

    def contrast(self, sentences: Sentences, batch: PairBatch) -> Contrast:
        """This device's share of loss and accuracy."""
        return info_nce(
            sentences.queries,
            sentences.passages,
            batch.query_content,
            batch.passage_content,
            temperature=self.temperature,
            symmetric=self.symmetric,
        )

    def scores(self, anchors: Sentences, pool: Sentences, batch: PairBatch) -> tuple[Scores, ...]:
        """What `contrast` compares, with other anchors than what is ranked for them (see `in_batch_scores`)."""
        return in_batch_scores(
            anchors,
            pool,
            batch.query_content,
            batch.passage_content,
            temperature=self.temperature,
            symmetric=self.symmetric,
        )

    def __call__(self, params: Params, batch: PairBatch, key: Key[Array, ""] | None) -> Contrast:
        """The loss of a batch as it is."""
        return self.contrast(self.sentences(params, self.words(params, batch), batch, key), batch)


def passage_texts(batch: PairBatch) -> TokenBatch:
    """The passages of all columns, [batch * columns, length]."""
    length = batch.passages.ids.shape[-1]
    return TokenBatch(*(leaf.reshape(-1, length) for leaf in batch.passages))
