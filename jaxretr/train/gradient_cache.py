"""Gradient caching: the exact gradient of a batch's loss, with only a few pairs encoded at a time.

The loss needs all sentence embeddings at once, but each embedding needs only its own text. So a first pass encodes all
texts without storing activations; the loss is differentiated with respect to the embeddings; and a second pass encodes
each chunk again and propagates its part of that gradient to the parameters. The memory is that of one chunk; the price
is one more forward pass. Gao et al. (2021), arXiv 2101.06983.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import Params
from jaxretr.train.loss import LossMetrics, SentenceEmbeddings
from jaxretr.train.objective import Objective, WordEmbeddings


def value_and_grad(
    objective: Objective, params: Params, batch: PairBatch, key: Key[Array, ""] | None, chunk_size: int
) -> tuple[LossMetrics, Params]:
    """Compute `jax.value_and_grad(objective, has_aux=True)` in two passes over chunks of the batch.

    Args:
      objective, params, batch: as for `jax.value_and_grad`; must run inside `parallel.pmap`.
      key: dropout key. Each chunk gets its own key, the same in both passes.
      chunk_size: rows of the batch encoded at once; must divide the number of rows.

    Raises:
      ValueError: `chunk_size` does not divide the number of rows.
    """
    rows = len(batch.query_content)
    if rows % chunk_size:
        raise ValueError(f"chunk_size is {chunk_size}; expected a divisor of the {rows} pairs of a device")
    chunks = rows // chunk_size
    split = jax.tree.map(lambda leaf: leaf.reshape(chunks, -1, *leaf.shape[1:]), batch)
    keys = None if key is None else jax.random.split(key, chunks)

    # The passes exclude the word-embedding table: its dense gradient is as large for one chunk as for the whole batch.
    words, words_back = jax.vjp(lambda p: objective.word_embeddings(p, batch), params)
    word_chunks = WordEmbeddings(*(leaf.reshape(chunks, -1, *leaf.shape[1:]) for leaf in words))
    table = params["embeddings"]["word"]
    other_params = {**params, "embeddings": {k: v for k, v in params["embeddings"].items() if k != "word"}}

    def sentences(
        other_params: Params, words: WordEmbeddings, chunk: PairBatch, key: Key[Array, ""] | None
    ) -> SentenceEmbeddings:
        all_params = {**other_params, "embeddings": {**other_params["embeddings"], "word": table}}
        return objective.sentence_embeddings(all_params, words, chunk, key)

    cached = jax.lax.map(lambda chunk: sentences(other_params, *chunk), (word_chunks, split, keys))
    flat = SentenceEmbeddings(*(leaf.reshape(rows, *leaf.shape[2:]) for leaf in cached))

    def loss(sentences: SentenceEmbeddings) -> tuple[Array, LossMetrics]:
        metrics = objective.loss(sentences, batch)
        return metrics.loss, metrics

    (_, metrics), sentence_grads = jax.value_and_grad(loss, has_aux=True)(flat)
    sentence_grads = SentenceEmbeddings(*(leaf.reshape(chunks, chunk_size, *leaf.shape[1:]) for leaf in sentence_grads))

    def back(summed: Params, chunk: Any) -> tuple[Params, WordEmbeddings]:
        words, pairs, key, cotangent = chunk
        _, pull = jax.vjp(lambda other_params, words: sentences(other_params, words, pairs, key), other_params, words)
        other_grads, word_grads = pull(cotangent)
        return jax.tree.map(jnp.add, summed, other_grads), word_grads

    zeros = jax.tree.map(jnp.zeros_like, other_params)
    grads, word_grads = jax.lax.scan(back, zeros, (word_chunks, split, keys, sentence_grads))
    (table_grads,) = words_back(WordEmbeddings(*(leaf.reshape(-1, *leaf.shape[2:]) for leaf in word_grads)))
    grads = {**grads, "embeddings": {**grads["embeddings"], "word": table_grads["embeddings"]["word"]}}
    return metrics, grads
