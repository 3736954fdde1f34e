"""Walk through a corpus on the devices, block by block: exact search over passages that do not fit into memory.

`fold` combines every block of passages with every block of queries. All blocks of one call have the same shape, so each
device compiles once. `between` compares the products of a block with bounds, and lists the products that only the
scores of `jaxretr.retrieval.scores` can decide.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32, UInt32

from jaxretr.retrieval.embeddings import Rows
from jaxretr.retrieval.scores import largest_norm

QUERY_MULTIPLE = 32  # block sizes are rounded up to a multiple, so that similar sizes share a compilation
_PASSAGE_MULTIPLE = 256
_LARGEST_BLOCK = 65_280  # passages; a count of them fits into 16 bits, see `_count`
_THREADS = 4  # blocks of queries per device that are processed at once
_WORD = 32  # products per word; each bit marks one product
_FEWEST, _MOST = 32, 512  # pairs per call of `_mark`; sizes grow by a factor of four, so compilations are few


class Block(NamedTuple):
    """Consecutive passages.

    Attributes:
      start: position of the first passage.
      rows: embeddings of the passages, on the host.
      padded: the embeddings on a device, padded with zero rows to the common size of all blocks.
      max_norm: largest L2 norm of the rows.
    """

    start: int
    rows: Float32[np.ndarray, "rows dim"]
    padded: Float32[Array, "passages dim"]
    max_norm: float


class Between(NamedTuple):
    """Result of `between`: the products above the bounds are counted, the products within the bounds are listed.

    Attributes:
      above: number of products above each pair of bounds.
      row, column: query and column of the bounds that a listed product lies within.
      offset: position of the listed product's passage in the block.
    """

    above: Int32[np.ndarray, "queries columns"]
    row: Int[np.ndarray, " within"]
    column: Int[np.ndarray, " within"]
    offset: Int[np.ndarray, " within"]


def fold[State](
    update: Callable[..., State],
    initial: Sequence[State],
    constants: Sequence[tuple[np.ndarray, ...]],
    passages: Rows,
    passage_block: int,
) -> tuple[list[list[State]], float]:
    """Send every block of passages to one of the devices, and combine it there with every block of queries.

    Args:
      update: (state, queries on the device, block, *constants) -> state.
      initial: initial state of each block of queries.
      constants: for each block of queries, its embeddings and further arguments of `update`.
      passages: embeddings of all passages.
      passage_block: number of passages per block.

    Returns:
      The final states of each device, on the host, and the largest norm of all passages.
    """
    starts = range(0, len(passages), passage_block)
    devices = jax.local_devices()[: len(starts)]
    max_norm = 0.0

    def step(state: Future, *rest: Any) -> Any:
        return jax.block_until_ready(update(state.result(), *rest))

    # On a CPU, JAX computes in the calling thread. While one thread selects, on one core, other threads multiply.
    with ThreadPoolExecutor(_THREADS * len(devices)) as pool:
        current: list[list[Future]] = [[pool.submit(copy, state) for state in initial] for _ in devices]
        queries = [jax.device_put([of_block[0] for of_block in constants], device) for device in devices]
        for number, start in enumerate(starts):
            at = number % len(devices)
            rows = passages[start : start + passage_block]
            block = Block(start, rows, jax.device_put(pad_rows(rows, passage_block), devices[at]), largest_norm(rows))
            max_norm = max(max_norm, block.max_norm)
            before = current[at]
            current[at] = [
                pool.submit(step, state, on_device, block, *of_block)
                for state, on_device, of_block in zip(before, queries[at], constants, strict=True)
            ]
            for state in before:  # so the host is at most one block ahead of each device
                state.result()
        return [[jax.device_get(state.result()) for state in states] for states in current], max_norm


def between(
    queries: Float32[Array, "queries dim"],
    block: Block,
    low: Float32[np.ndarray, "queries columns"],
    high: Float32[np.ndarray, "queries columns"],
    left_out: Int32[np.ndarray, "queries columns"],
) -> Between:
    """Compare the products of queries and a block with bounds of each query.

    Args:
      queries: query embeddings, on the device of the block.
      block: a block of passages.
      low, high: lower and upper bounds, several pairs per query; a product equal to a bound is within.
      left_out: position of the passage that each pair of bounds ignores; -1 for none.
    """
    size = len(block.rows)
    products = products_of(queries, block.padded)
    above, within = (np.asarray(n) for n in _count(products, low, high, left_out, block.start, size))
    row, column = np.nonzero(within)
    if not len(row):
        return Between(above, row, column, row)
    # List from the same products: another compiled program could round them differently.
    listed = [
        _listed(products, low, high, row[at : at + _MOST], column[at : at + _MOST]) for at in range(0, len(row), _MOST)
    ]
    row, column, offset = (np.concatenate(parts) for parts in zip(*listed, strict=True))
    counts = (offset < size) & (block.start + offset != left_out[row, column])
    return Between(above, row[counts], column[counts], offset[counts])


def _listed(
    products: Array, low: np.ndarray, high: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, column and offset of every product within the bounds of the given pairs of row and column."""
    sent = _FEWEST
    while sent < len(row):
        sent *= 4
    pairs = np.zeros((2, sent), np.int32)
    pairs[:, : len(row)] = row, column
    words = np.asarray(_mark(products, low, high, pairs))[: len(row)]
    pair, word = np.nonzero(words)
    entry, bit = np.nonzero((words[pair, word, None] >> np.arange(_WORD, dtype=np.uint32)) & 1)
    return row[pair[entry]], column[pair[entry]], word[entry] * _WORD + bit


