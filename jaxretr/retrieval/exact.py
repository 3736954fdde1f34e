"""Exact inner-product search: top-k lists for queries, or the ranks of given passages.

Every ranking has descending scores; equal scores are ordered by ascending position of the passage. So the order of the
passages decides ties; `jaxretr.eval.settings` orders the passages as trec_eval breaks ties.

Matrix products on the devices are off by up to `rounding_error`, so they only exclude passages that certainly rank too
low. If two products are too close, the scores that `jaxretr.retrieval.scores` computes on the host decide. So neither
block sizes nor the device change a ranking, and equal passages tie.

Blocks of passages visit the devices of this process in turn, so the corpus may be larger than memory. All blocks of one
search have the same shape, so each device compiles once.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, Int, Int32

from jaxretr.retrieval.blocks import (
    QUERY_MULTIPLE,
    Block,
    between,
    block_size,
    fold,
    products_of,
    query_blocks,
)
from jaxretr.retrieval.embeddings import Rows
from jaxretr.retrieval.scores import rounding_error, scores_at

_GROUP = 16  # adjacent passages per group; a group's best product decides whether any of them can enter a list
_CANDIDATE_GROUPS = (16, 64)  # sizes of the candidate lists, in groups, that `_merge` sorts instead of a block
_SPARE = 8  # passages that a device keeps in addition to `k + k // 16`, since products may be off


class _Lists(NamedTuple):
    """The passages with the largest products so far, best first, for each query."""

    products: Float32[Array, "queries kept"]
    positions: Int32[Array, "queries kept"]


def search(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    k: int,
    *,
    query_block: int = 512,
    passage_block: int = 8_192,
) -> tuple[Float32[np.ndarray, "queries k"], Int32[np.ndarray, "queries k"]]:
    """Return the `k` passages with the highest scores for every query; `k = len(passages)` gives the full ranking.

    Args:
      queries: query embeddings.
      passages: passage embeddings, float32 [passages, dim]; only blocks of the passages are in memory.
      k: length of each list, at most the number of passages.
      query_block: number of queries scored at once.
      passage_block: number of passages scored at once, at most 65,280. Every device holds two such blocks, the best
        passages of every query (`k` and a few more) and up to four times `query_block * passage_block` products.

    Returns:
      Scores, best first, and the positions of their passages. Equal scores are ordered by position. Scores so close to
      a neighbor that rounding could change the order are computed by `pair_scores`. All others are matrix products,
      within `rounding_error` of the value of `pair_scores`.

    Raises:
      ValueError: `k` is out of range, or queries and passages differ in width.
    """
    _check_width(queries, passages)
    if not 1 <= k <= len(passages):
        raise ValueError(f"k = {k} must lie between 1 and the number of passages, {len(passages)}")
    if len(queries) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
    blocks = query_blocks(queries, query_block)
    shape = (blocks.shape[1], min(len(passages), k + _SPARE + k // 16))
    empty = _Lists(jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32))
    size = block_size(passages, passage_block)
    per_device, max_norm = fold(_merge_block, [empty] * len(blocks), [(block,) for block in blocks], passages, size)
    products, positions = (
        np.concatenate([np.concatenate([lists[part] for lists in device])[: len(queries)] for device in per_device], 1)
        for part in (0, 1)
    )
    # The product of a passage that a device did not keep is at most the last product that it kept.
    unseen = products.reshape(len(queries), len(per_device), -1)[:, :, -1].max(1)
    error = rounding_error(queries, max_norm)
    scores, positions = _ordered(products, positions) if len(per_device) > 1 else (products, positions)
    row, place = np.nonzero(_may_be_misplaced(scores, error))
    scores[row, place] = scores_at(queries, passages, row, positions[row, place])
    scores, positions = (part[:, :k].copy() for part in _ordered(scores, positions))
    unsettled = np.flatnonzero(scores[:, -1] <= unseen + error)
    if shape[1] < len(passages) and len(unsettled):
        least = np.nextafter((scores[unsettled, -1] - error[unsettled]).astype(np.float32), np.float32(-np.inf))
        scores[unsettled], positions[unsettled] = _best_of_all_above(
            queries[unsettled], passages, k, least, query_block=query_block, passage_block=passage_block
        )
    return scores, positions


def ranks(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    query: Int[np.ndarray, " judged"],
    passage: Int[np.ndarray, " judged"],
    *,
    query_block: int = 512,
    passage_block: int = 8_192,
) -> Int32[np.ndarray, " judged"]:
    """Return the ranks of given passages in the full rankings of all passages, without sorting the rankings.

    Retrieval measures need only the ranks of the judged passages, not the full ranking.

    Args:
      queries: query embeddings.
      passages: passage embeddings, float32 [passages, dim].
      query: positions in `queries`; pair `i` requests the rank of `passage[i]` in the ranking of `query[i]`.
      passage: positions in `passages`.
      query_block, passage_block: as in `search`.

    Returns:
      Ranks, counted from 1, in the order of the pairs.

    Raises:
      ValueError: queries and passages differ in width.
    """
    _check_width(queries, passages)
    scores = scores_at(queries, passages, query, passage)
    blocks = {"query_block": query_block, "passage_block": passage_block}
    return 1 + count_ahead(queries, passages, query, passage, scores, **blocks)


def count_ahead(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    query: Int[np.ndarray, " entries"],
    passage: Int[np.ndarray, " entries"],
    score: Float32[np.ndarray, " entries"],
    *,
    query_block: int = 512,
    passage_block: int = 8_192,
) -> Int32[np.ndarray, " entries"]:
    """Count the other passages that rank ahead of a passage with a given score at a given position.

    Args:
      queries: query embeddings.
      passages: passage embeddings, float32 [passages, dim].
      query: positions in `queries`; entry `i` refers to the ranking of `query[i]`.
      passage: positions in `passages`; the passage at this position is not counted.
      score: scores as defined by `pair_scores`.
      query_block, passage_block: as in `search`.

    Returns:
      The number of passages ahead, for each entry.

    Raises:
      ValueError: queries and passages differ in width.
    """
    _check_width(queries, passages)
    if len(query) == 0:
        return np.empty(0, np.int32)
    blocks = query_blocks(queries, query_block)
    # Arrange the entries as a table with one row per query, as wide as the query with the most entries.
    per_query = np.bincount(query, minlength=blocks.shape[0] * blocks.shape[1])
    by_query = np.argsort(query, kind="stable")
    column = np.empty(len(query), np.int64)
    column[by_query] = np.arange(len(query)) - np.repeat(np.cumsum(per_query) - per_query, per_query)
    shape = (*blocks.shape[:2], int(per_query.max()))

    def tabulate(values: np.ndarray, filling: np.generic) -> np.ndarray:
        table = np.full((len(per_query), shape[2]), filling)
        table[query, column] = values
        return table.reshape(shape)

    constants = zip(blocks, tabulate(score, np.float32(np.inf)), tabulate(passage, np.int32(-1)), strict=True)
    zero_counts = np.zeros(shape[1:], np.int32)
    size = block_size(passages, passage_block)
    per_device, _ = fold(_add_ahead, [zero_counts] * len(blocks), list(constants), passages, size)
    return np.sum(per_device, axis=0, dtype=np.int32).reshape(-1, shape[2])[query, column]


def _add_ahead(
    ahead: Int32[np.ndarray, "queries per_query"],
    on_device: Float32[Array, "queries dim"],
    block: Block,
    queries: Float32[np.ndarray, "queries dim"],
    wanted_scores: Float32[np.ndarray, "queries per_query"],
    wanted: Int32[np.ndarray, "queries per_query"],
) -> Int32[np.ndarray, "queries per_query"]:
    """Add the number of passages of a block that are ahead of each wanted passage."""
    error = rounding_error(queries, block.max_norm)[:, None]
    low, high = (wanted_scores - error).astype(np.float32), (wanted_scores + error).astype(np.float32)
    products = between(on_device, block, low, high, wanted)
    ahead = ahead + products.above
    at = products.row, products.column
    scores = scores_at(queries, block.rows, products.row, products.offset)
    is_before = block.start + products.offset < wanted[at]
    is_ahead = (scores > wanted_scores[at]) | ((scores == wanted_scores[at]) & is_before)
    np.add.at(ahead, at, is_ahead)
    return ahead


def _merge_block(
    lists: _Lists, on_device: Float32[Array, "queries dim"], block: Block, queries: Float32[np.ndarray, "queries dim"]
) -> _Lists:
    """Return the lists after adding the best passages of one more block."""
    del queries
    lists = jax.device_put(lists, block.padded.device)
    return _merge(lists, on_device, block.padded, block.start, len(block.rows))


def _may_be_misplaced(
    products: Float32[np.ndarray, "queries kept"], error: Float64[np.ndarray, " queries"]
) -> Bool[np.ndarray, "queries kept"]:
    """Return which of the sorted products are so close to a neighbor that their scores may have another order."""
    with np.errstate(invalid="ignore"):  # empty entries are -inf
        near = products[:, :-1] - products[:, 1:] <= 2 * error[:, None]
    misplaced = np.zeros(products.shape, bool)
    misplaced[:, :-1] = near
    misplaced[:, 1:] |= near
    return misplaced & (products > -np.inf)


class _Hits(NamedTuple):
    """Passages of several queries, concatenated."""

    query: Int[np.ndarray, " hits"]
    score: Float32[np.ndarray, " hits"]
    position: Int[np.ndarray, " hits"]

    def best(self, k: int) -> "_Hits":
        """Return the best `k` hits of each query, best first."""
        order = np.lexsort((self.position, -self.score, self.query))
        query = self.query[order]
        first = np.searchsorted(query, query)
        order = order[np.arange(len(query)) - first < k]
        return _Hits(*(part[order] for part in self))


def _best_of_all_above(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    k: int,
    least: Float32[np.ndarray, " queries"],
    *,
    query_block: int,
    passage_block: int,
) -> tuple[Float32[np.ndarray, "queries k"], Int32[np.ndarray, "queries k"]]:
    """Search like `search`, but compute the score of every passage whose product is at least `least`.

    This takes longer, and is for queries with so many near ties that the lists of `search` do not hold all of them.
    """
    blocks = query_blocks(queries, query_block)
    bounds = np.full(blocks.shape[:2], np.inf, np.float32)
    bounds.flat[: len(queries)] = least
    empty = _Hits(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
    size = block_size(passages, passage_block)

    def add(hits: _Hits, on_device: Array, block: Block, of_block: np.ndarray, bound: np.ndarray) -> _Hits:
        low = bound[:, None]
        products = between(on_device, block, low, np.full_like(low, np.inf), np.full(low.shape, -1, np.int32))
        if not len(products.row):
            return hits
        scores = scores_at(of_block, block.rows, products.row, products.offset)
        new = _Hits(products.row, scores, block.start + products.offset)
        return _Hits(*map(np.concatenate, zip(hits, new, strict=True))).best(k)

    constants = list(zip(blocks, bounds, strict=True))
    per_device, _ = fold(add, [empty] * len(blocks), constants, passages, size)
    scores, positions = [], []
    for of_block in zip(*per_device, strict=True):
        hits = _Hits(*map(np.concatenate, zip(*of_block, strict=True))).best(k)
        scores.append(hits.score.reshape(-1, k))
        positions.append(hits.position.reshape(-1, k).astype(np.int32))
    return np.concatenate(scores), np.concatenate(positions)


@jax.jit
def _merge(
    best: _Lists,
    queries: Float32[Array, "queries dim"],
    passages: Float32[Array, "passages dim"],
    start: Int[Array, ""],
    num_passages: Int[Array, ""],
) -> _Lists:
    """Return the best of the lists so far and of one block of passages, which begins at position `start`.

    Sorting costs more than multiplying. So passages are examined in groups: only a group with a product above the worst
    of a list can change that list, and once the lists have filled, such groups are few.
    """
    products = products_of(queries, passages)
    grouped = products.reshape(len(queries), -1, _GROUP)
    promising = grouped.max(2) > best.products[:, -1:]
    promising &= jnp.arange(0, len(passages), _GROUP) < num_passages
    max_groups = promising.sum(1).max()

    def keep_lists() -> _Lists:
        return best

    def merge_groups(groups: int) -> _Lists:
        # Select the promising groups first, in order of position: a group's key decreases with its position.
        keys = jnp.where(promising, -jnp.arange(promising.shape[1], dtype=jnp.float32), -jnp.inf)
        _, selected = jax.lax.top_k(keys, groups)
        candidates = jnp.take_along_axis(grouped, selected[:, :, None], 1).reshape(len(queries), -1)
        offsets = (selected[:, :, None] * _GROUP + jnp.arange(_GROUP)).reshape(candidates.shape)
        return _keep_best(best, candidates, offsets, start, num_passages)

    def merge_all() -> _Lists:
        def of_query(best_and_products: tuple[_Lists, Array]) -> _Lists:
            return _keep_best(*best_and_products, jnp.arange(len(passages)), start, num_passages)

        return jax.lax.map(of_query, (best, products), batch_size=QUERY_MULTIPLE)

    group_counts = [groups for groups in _CANDIDATE_GROUPS if groups < promising.shape[1]]
    branches: list[Callable[[], _Lists]] = [
        keep_lists,
        *(partial(merge_groups, groups) for groups in group_counts),
        merge_all,
    ]
    return jax.lax.switch(sum((max_groups > groups).astype(jnp.int32) for groups in (0, *group_counts)), branches)


def _keep_best(
    best: _Lists,
    products: Float32[Array, "*queries candidates"],
    offsets: Int32[Array, "*queries candidates"],
    start: Int[Array, ""],
    num_passages: Int[Array, ""],
) -> _Lists:
    """Return the best of the lists so far and candidates at ascending `offsets` in the block from `start`."""
    products = jnp.where(offsets < num_passages, products, -jnp.inf)
    products, at = jax.lax.top_k(jnp.concatenate([best.products, products], -1), best.products.shape[-1])
    positions = jnp.concatenate([best.positions, start + offsets], -1)
    return _Lists(products, jnp.take_along_axis(positions, at, -1))


def _ordered(
    scores: Float32[np.ndarray, "queries n"], positions: Int32[np.ndarray, "queries n"]
) -> tuple[Float32[np.ndarray, "queries n"], Int32[np.ndarray, "queries n"]]:
    """Order every list by descending score, and equal scores by ascending position."""
    order = np.lexsort((positions, -scores))
    return np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)


def _check_width(queries: np.ndarray, passages: Rows) -> None:
    if queries.shape[1] != passages.shape[1]:
        raise ValueError(
            f"query embeddings have {queries.shape[1]} dimensions, passage embeddings {passages.shape[1]}; "
            "encode both with the same model"
        )
