"""Gradient caching: the exact gradient of a batch's loss, encoded a few pairs at a time.

The loss needs all sentence embeddings at once, but each embedding needs its own text alone. So a first pass encodes all
texts without keeping anything for the gradient, the loss is differentiated with respect to the embeddings, and a second
pass encodes each chunk again and carries its part of that gradient back to the parameters. Memory is that of one chunk;
the price is one more forward pass. Gao et al. (2021), arXiv:2101.06983.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import Params
from jaxretr.train.loss import Contrast, Sentences
from jaxretr.train.objective import Objective, Words


def value_and_grad(
    objective: Objective, params: Params, batch: PairBatch, key: Key[Array, ""] | None, chunk_size: int
) -> tuple[Contrast, Params]:
    """What `jax.value_and_grad(objective, has_aux=True)` gives, in two passes over chunks of the batch.

    Args:
      objective, params, batch: as there; must run inside `parallel.pmap`.
      key: of dropout; each chunk has a key of its own, the same in both passes.
      chunk_size: rows of the batch encoded at once; must divide them.

    Raises:
      ValueError: it does not.
    """
    rows = len(batch.query_content)
    if rows % chunk_size:
        raise ValueError(f"chunk_size is {chunk_size}; expected a divisor of the {rows} pairs of a device")
    chunks = rows // chunk_size
    split = jax.tree.map(lambda leaf: leaf.reshape(chunks, -1, *leaf.shape[1:]), batch)
    keys = None if key is None else jax.random.split(key, chunks)

    # The table of word embeddings is left out of the passes: its gradient is dense, as large in every chunk as in all.
    words, words_back = jax.vjp(lambda p: objective.words(p, batch), params)
    of_chunks = Words(*(leaf.reshape(chunks, -1, *leaf.shape[1:]) for leaf in words))
    table = params["embeddings"]["word"]
    rest = {**params, "embeddings": {k: v for k, v in params["embeddings"].items() if k != "word"}}

    def sentences(rest: Params, words: Words, chunk: PairBatch, key: Key[Array, ""] | None) -> Sentences:
        whole = {**rest, "embeddings": {**rest["embeddings"], "word": table}}
        return objective.sentences(whole, words, chunk, key)

    cached = jax.lax.map(lambda chunk: sentences(rest, *chunk), (of_chunks, split, keys))
    flat = Sentences(*(leaf.reshape(rows, *leaf.shape[2:]) for leaf in cached))

    def loss(sentences: Sentences) -> tuple[Array, Contrast]:
        contrast = objective.contrast(sentences, batch)
        return contrast.loss, contrast

    (_, contrast), of_sentences = jax.value_and_grad(loss, has_aux=True)(flat)
    of_sentences = Sentences(*(leaf.reshape(chunks, chunk_size, *leaf.shape[1:]) for leaf in of_sentences))

    def back(summed: Params, chunk: Any) -> tuple[Params, Words]:
        words, of_batch, key, cotangent = chunk
        _, pull = jax.vjp(lambda rest, words: sentences(rest, words, of_batch, key), rest, words)
        of_rest, of_words = pull(cotangent)
        return jax.tree.map(jnp.add, summed, of_rest), of_words

    nothing = jax.tree.map(jnp.zeros_like, rest)
    grads, of_words = jax.lax.scan(back, nothing, (of_chunks, split, keys, of_sentences))
    (of_table,) = words_back(Words(*(leaf.reshape(-1, *leaf.shape[2:]) for leaf in of_words)))
    grads = {**grads, "embeddings": {**grads["embeddings"], "word": of_table["embeddings"]["word"]}}
    return contrast, grads
