"""What an encoder computes before the unit embedding: token vectors and pooled vectors.

In: an encoder and token ids as its tokenization gives them. Out: float32 arrays on the host, in the order of the ids.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Float32

from jaxretr import parallel
from jaxretr.model.encode import Encoder, plan_batches
from jaxretr.model.functions import EncoderFunctions, Params

_BATCH_SIZE = 32  # as in `Encoder.encode_query`


def token_vectors(encoder: Encoder, ids: Sequence[Sequence[int]]) -> list[Float32[np.ndarray, "tokens hidden"]]:
    """The last layer's vector of every token of every text, special tokens included."""
    vectors: list[np.ndarray] = [np.empty(0)] * len(ids)
    for rows, hidden in _batches(_hidden(encoder.functions), encoder, ids):
        for row, of_text in zip(rows, hidden, strict=True):
            vectors[row] = of_text[: len(ids[row])].astype(np.float32)
    return vectors


def pooled_norms(encoder: Encoder, ids: Sequence[Sequence[int]]) -> Float32[np.ndarray, " texts"]:
    """The L2 norm of every text's pooled vector, which the embedding no longer tells."""
    norms = np.empty(len(ids), np.float32)
    for rows, pooled in _batches(_pooled(encoder.functions), encoder, ids):
        norms[rows] = np.linalg.norm(pooled, axis=1)
    return norms


def _batches(run: Callable, encoder: Encoder, ids: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which texts, and what `run` makes of them, one batch after the other."""
    tokenization = encoder.query_tokenization  # pads like that of passages
    for batch in plan_batches([len(row) for row in ids], tokenization.buckets, _BATCH_SIZE):
        empty: list[Sequence[int]] = [[]] * (batch.size - len(batch.rows))
        tokens = tokenization.pad([*(ids[row] for row in batch.rows), *empty], batch.length)
        result = run(encoder.params, *parallel.split(tokens))
        yield batch.rows, parallel.merge(result)[: len(batch.rows)]


@lru_cache(maxsize=8)
def _hidden(encoder: EncoderFunctions) -> Callable:
    def hidden(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return encoder.hidden_states(params, encoder.embed_tokens(params, ids), mask)

    return parallel.pmap(hidden, in_axes=(None, 0, 0), devices=jax.local_devices())


@lru_cache(maxsize=8)
def _pooled(encoder: EncoderFunctions) -> Callable:
    def pooled(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
        hidden = encoder.hidden_states(params, encoder.embed_tokens(params, ids), mask)
        return encoder.pool(params, hidden, mask)

    return parallel.pmap(pooled, in_axes=(None, 0, 0), devices=jax.local_devices())
