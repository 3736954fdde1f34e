"""Exact inner-product search: query and passage embeddings come in, top-k lists or the ranks of given passages go out.

One rule orders every ranking: by descending float32 score, equal scores by ascending position of the passage. Whoever
orders the passages therefore decides how ties fall; `jaxretr.eval.settings` orders them as trec_eval breaks ties.

Passages visit the devices of this process in turn, one block at a time, so a corpus larger than memory will do. All
blocks of one search have one shape, and so share one compilation a device.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32

from jaxretr.retrieval.embeddings import Rows, Subset

_PASSAGE_MULTIPLE = 256  # in products of such shapes, equal passages score equally wherever they stand; and
_QUERY_MULTIPLE = 32  # corpora and sets of queries of like size share a compilation
_GROUP = 16  # neighbouring passages whose best score decides whether any of them can enter a list
_CANDIDATE_GROUPS = (16, 64)  # sizes of the short lists of such groups
_THREADS = 4  # blocks of queries that a device works on at once


def search(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    k: int,
    *,
    query_block: int = 512,
    passage_block: int = 8_192,
) -> tuple[Float32[np.ndarray, "queries k"], Int32[np.ndarray, "queries k"]]:
    """The `k` passages with the largest inner product for every query; `k = len(passages)` gives the full ranking.

    Args:
      queries: query embeddings.
      passages: passage embeddings, float32 [passages, dim]; only blocks of them are ever in memory.
      k: length of each list, at most the number of passages.
      query_block: queries scored at once.
      passage_block: passages scored at once. Every device holds two such blocks, the best `k` of every query and
        up to four times `query_block * passage_block` scores.

    Returns:
      Scores, best first, and the positions of their passages. Equal scores come in the order of the passages.

    Raises:
      ValueError: `k` is out of range, or the two embeddings differ in width.
    """
    _check_width(queries, passages)
    if not 1 <= k <= len(passages):
        raise ValueError(f"k = {k} must lie between 1 and the number of passages, {len(passages)}")
    if len(queries) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
    query_blocks = _query_blocks(queries, query_block)
    shape = (query_blocks.shape[1], k)
    nothing = (np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32))
    states, constants = [nothing] * len(query_blocks), [(block,) for block in query_blocks]
    found = _fold(_merge, states, constants, passages, _block_size(passages, passage_block))
    scores, positions = (
        np.concatenate([np.concatenate([block[part] for block in device])[: len(queries)] for device in found], axis=1)
        for part in (0, 1)
    )
    if len(found) > 1:
        order = np.lexsort((positions, -scores))[:, :k]
        scores, positions = np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)
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
    """The rank of chosen passages in the full ranking of all passages, without sorting it: one plus the passages ahead.

    Measures of effectiveness need no more of a ranking than where its judged passages stand.

    Args:
      queries: query embeddings.
      passages: passage embeddings, float32 [passages, dim].
      query: positions in `queries`; pair `i` asks for `passage[i]` in the ranking of `query[i]`.
      passage: positions in `passages`.
      query_block, passage_block: as in `search`.

    Returns:
      Ranks, counted from 1, in the order of the pairs.

    Raises:
      ValueError: the two embeddings differ in width.
    """
    _check_width(queries, passages)
    if len(query) == 0:
        return np.empty(0, np.int32)
    query_blocks = _query_blocks(queries, query_block)
    passage_block = _block_size(passages, passage_block)
    # The pairs as a table of one row per query, as wide as the most asked-about query.
    per_query = np.bincount(query, minlength=query_blocks.shape[0] * query_blocks.shape[1])
    by_query = np.argsort(query, kind="stable")
    column = np.empty(len(query), np.int64)
    column[by_query] = np.arange(len(query)) - np.repeat(np.cumsum(per_query) - per_query, per_query)
    shape = (*query_blocks.shape[:2], int(per_query.max()))

    def tabulate(values: np.ndarray) -> np.ndarray:
        table = np.zeros((len(per_query), shape[2]), np.int32)
        table[query, column] = values
        return table.reshape(shape)

    # Scores of the wanted passages from products of the same shape as all others, so that ties are ties.
    chosen, place = np.unique(passage, return_inverse=True)
    unknown, none = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)
    where = zip(query_blocks, tabulate(place), strict=True)
    scores = np.max(_fold(_pick, unknown, where, Subset(passages, chosen), passage_block), axis=0)
    wanted = zip(query_blocks, scores, tabulate(passage), strict=True)
    ahead = np.sum(_fold(_count_ahead, none, wanted, passages, passage_block), axis=0)
    return 1 + ahead.reshape(-1, shape[2])[query, column].astype(np.int32)


def _fold(
    update: Callable[..., Any], initial: Iterable[Any], constants: Iterable[Any], passages: Rows, passage_block: int
) -> list[list[Any]]:
    """Shows every block of passages to one of the devices, and there to every block of queries.

    Args:
      update: (state, *constants, block of passages, its first position, its size without padding) -> state.
      initial: the states to begin with, one for each block of queries.
      constants: what else `update` takes, for each block of queries.

    Returns:
      On the host, the last states of each device.
    """
    starts = range(0, len(passages), passage_block)
    devices = jax.local_devices()[: len(starts)]
    initial, constants = list(initial), list(constants)

    def step(state: Future, *rest: Any) -> Any:
        return jax.block_until_ready(update(state.result(), *rest))

    # On a CPU, JAX computes in the thread that asks: while one thread selects, which takes one core, others multiply.
    with ThreadPoolExecutor(_THREADS * len(devices)) as pool:
        current = [[pool.submit(jax.device_put, state, device) for state in initial] for device in devices]
        beside = [jax.device_put(constants, device) for device in devices]
        for number, start in enumerate(starts):
            at = number % len(devices)
            rows = passages[start : start + passage_block]
            block = jax.device_put(_pad_rows(rows, passage_block), devices[at])
            before = current[at]
            current[at] = [
                pool.submit(step, state, *others, block, start, len(rows))
                for state, others in zip(before, beside[at], strict=True)
            ]
            for state in before:  # so the host is one block ahead of each device, and no further
                state.result()
        return [[jax.device_get(state.result()) for state in states] for states in current]


@jax.jit
def _merge(
    best: tuple[Float32[Array, "queries k"], Int32[Array, "queries k"]],
    queries: Float32[Array, "queries dim"],
    passages: Float32[Array, "passages dim"],
    start: Int[Array, ""],
    num_passages: Int[Array, ""],
) -> tuple[Float32[Array, "queries k"], Int32[Array, "queries k"]]:
    """The best of the lists so far and one block of passages, whose first has position `start`.

    Sorting costs more than scoring. So passages are looked at in groups: only one with a score above the worst of a
    list can add to that list, and once the lists have filled such groups are few.
    """
    scores = _scores(queries, passages)
    grouped = scores.reshape(len(queries), -1, _GROUP)
    promising = grouped.max(2) > best[0][:, -1:]
    promising &= jnp.arange(0, len(passages), _GROUP) < num_passages
    most = promising.sum(1).max()

    def none() -> tuple[Array, Array]:
        return best

    def some(groups: int) -> tuple[Array, Array]:
        # The promising groups first and in their order: a group's key falls with its position.
        keys = jnp.where(promising, -jnp.arange(promising.shape[1], dtype=jnp.float32), -jnp.inf)
        _, chosen = jax.lax.top_k(keys, groups)
        candidates = jnp.take_along_axis(grouped, chosen[:, :, None], 1).reshape(len(queries), -1)
        offsets = (chosen[:, :, None] * _GROUP + jnp.arange(_GROUP)).reshape(candidates.shape)
        return _keep_best(best, candidates, offsets, start, num_passages)

    def all_of_them() -> tuple[Array, Array]:
        def of_query(best_and_scores: tuple[tuple[Array, Array], Array]) -> tuple[Array, Array]:
            return _keep_best(*best_and_scores, jnp.arange(len(passages)), start, num_passages)

        return jax.lax.map(of_query, (best, scores), batch_size=_QUERY_MULTIPLE)

    lists = [groups for groups in _CANDIDATE_GROUPS if groups < promising.shape[1]]
    branches: list[Callable[[], tuple[Array, Array]]] = [
        none,
        *(partial(some, groups) for groups in lists),
        all_of_them,
    ]
    return jax.lax.switch(sum((most > groups).astype(jnp.int32) for groups in (0, *lists)), branches)


def _keep_best(
    best: tuple[Float32[Array, "*queries k"], Int32[Array, "*queries k"]],
    scores: Float32[Array, "*queries candidates"],
    offsets: Int32[Array, "*queries candidates"],
    start: Int[Array, ""],
    num_passages: Int[Array, ""],
) -> tuple[Float32[Array, "*queries k"], Int32[Array, "*queries k"]]:
    """The best of the lists so far and of candidates that stand, in order, at `offsets` of the block at `start`."""
    scores = jnp.where(scores == 0, 0.0, scores)  # top_k puts -0.0 behind 0.0, but they are a tie
    scores = jnp.where(offsets < num_passages, scores, -jnp.inf)
    # top_k keeps the first of equals, and everything seen so far has a smaller position than this block.
    scores, at = jax.lax.top_k(jnp.concatenate([best[0], scores], -1), best[0].shape[-1])
    positions = jnp.concatenate([best[1], start + offsets], -1)
    return scores, jnp.take_along_axis(positions, at, -1)


@jax.jit
def _pick(
    known: Float32[Array, "queries per_query"],
    queries: Float32[Array, "queries dim"],
    places: Int32[Array, "queries per_query"],
    passages: Float32[Array, "passages dim"],
    start: Int[Array, ""],
    num_passages: Int[Array, ""],
) -> Float32[Array, "queries per_query"]:
    """The scores known so far, and those of the passages of one block at `places`."""
    at = places - start
    picked = jnp.take_along_axis(_scores(queries, passages), jnp.clip(at, 0, len(passages) - 1), 1)
    return jnp.where((at >= 0) & (at < num_passages), picked, known)


@jax.jit
def _count_ahead(
    ahead: Int32[Array, "queries per_query"],
    queries: Float32[Array, "queries dim"],
    wanted_scores: Float32[Array, "queries per_query"],
    wanted: Int32[Array, "queries per_query"],
    passages: Float32[Array, "passages dim"],
    start: Int[Array, ""],
    num_passages: Int[Array, ""],
) -> Int32[Array, "queries per_query"]:
    """How many passages stand ahead of each wanted one, in this block and those before it."""
    offset = jnp.arange(len(passages), dtype=jnp.int32)
    scores = jnp.where(offset < num_passages, _scores(queries, passages), -jnp.inf)

    def of_column(column: tuple[Array, Array]) -> Int32[Array, " queries"]:
        score, position = (values[:, None] for values in column)
        return jnp.sum((scores > score) | ((scores == score) & (start + offset < position)), 1, dtype=jnp.int32)

    return ahead + jax.lax.map(of_column, (wanted_scores.T, wanted.T)).T


def _scores(
    queries: Float32[Array, "queries dim"], passages: Float32[Array, "passages dim"]
) -> Float32[Array, "queries passages"]:
    """Inner products in full float32."""
    return jnp.einsum("qd,pd->qp", queries, passages, precision=jax.lax.Precision.HIGHEST)


def _check_width(queries: np.ndarray, passages: Rows) -> None:
    if queries.shape[1] != passages.shape[1]:
        raise ValueError(
            f"query embeddings have {queries.shape[1]} dimensions, passage embeddings {passages.shape[1]}; "
            "encode both with the same model"
        )


def _query_blocks(
    queries: Float32[np.ndarray, "queries dim"], query_block: int
) -> Float32[np.ndarray, "blocks block dim"]:
    """As few blocks as allowed, evenly filled."""
    blocks = -(-len(queries) // query_block)
    size = _round_up(-(-len(queries) // blocks), _QUERY_MULTIPLE)
    return _pad_rows(queries, blocks * size).reshape(blocks, size, -1)


def _block_size(passages: Rows, passage_block: int) -> int:
    return min(_round_up(passage_block, _PASSAGE_MULTIPLE), _round_up(len(passages), _PASSAGE_MULTIPLE))


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _pad_rows(rows: np.ndarray, n: int) -> np.ndarray:
    return rows if len(rows) == n else np.pad(rows, ((0, n - len(rows)), (0, 0)))
