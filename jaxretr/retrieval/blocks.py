"""Blocks of a corpus on the devices: how exact search walks through passages that do not fit into memory.

`fold` shows every block of passages to every block of queries. All blocks of one walk have one shape, and so share one
compilation a device. `between` compares the products of a block with bounds, and says which of them only the scores of
`jaxretr.retrieval.scores` can decide.
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

QUERY_MULTIPLE = 32  # sets of queries and corpora of similar size share a compilation
_PASSAGE_MULTIPLE = 256
_LARGEST_BLOCK = 65_280  # passages whose number fits into 16 bits
_THREADS = 4  # blocks of queries that a device works on at once
_WORD = 32  # products that share a word of marks
_FEWEST, _MOST = 32, 512  # pairs whose products are marked at once; powers of four between, so few compilations


class Block(NamedTuple):
    """Consecutive passages.

    Attributes:
      start: position of the first one.
      rows: their embeddings, on the host.
      padded: the same on a device, filled up with zeros to the size of all blocks.
      longest: the largest norm of the rows.
    """

    start: int
    rows: Float32[np.ndarray, "rows dim"]
    padded: Float32[Array, "passages dim"]
    longest: float


class Between(NamedTuple):
    """What `between` found: products above the bounds are counted, products within them are listed.

    Attributes:
      above: how many products lie above each pair of bounds.
      row, column: whose bounds a product lies within.
      offset: the place of its passage in the block.
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
    """Show every block of passages to one of the devices, and there to every block of queries.

    Args:
      update: (state, queries on the device, block, *constants) -> state.
      initial: the states to begin with, one for each block of queries.
      constants: for each block of queries its embeddings, and what else `update` takes.
      passages: all passages.
      passage_block: how many are a block.

    Returns:
      On the host, the last states of each device; and the largest norm of all passages.
    """
    starts = range(0, len(passages), passage_block)
    devices = jax.local_devices()[: len(starts)]
    longest = 0.0

    def step(state: Future, *rest: Any) -> Any:
        return jax.block_until_ready(update(state.result(), *rest))

    # On a CPU, JAX computes in the thread that asks: while one thread selects, which takes one core, others multiply.
    with ThreadPoolExecutor(_THREADS * len(devices)) as pool:
        current: list[list[Future]] = [[pool.submit(copy, state) for state in initial] for _ in devices]
        queries = [jax.device_put([of_block[0] for of_block in constants], device) for device in devices]
        for number, start in enumerate(starts):
            at = number % len(devices)
            rows = passages[start : start + passage_block]
            block = Block(start, rows, jax.device_put(pad_rows(rows, passage_block), devices[at]), largest_norm(rows))
            longest = max(longest, block.longest)
            before = current[at]
            current[at] = [
                pool.submit(step, state, on_device, block, *of_block)
                for state, on_device, of_block in zip(before, queries[at], constants, strict=True)
            ]
            for state in before:  # so the host is one block ahead of each device, and no further
                state.result()
        return [[jax.device_get(state.result()) for state in states] for states in current], longest


def between(
    queries: Float32[Array, "queries dim"],
    block: Block,
    low: Float32[np.ndarray, "queries columns"],
    high: Float32[np.ndarray, "queries columns"],
    left_out: Int32[np.ndarray, "queries columns"],
) -> Between:
    """Compare the products of queries and a block with bounds of each query.

    Args:
      queries: on the device of the block.
      block: some passages.
      low, high: bounds; both belong to what lies within.
      left_out: positions of passages that do not count.
    """
    size = len(block.rows)
    products = products_of(queries, block.padded)
    above, within = (np.asarray(n) for n in _count(products, low, high, left_out, block.start, size))
    row, column = np.nonzero(within)
    if not len(row):
        return Between(above, row, column, row)
    # They are listed from the same products: those of another program could be rounded differently.
    listed = [
        _listed(products, low, high, row[at : at + _MOST], column[at : at + _MOST]) for at in range(0, len(row), _MOST)
    ]
    row, column, offset = (np.concatenate(parts) for parts in zip(*listed, strict=True))
    counts = (offset < size) & (block.start + offset != left_out[row, column])
    return Between(above, row[counts], column[counts], offset[counts])


def _listed(
    products: Array, low: np.ndarray, high: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and offset of every product within the bounds of some pairs of row and column."""
    sent = _FEWEST
    while sent < len(row):
        sent *= 4
    pairs = np.zeros((2, sent), np.int32)
    pairs[:, : len(row)] = row, column
    words = np.asarray(_mark(products, low, high, pairs))[: len(row)]
    pair, word = np.nonzero(words)
    some, bit = np.nonzero((words[pair, word, None] >> np.arange(_WORD, dtype=np.uint32)) & 1)
    return row[pair[some]], column[pair[some]], word[some] * _WORD + bit


@jax.jit
def products_of(
    queries: Float32[Array, "queries dim"], passages: Float32[Array, "passages dim"]
) -> Float32[Array, "queries passages"]:
    """Inner products in full float32."""
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
    """How many of the first `size` products lie above the bounds, and how many within them."""
    products = jnp.where(jnp.arange(products.shape[1]) < size, products, -jnp.inf)

    def of_column(bounds: tuple[Array, Array]) -> UInt32[Array, " queries"]:
        least, most = (bound[:, None] for bound in bounds)
        # Two counts in one sum, which XLA computes in one pass over the products.
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
    """A bit for every product that lies within the bounds of a pair of row and column, 32 in a word."""
    bits = jnp.uint32(1) << jnp.arange(_WORD, dtype=jnp.uint32)
    rows, columns = pairs
    grouped = products.reshape(len(products), -1, _WORD)[rows]
    least, most = (bound[rows, columns][:, None, None] for bound in (low, high))
    return jnp.sum(jnp.where((grouped >= least) & (grouped <= most), bits, jnp.uint32(0)), 2, dtype=jnp.uint32)


def query_blocks(
    queries: Float32[np.ndarray, "queries dim"], query_block: int
) -> Float32[np.ndarray, "blocks block dim"]:
    """As few blocks as allowed, evenly filled."""
    blocks = -(-len(queries) // query_block)
    size = _round_up(-(-len(queries) // blocks), QUERY_MULTIPLE)
    return pad_rows(queries, blocks * size).reshape(blocks, size, -1)


def block_size(passages: Rows, passage_block: int) -> int:
    """Passages of a block, padding included."""
    return min(_LARGEST_BLOCK, *(_round_up(size, _PASSAGE_MULTIPLE) for size in (passage_block, len(passages))))


def pad_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """The rows, filled up with zeros to `n`."""
    return rows if len(rows) == n else np.pad(rows, ((0, n - len(rows)), *[(0, 0)] * (rows.ndim - 1)))


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