@jax.jit
def products_of(
    queries: Float32[Array, "queries dim"], passages: Float32[Array, "passages dim"]
) -> Float32[Array, "queries passages"]:
    """Return inner products, computed in full float32."""
    return jnp.einsum("qd,pd->qp", queries, passages, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _count(
    products: Float32[Array, "queries passages"],
    low: Float32[Array, "queries columns"],
    high: Float32[Array, "queries columns"],
    left_out: Int32[Array, "queries columns"],
    start: Int[Array, ""],
    size: Int[Array, ""],
) -> tuple[Int32[Array, "queries columns"], Int32[Array, "queries columns"]]:
    """Return how many of the first `size` products lie above the bounds, and how many lie within the bounds."""
    products = jnp.where(jnp.arange(products.shape[1]) < size, products, -jnp.inf)

    def of_column(bounds: tuple[Array, Array]) -> UInt32[Array, " queries"]:
        least, most = (bound[:, None] for bound in bounds)
        # One sum holds two counts, so that XLA needs one pass over the products.
        return jnp.sum((products >= least) + jnp.uint32(1 << 16) * (products > most), 1, dtype=jnp.uint32)

    counts = jax.lax.map(of_column, (low.T, high.T)).T
    not_below, above = (part.astype(jnp.int32) for part in (counts & 0xFFFF, counts >> 16))
    at = left_out - start
    inside = (at >= 0) & (at < size)
    product = jnp.take_along_axis(products, jnp.clip(at, 0, products.shape[1] - 1), 1)
    not_below -= inside & (product >= low)
    above -= inside & (product > high)
    return above, not_below - above


@jax.jit
def _mark(
    products: Float32[Array, "queries passages"],
    low: Float32[Array, "queries columns"],
    high: Float32[Array, "queries columns"],
    pairs: Int32[Array, "2 pairs"],
) -> UInt32[Array, "pairs words"]:
    """Return a bit for every product, set if it is within the bounds of a pair of row and column; 32 bits per word."""
    bits = jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32)
    rows, columns = pairs
    grouped = products.reshape(len(products), -1, _WORD)[rows]
    least, most = (bound[rows, columns][:, None, None] for bound in (low, high))
    return jnp.sum(jnp.where((grouped >= least) & (grouped <= most), bits, jnp.uint32(0)), 2, dtype=jnp.uint32)


def query_blocks(
    queries: Float32[np.ndarray, "queries dim"], query_block: int
) -> Float32[np.ndarray, "blocks block dim"]:
    """Split queries into as few blocks as `query_block` allows, evenly filled and padded with zero rows."""
    blocks = -(-len(queries) // query_block)
    size = _round_up(-(-len(queries) // blocks), QUERY_MULTIPLE)
    return pad_rows(queries, blocks * size).reshape(blocks, size, -1)


def block_size(passages: Rows, passage_block: int) -> int:
    """Return the number of passages per block, including padding."""
    return min(_LARGEST_BLOCK, *(_round_up(size, _PASSAGE_MULTIPLE) for size in (passage_block, len(passages))))


def pad_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """Append zero rows up to a total of `n` rows."""
    return rows if len(rows) == n else np.pad(rows, ((0, n - len(rows)), *[(0, 0)] * (rows.ndim - 1)))


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
