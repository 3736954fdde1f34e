"""The contrastive loss of a batch as a function of parameters and word embeddings.

Input: parameters and this device's rows of a batch. Output: word embeddings, sentence embeddings and the loss of
`jaxretr.train.loss`, in separate methods, so that hardening (`jaxretr.train.hardening`) can perturb the word embeddings
and compare scores.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
from jaxtyping import Array, Float32, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import EncoderFunctions, Params
from jaxretr.train.loss import LossFunction, LossMetrics, Scores, SentenceEmbeddings, in_batch_scores, info_nce
from jaxretr.types import TokenBatch


class WordEmbeddings(NamedTuple):
    """Word embeddings of both sides of a batch, or perturbations of them.

    The passages are the texts of all columns, row by row.
    """

    queries: Float32[Array, "queries query_length hidden"]
    passages: Float32[Array, "passages passage_length hidden"]


@dataclass(frozen=True)
class Objective:
    """The minimized objective: an encoder and a loss over its embeddings (see `info_nce`). Per device and pure."""

    encoder: EncoderFunctions
    temperature: float
    symmetric: bool
    loss_function: LossFunction = info_nce

    def word_embeddings(self, params: Params, batch: PairBatch) -> WordEmbeddings:
        """Return the input of the first layer, before positions and LayerNorm."""
        return WordEmbeddings(
            self.encoder.embed_tokens(params, batch.queries.ids),
            self.encoder.embed_tokens(params, passage_texts(batch).ids),
        )

    def sentence_embeddings(
        self, params: Params, words: WordEmbeddings, batch: PairBatch, key: Key[Array, ""] | None
    ) -> SentenceEmbeddings:
        """Encode queries and passages. Equal dropout keys drop the same entries; None disables dropout."""
        masks = (batch.queries.mask, passage_texts(batch).mask)
        if batch.packing:
            queries, passages = self.encoder.encode_packed(params, words, masks, batch.packing, key)
        else:
            keys = (None, None) if key is None else jax.random.split(key)
            queries, passages = (self.encoder.encode(params, *side) for side in zip(words, masks, keys, strict=True))
        return SentenceEmbeddings(queries, passages.reshape(*batch.passage_content.shape, -1))

    def loss(self, sentences: SentenceEmbeddings, batch: PairBatch) -> LossMetrics:
        """Return the mean loss and the accuracy of this device's rows."""
        return self.loss_function(
            sentences.queries,
            sentences.passages,
            batch.query_content,
            batch.passage_content,
            temperature=self.temperature,
            symmetric=self.symmetric,
        )

    def scores(self, anchors: SentenceEmbeddings, pool: SentenceEmbeddings, batch: PairBatch) -> tuple[Scores, ...]:
        """Return the scores that `loss` compares, with separate anchors and candidates (see `in_batch_scores`)."""
        return in_batch_scores(
            anchors,
            pool,
            batch.query_content,
            batch.passage_content,
            temperature=self.temperature,
            symmetric=self.symmetric,
        )

    def __call__(self, params: Params, batch: PairBatch, key: Key[Array, ""] | None) -> LossMetrics:
        """Return the loss of an unperturbed batch."""
        return self.loss(self.sentence_embeddings(params, self.word_embeddings(params, batch), batch, key), batch)


def passage_texts(batch: PairBatch) -> TokenBatch:
    """Return the passages of all columns, [batch * columns, length]."""
    length = batch.passages.ids.shape[-1]
    return TokenBatch(*(leaf.reshape(-1, length) for leaf in batch.passages))
