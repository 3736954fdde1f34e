"""The mathematics of fused attention on one tile: one head of a block of queries and a block of keys.

The kernels of `jaxretr.model.fused_attention` and `jaxretr.model.fused_blocks` call these functions on values in
scratch memory.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from jaxretr.model.attention import NEVER

SMALL_MEMORY = 16 * 2**20
LARGE_MEMORY = 64 * 2**20
"""Largest reservation of scratch memory: all that a v5p core has, half of what a v5e or v6e core has."""


class Settings(NamedTuple):
    """The static settings of the kernels.

    Attributes:
      heads: number of heads.
      dropped: the share of probabilities that dropout drops, in 256ths.
      interpret: run in Pallas's interpreter, on any device.
    """

    heads: int
    dropped: int = 0
    interpret: bool = False


class Tile(NamedTuple):
    """One head of a block of queries and a block of keys.

    Attributes:
      q, k, v: [queries, dim], [keys, dim], [keys, dim].
      attended: which keys each query attends to.
      kept: which probabilities dropout keeps; None for all.
    """

    q: Array
    k: Array
    v: Array
    attended: Array
    kept: Array | None

    @property
    def scores(self) -> Float32[Array, "queries keys"]:
        scores = dot(self.q, self.k, 1, 1) * np.float32(1 / math.sqrt(self.q.shape[1]))
        return jnp.where(self.attended, scores, NEVER)

    def dropped_out(self, x: Float32[Array, "queries keys"], dropped: int) -> Float32[Array, "queries keys"]:
        return x if self.kept is None else jnp.where(self.kept, x * np.float32(256 / (256 - dropped)), 0)


def dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Float32[Array, "_ _"]:
    """Return the product of two matrices over one axis of each, summed in float32; float32 operands are exact."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((contract_a,), (contract_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def tile_of(settings: Settings, head: int, q, k, v, attended, seed_ref, row, query_at, key_at) -> Tile:  # type: ignore[no-untyped-def]
    """Return one head of blocks [tokens, hidden] of queries, keys and values.

    Args:
      settings, head: static.
      q, k, v: references to blocks with a leading axis of size 1.
      attended: which keys each query attends to.
      seed_ref: reference to the seed.
      row: index of the row.
      query_at, key_at: positions of the queries [queries, 1] and keys [1, keys] in the row.
    """
    dim = q.shape[-1] // settings.heads
    columns = slice(head * dim, (head + 1) * dim)
    keep = kept(seed_ref[0], row, head, query_at, key_at, settings.dropped) if settings.dropped else None
    return Tile(q[0, :, columns], k[0, :, columns], v[0, :, columns], attended, keep)


def gradients(settings: Settings, tile: Tile, probabilities, of_probabilities, inner, gradient):  # type: ignore[no-untyped-def]
    """Return the gradients of the tile's queries, keys and values.

    Args:
      settings, tile: as in `_tile`.
      probabilities: softmax of the scores, before dropout.
      of_probabilities: gradient of these probabilities.
      inner: per query, the sum over all keys of probability times its gradient.
      gradient: gradient of the tile's output [queries, dim].
    """
    dtype = tile.q.dtype
    scale = np.float32(1 / math.sqrt(tile.q.shape[1]))
    of_scores = (probabilities * (of_probabilities - inner) * scale).astype(dtype)
    used = tile.dropped_out(probabilities, settings.dropped).astype(dtype)
    return dot(of_scores, tile.k, 1, 0), dot(of_scores, tile.q, 0, 0), dot(used, gradient, 0, 0)


def kept(
    seed: UInt32[Array, ""],
    row: Array | int,
    head: int,
    queries: Int32[Array, "q 1"],
    keys: Int32[Array, "1 k"],
    dropped: int,
) -> Bool[Array, "q k"]:
    """Return which attention probabilities dropout keeps.

    The hash mixes 32 bits by two multiplications and three shifts (Wellons, "lowbias32").
    """
    base = _mixed(seed + np.uint32(0x9E3779B9) * (jnp.asarray(row, jnp.uint32) * np.uint32(257) + np.uint32(head)))
    of_query = _mixed(base ^ queries.astype(jnp.uint32))
    return (_mixed(of_query + keys.astype(jnp.uint32)) >> np.uint32(24)) >= np.uint32(dropped)


def _mixed(x: Array) -> Array:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def positions(length: int, start: Array | int = 0) -> tuple[Array, Array]:
    """Return the positions of a block in its row, from `start`, as a column [length, 1] and as a row [1, length]."""
    return (
        start + jax.lax.broadcasted_iota(jnp.int32, (length, 1), 0),
        start + jax.lax.broadcasted_iota(jnp.int32, (1, length), 1),
    )


def cost(settings: Settings, qkv: Array, products: int, moved: int) -> pl.CostEstimate:
    """Return the cost of a kernel.

    Args:
      settings, qkv: as for the kernel.
      products: number of products of [length, length] and a head's dimensions.
      moved: number of arrays [rows, length, hidden] that are read from and written to main memory. An array that is
        read again for every block counts each time.
    """
    rows, length, width = qkv.shape
    return pl.CostEstimate(
        flops=2 * products * rows * length * length * (width // 3),
        transcendentals=rows * length * length * settings.heads,
        bytes_accessed=moved * rows * length * (width // 3) * qkv.dtype.itemsize,
    )


def compiler_params(semantics: tuple[Any, ...], memory: int) -> pltpu.CompilerParams:
    """Reserve little scratch memory for a small kernel: XLA keeps other arrays in the rest."""
    limit = SMALL_MEMORY if memory < SMALL_MEMORY else LARGE_MEMORY
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=limit)
