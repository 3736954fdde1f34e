"""Exact inner-product search: query and passage embeddings come in, top-k lists or the ranks of given passages go out.

One rule orders every ranking: by descending float32 score, equal scores by ascending position of the passage. Whoever
orders the passages therefore decides how ties fall; `jaxretr.eval.settings` orders them as trec_eval breaks ties.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32

_PASSAGE_MULTIPLE = 256  # passages are padded to a multiple of this, so that corpora of like size share a compilation
_SCORES_AT_ONCE = 2**24  # at most this many scores (64 MiB) are on the device at once, whatever the size of the corpus


def search(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Float32[np.ndarray, "passages dim"],
    k: int,
    *,
    query_block: int = 256,
    passage_block: int = 65_536,
) -> tuple[Float32[np.ndarray, "queries k"], Int32[np.ndarray, "queries k"]]:
    """The `k` passages with the largest inner product for every query; `k = len(passages)` gives the full ranking.

    Passages visit the device one block at a time, so a memory-mapped array larger than memory will do; all blocks
    share one compilation.

    Args:
      queries: query embeddings.
      passages: passage embeddings.
      k: length of each list, at most the number of passages.
      query_block: queries scored at once.
      passage_block: passages scored at once; the device holds `query_block * (passage_block + k)` scores.

    Returns:
      Scores, best first, and the positions of their passages. Equal scores come in the order of the passages.

    Raises:
      ValueError: `k` is out of range, or the two embeddings differ in width.
    """
    _check_width(queries, passages)
    if not 1 <= k <= len(passages):
        raise ValueError(f"k = {k} must lie between 1 and the number of passages, {len(passages)}")
    passage_block = min(passage_block, _round_up(len(passages), _PASSAGE_MULTIPLE))
    query_blocks = [_pad_rows(queries[i : i + query_block], query_block) for i in range(0, len(queries), query_block)]
    best = [
        (jnp.full((query_block, k), -jnp.inf, jnp.float32), jnp.zeros((query_block, k), jnp.int32))
        for _ in query_blocks
    ]
    for start in range(0, len(passages), passage_block):
        block = passages[start : start + passage_block]
        padded = _pad_rows(block, passage_block)
        best = [_merge(*b, q, padded, start, len(block)) for b, q in zip(best, query_blocks, strict=True)]
    if not best:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
    scores, positions = zip(*jax.device_get(best), strict=True)
    return np.concatenate(scores)[: len(queries)], np.concatenate(positions)[: len(queries)]


def ranks(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Float32[np.ndarray, "passages dim"],
    query: Int[np.ndarray, " judged"],
    passage: Int[np.ndarray, " judged"],
) -> Int32[np.ndarray, " judged"]:
    """The rank of chosen passages in the full ranking of all passages, without sorting it: one plus the passages ahead.

    Measures of effectiveness need no more of a ranking than where its judged passages stand.

    Args:
      queries: query embeddings.
      passages: passage embeddings.
      query: positions in `queries`; pair `i` asks for `passage[i]` in the ranking of `query[i]`.
      passage: positions in `passages`.

    Returns:
      Ranks, counted from 1, in the order of the pairs.

    Raises:
      ValueError: the two embeddings differ in width.
    """
    _check_width(queries, passages)
    if len(query) == 0:
        return np.empty(0, np.int32)
    # The pairs as a table of one row per query, as wide as the most asked-about query.
    per_query = np.bincount(query, minlength=len(queries))
    by_query = np.argsort(query, kind="stable")
    column = np.empty(len(query), np.int64)
    column[by_query] = np.arange(len(query)) - np.repeat(np.cumsum(per_query) - per_query, per_query)
    wanted = np.zeros((len(queries), per_query.max()), np.int32)
    wanted[query, column] = passage

    corpus = jnp.asarray(_pad_rows(passages, _round_up(len(passages), _PASSAGE_MULTIPLE)))
    size = max(1, min(256, _SCORES_AT_ONCE // len(corpus)))
    found = [
        _count_ahead(
            _pad_rows(queries[i : i + size], size), corpus, _pad_rows(wanted[i : i + size], size), len(passages)
        )
        for i in range(0, len(queries), size)
    ]
    return 1 + np.concatenate([np.asarray(block) for block in found])[query, column]


def _scores(
    queries: Float32[Array, "queries dim"], passages: Float32[Array, "passages dim"], num_passages: Int[Array, ""]
) -> Float32[Array, "queries passages"]:
    """Inner products in full float32; padding, from `num_passages` on, scores minus infinity."""
    scores = jnp.einsum("qd,pd->qp", queries, passages, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.where(scores == 0, 0.0, scores)  # top_k puts -0.0 behind 0.0, but they are a tie
    return jnp.where(jnp.arange(scores.shape[1]) < num_passages, scores, -jnp.inf)


@partial(jax.jit, donate_argnums=(0, 1))
def _merge(
    best_scores: Float32[Array, "queries k"],
    best_positions: Int32[Array, "queries k"],
    queries: Float32[Array, "queries dim"],
    passages: Float32[Array, "passages dim"],
    start: Int[Array, ""],
    num_passages: Int[Array, ""],
) -> tuple[Float32[Array, "queries k"], Int32[Array, "queries k"]]:
    """The best of the lists so far and one block of passages, whose first has position `start`."""
    block_scores = _scores(queries, passages, num_passages)
    block_positions = jnp.broadcast_to(start + jnp.arange(len(passages), dtype=jnp.int32), block_scores.shape)
    # top_k keeps the first of equals, and everything seen so far has a smaller position than this block.
    scores, at = jax.lax.top_k(jnp.concatenate([best_scores, block_scores], 1), best_scores.shape[1])
    return scores, jnp.take_along_axis(jnp.concatenate([best_positions, block_positions], 1), at, 1)


@jax.jit
def _count_ahead(
    queries: Float32[Array, "queries dim"],
    passages: Float32[Array, "passages dim"],
    wanted: Int32[Array, "queries per_query"],
    num_passages: Int[Array, ""],
) -> Int32[Array, "queries per_query"]:
    """How many passages stand ahead of each wanted one."""
    scores = _scores(queries, passages, num_passages)
    position = jnp.arange(scores.shape[1])

    def ahead(column: Int32[Array, " queries"]) -> Int32[Array, " queries"]:
        column = column[:, None]
        score = jnp.take_along_axis(scores, column, 1)
        return jnp.sum((scores > score) | ((scores == score) & (position < column)), 1, dtype=jnp.int32)

    return jax.lax.map(ahead, wanted.T).T


def _check_width(queries: np.ndarray, passages: np.ndarray) -> None:
    if queries.shape[1] != passages.shape[1]:
        raise ValueError(
            f"query embeddings have {queries.shape[1]} dimensions, passage embeddings {passages.shape[1]}; "
            "encode both with the same model"
        )


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _pad_rows(rows: np.ndarray, n: int) -> np.ndarray:
    return np.pad(rows, ((0, n - len(rows)), (0, 0)))
