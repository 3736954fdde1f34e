"""Attention in one TPU kernel: scores, softmax and dropout stay in the chip's scratch memory.

Input: queries, keys and values [rows, length, 3 × hidden], as one matrix product writes them, and the text of each
position. Output: [rows, length, hidden], as the next matrix product reads it. Neither is transposed in main memory. The
backward pass computes the scores again.

Rows of up to `WHOLE` tokens are one block, so a row is read and written once. Longer rows are computed in blocks of
`BLOCK` tokens with a running softmax (Rabe and Staats, arXiv:2112.05682; Dao et al., arXiv:2205.14135).

A hash of the seed, the row, the head and both positions selects the entries that dropout drops. So both passes drop the
same entries for every block size, and a test can compute them without a TPU. The generator of a TPU core would give
other bits in another block size, and no bits at all in Pallas's interpreter.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt32

from jaxretr.model.attention import NEVER, dropped_of_256

WHOLE = 1024
"""Largest number of tokens in a row that is one block."""
BLOCK = 512
"""Tokens of a block of a longer row."""
SUBLANES = 16
"""Lengths are padded to a multiple of this number: the rows of a tile of bfloat16 numbers."""
_NO_TEXT = -2  # the text of added positions; the padding of a row has the text -1
_SMALL_MEMORY = 16 * 2**20
_LARGE_MEMORY = 64 * 2**20  # all of the scratch memory of a v5p core, half of that of a v5e or v6e core


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


def fused_attention(
    qkv: Float[Array, "rows length qkv"],
    texts: Int32[Array, "rows length"],
    heads: int,
    *,
    dropout_rate: float = 0.0,
    seed: UInt32[Array, ""] | None = None,
    interpret: bool = False,
) -> Float[Array, "rows length hidden"]:
    """Return the output of bidirectional multi-head attention within each text.

    Args:
      qkv: queries, keys and values of all heads, side by side.
      texts: text of each position; positions attend to each other if they have the same text.
      heads: number of heads.
      dropout_rate: probability of dropping an attention probability, rounded to a multiple of 1/256.
      seed: seed of dropout; None for no dropout. Equal seeds drop equal entries.
      interpret: run in Pallas's interpreter, which works on every device and is slow.
    """
    length = qkv.shape[1]
    multiple = SUBLANES if _is_whole(qkv) else BLOCK
    missing = -length % multiple
    if missing:
        qkv = jnp.pad(qkv, [(0, 0), (0, missing), (0, 0)])
        texts = jnp.pad(texts, [(0, 0), (0, missing)], constant_values=_NO_TEXT)
    dropped = 0 if seed is None else dropped_of_256(dropout_rate)
    seed = jnp.zeros((), jnp.uint32) if seed is None else seed
    out = _attention(Settings(heads, dropped, interpret), qkv, texts, seed)
    return out[:, :length] if missing else out


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(settings: Settings, qkv: Array, texts: Array, seed: Any) -> Array:
    return _forward(settings, qkv, texts, seed)[0]


def _forward(settings: Settings, qkv: Array, texts: Array, seed: Any) -> tuple[Array, tuple[Any, ...]]:
    if _is_whole(qkv):
        out = _call_whole(_forward_kernel, settings, qkv, texts, seed)
        return out, (qkv, texts, seed)
    out, log_sums = _forward_in_blocks(settings, qkv, texts, seed)
    return out, (qkv, texts, seed, out, log_sums)


def _backward(settings: Settings, saved: tuple[Any, ...], gradient: Array) -> tuple[Array, None, None]:
    qkv, texts, seed, *of_blocks = saved
    gradient = gradient.astype(qkv.dtype)
    if _is_whole(qkv):
        return _call_whole(_backward_kernel, settings, qkv, texts, seed, gradient), None, None
    return _backward_in_blocks(settings, qkv, texts, seed, gradient, *of_blocks), None, None


_attention.defvjp(_forward, _backward)


def _is_whole(qkv: Array) -> bool:
    """Return whether a row is one block."""
    _, length, width = qkv.shape
    return length <= WHOLE and _whole_memory(length, width, qkv.dtype.itemsize) <= _LARGE_MEMORY


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
        scores = _dot(self.q, self.k, 1, 1) * np.float32(1 / math.sqrt(self.q.shape[1]))
        return jnp.where(self.attended, scores, NEVER)

    def dropped_out(self, x: Float32[Array, "queries keys"], dropped: int) -> Float32[Array, "queries keys"]:
        return x if self.kept is None else jnp.where(self.kept, x * np.float32(256 / (256 - dropped)), 0)


def _dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Float32[Array, "_ _"]:
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((contract_a,), (contract_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _tile(settings: Settings, head: int, q, k, v, attended, seed_ref, row, query_at, key_at) -> Tile:  # type: ignore[no-untyped-def]
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


def _thirds(ref):  # type: ignore[no-untyped-def]
    hidden = ref.shape[-1] // 3
    return (ref.at[:, :, part * hidden : (part + 1) * hidden] for part in range(3))


def _positions(length: int, start: Array | int = 0) -> tuple[Array, Array]:
    return (
        start + jax.lax.broadcasted_iota(jnp.int32, (length, 1), 0),
        start + jax.lax.broadcasted_iota(jnp.int32, (1, length), 1),
    )


def _forward_kernel(settings: Settings, seed_ref, texts_of_queries, texts_of_keys, qkv, out) -> None:  # type: ignore[no-untyped-def]
    q, k, v = _thirds(qkv)
    attended = texts_of_queries[0] == texts_of_keys[0]
    at = _positions(qkv.shape[1])
    outputs = []
    for head in range(settings.heads):
        tile = _tile(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), *at)
        probabilities = _softmax(tile.scores)
        outputs.append(_dot(tile.dropped_out(probabilities, settings.dropped).astype(tile.v.dtype), tile.v, 1, 0))
    out[0] = jnp.concatenate(outputs, axis=1).astype(out.dtype)


def _backward_kernel(settings: Settings, seed_ref, texts_of_queries, texts_of_keys, qkv, gradient, out) -> None:  # type: ignore[no-untyped-def]
    q, k, v = _thirds(qkv)
    attended = texts_of_queries[0] == texts_of_keys[0]
    at = _positions(qkv.shape[1])
    dim = gradient.shape[-1] // settings.heads
    of_q: list[Array] = []
    of_k: list[Array] = []
    of_v: list[Array] = []
    for head in range(settings.heads):
        tile = _tile(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), *at)
        probabilities = _softmax(tile.scores)
        g = gradient[0, :, head * dim : (head + 1) * dim]
        of_probabilities = tile.dropped_out(_dot(g, tile.v, 1, 1), settings.dropped)
        inner = jnp.sum(probabilities * of_probabilities, axis=1, keepdims=True)
        for part, value in zip(
            (of_q, of_k, of_v), _gradients(settings, tile, probabilities, of_probabilities, inner, g), strict=True
        ):
            part.append(value)
    out[0] = jnp.concatenate([*of_q, *of_k, *of_v], axis=1).astype(out.dtype)


def _gradients(settings: Settings, tile: Tile, probabilities, of_probabilities, inner, gradient):  # type: ignore[no-untyped-def]
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
    return _dot(of_scores, tile.k, 1, 0), _dot(of_scores, tile.q, 0, 0), _dot(used, gradient, 0, 0)


def _softmax(scores: Float32[Array, "queries keys"]) -> Float32[Array, "queries keys"]:
    exponentials = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    return exponentials / jnp.sum(exponentials, axis=1, keepdims=True)


def _call_whole(kernel, settings: Settings, qkv: Array, texts: Array, seed: Any, *more: Array) -> Array:  # type: ignore[no-untyped-def]
    """Run a kernel once per row.

    The forward kernel writes [rows, length, hidden]. The backward kernel gets the gradient of the output in `more` and
    writes [rows, length, 3 × hidden].
    """
    rows, length, width = qkv.shape
    out_width = width if more else width // 3

    def row_of(columns: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, length, columns), lambda row: (row, 0, 0))

    return pl.pallas_call(
        functools.partial(kernel, settings),
        grid=(rows,),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            row_of(1),
            pl.BlockSpec((1, 1, length), lambda row: (row, 0, 0)),
            row_of(width),
            *(row_of(array.shape[-1]) for array in more),
        ],
        out_specs=row_of(out_width),
        out_shape=jax.ShapeDtypeStruct((rows, length, out_width), qkv.dtype),
        compiler_params=_compiler_params(("parallel",), _whole_memory(length, width, qkv.dtype.itemsize)),
        cost_estimate=_cost(settings, qkv, 5, 7) if more else _cost(settings, qkv, 2, 4),
        interpret=settings.interpret,
        name=kernel.__name__.strip("_"),
    )(seed.reshape(1), texts[:, :, None], texts[:, None, :], qkv, *more)


def _cost(settings: Settings, qkv: Array, products: int, moved: int) -> pl.CostEstimate:
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


def _block_specs(hidden: int, query_axis: int) -> dict[str, pl.BlockSpec]:
    """Return the blocks of a grid (row, i, j), in which the queries move along `query_axis` and the keys along the
    other axis."""

    def block(shape: tuple[int, ...], place) -> pl.BlockSpec:  # type: ignore[no-untyped-def]
        def index(row, i, j):  # type: ignore[no-untyped-def]
            return place(row, *((i, j) if query_axis == 1 else (j, i)))

        return pl.BlockSpec(shape, index)

    return {
        "texts_of_queries": block((1, BLOCK, 1), lambda row, q, k: (row, q, 0)),
        "texts_of_keys": block((1, 1, BLOCK), lambda row, q, k: (row, 0, k)),
        "q": block((1, BLOCK, hidden), lambda row, q, k: (row, q, 0)),
        "k": block((1, BLOCK, hidden), lambda row, q, k: (row, k, 1)),
        "v": block((1, BLOCK, hidden), lambda row, q, k: (row, k, 2)),
        "of_query": block((1, BLOCK, hidden), lambda row, q, k: (row, q, 0)),
        "of_key": block((1, BLOCK, hidden), lambda row, q, k: (row, k, 0)),
    }


def _forward_in_blocks(settings: Settings, qkv: Array, texts: Array, seed: Any) -> tuple[Array, Array]:
    """Return the output, and the logarithm of each softmax's sum [rows, length, heads] in float32."""
    rows, length, width = qkv.shape
    hidden, heads = width // 3, settings.heads
    specs = _block_specs(hidden, query_axis=1)
    per_head = pl.BlockSpec((1, BLOCK, heads), lambda row, i, j: (row, i, 0))
    return pl.pallas_call(
        functools.partial(_forward_block_kernel, settings),
        grid=(rows, length // BLOCK, length // BLOCK),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            *(specs[name] for name in ("texts_of_queries", "texts_of_keys", "q", "k", "v")),
        ],
        out_specs=(specs["of_query"], per_head),
        out_shape=(
            jax.ShapeDtypeStruct((rows, length, hidden), qkv.dtype),
            jax.ShapeDtypeStruct((rows, length, heads), jnp.float32),
        ),
        scratch_shapes=[
            pltpu.VMEM((BLOCK, hidden), jnp.float32),
            pltpu.VMEM((BLOCK, heads), jnp.float32),
            pltpu.VMEM((BLOCK, heads), jnp.float32),
        ],
        compiler_params=_IN_BLOCKS,
        cost_estimate=_cost(settings, qkv, 2, 2 + 2 * (length // BLOCK)),
        interpret=settings.interpret,
        name="forward_block_kernel",
    )(seed.reshape(1), texts[:, :, None], texts[:, None, :], qkv, qkv, qkv)


def _whole_memory(length: int, width: int, itemsize: int) -> int:
    """Return an upper bound on the bytes of scratch memory of a kernel of one block.

    It has two copies of every block of main memory, the float32 output, and about eight arrays of scores.
    """
    return length * (width * (4 + 4 * itemsize) + 8 * 4 * length)


def _compiler_params(semantics: tuple[Any, ...], memory: int) -> pltpu.CompilerParams:
    """Reserve little scratch memory for a small kernel: XLA keeps other arrays in the rest."""
    limit = _SMALL_MEMORY if memory < _SMALL_MEMORY else _LARGE_MEMORY
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=limit)


_IN_BLOCKS = _compiler_params(("parallel", "parallel", "arbitrary"), _LARGE_MEMORY)


def _forward_block_kernel(  # type: ignore[no-untyped-def]
    settings: Settings, seed_ref, texts_of_queries, texts_of_keys, q, k, v, out, log_sums, total, largest, summed
) -> None:
    key_block = pl.program_id(2)

    @pl.when(key_block == 0)
    def _() -> None:
        total[...] = jnp.zeros_like(total)
        largest[...] = jnp.full_like(largest, NEVER)
        summed[...] = jnp.zeros_like(summed)

    attended = texts_of_queries[0] == texts_of_keys[0]
    query_at, key_at = _positions(BLOCK, pl.program_id(1) * BLOCK)[0], _positions(BLOCK, key_block * BLOCK)[1]
    dim = q.shape[-1] // settings.heads
    for head in range(settings.heads):
        tile = _tile(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), query_at, key_at)
        columns, column = slice(head * dim, (head + 1) * dim), slice(head, head + 1)
        scores = tile.scores
        before = largest[:, column]
        after = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        # A block without a key of the query's text has scores of NEVER only: they add nothing.
        exponentials = jnp.where(attended, jnp.exp(scores - after), 0)
        correction = jnp.exp(before - after)
        summed[:, column] = summed[:, column] * correction + jnp.sum(exponentials, axis=1, keepdims=True)
        used = tile.dropped_out(exponentials, settings.dropped).astype(tile.v.dtype)
        total[:, columns] = total[:, columns] * correction + _dot(used, tile.v, 1, 0)
        largest[:, column] = after

    @pl.when(key_block == pl.num_programs(2) - 1)
    def _() -> None:
        for head in range(settings.heads):
            columns, column = slice(head * dim, (head + 1) * dim), slice(head, head + 1)
            out[0, :, columns] = (total[:, columns] / summed[:, column]).astype(out.dtype)
        log_sums[0] = largest[...] + jnp.log(summed[...])


def _backward_in_blocks(
    settings: Settings, qkv: Array, texts: Array, seed: Any, gradient: Array, out: Array, log_sums: Array
) -> Array:
    rows, length, width = qkv.shape
    hidden, heads = width // 3, settings.heads
    products = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).reshape(rows, length, heads, -1)
    inner = jnp.sum(products, axis=-1)
    arguments = (seed.reshape(1), texts[:, :, None], texts[:, None, :], qkv, qkv, qkv, gradient, log_sums, inner)

    def call(kernel, query_axis: int, outputs: int, products: int):  # type: ignore[no-untyped-def]
        specs = _block_specs(hidden, query_axis)
        per_head = pl.BlockSpec((1, BLOCK, heads), lambda row, i, j: (row, i if query_axis == 1 else j, 0))
        return pl.pallas_call(
            functools.partial(kernel, settings),
            grid=(rows, length // BLOCK, length // BLOCK),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.SMEM),
                *(specs[name] for name in ("texts_of_queries", "texts_of_keys", "q", "k", "v", "of_query")),
                per_head,
                per_head,
            ],
            out_specs=[specs["of_query" if query_axis == 1 else "of_key"]] * outputs,
            out_shape=[jax.ShapeDtypeStruct((rows, length, hidden), qkv.dtype)] * outputs,
            scratch_shapes=[pltpu.VMEM((BLOCK, hidden), jnp.float32)] * outputs,
            compiler_params=_IN_BLOCKS,
            cost_estimate=_cost(settings, qkv, products, 2 + outputs + 2 * (length // BLOCK)),
            interpret=settings.interpret,
            name=kernel.__name__.strip("_"),
        )(*arguments)

    (of_q,) = call(_query_gradient_kernel, 1, 1, 3)
    of_k, of_v = call(_key_gradient_kernel, 2, 2, 4)
    return jnp.concatenate([of_q, of_k, of_v], axis=-1)


def _query_gradient_kernel(settings, seed_ref, *references) -> None:  # type: ignore[no-untyped-def]
    *inputs, out, total = references
    _add_gradients(settings, seed_ref, inputs, (pl.program_id(1), pl.program_id(2)), (total, None, None))
    _write_at_the_end((out, total))


def _key_gradient_kernel(settings, seed_ref, *references) -> None:  # type: ignore[no-untyped-def]
    *inputs, of_k, of_v, total_k, total_v = references
    _add_gradients(settings, seed_ref, inputs, (pl.program_id(2), pl.program_id(1)), (None, total_k, total_v))
    _write_at_the_end((of_k, total_k), (of_v, total_v))


def _add_gradients(settings, seed_ref, inputs, blocks, totals) -> None:  # type: ignore[no-untyped-def]
    """Add the gradients of one pair of blocks to the totals of queries, keys and values; skip a total that is None."""
    texts_of_queries, texts_of_keys, q, k, v, gradient, log_sums, inner = inputs

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        for total in totals:
            if total is not None:
                total[...] = jnp.zeros_like(total)

    attended = texts_of_queries[0] == texts_of_keys[0]
    query_at, key_at = (_positions(BLOCK, block * BLOCK)[axis] for axis, block in enumerate(blocks))
    dim = q.shape[-1] // settings.heads
    for head in range(settings.heads):
        tile = _tile(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), query_at, key_at)
        columns, column = slice(head * dim, (head + 1) * dim), slice(head, head + 1)
        probabilities = jnp.where(attended, jnp.exp(tile.scores - log_sums[0, :, column]), 0)
        g = gradient[0, :, columns]
        of_probabilities = tile.dropped_out(_dot(g, tile.v, 1, 1), settings.dropped)
        values = _gradients(settings, tile, probabilities, of_probabilities, inner[0, :, column], g)
        for total, value in zip(totals, values, strict=True):
            if total is not None:
                total[:, columns] += value


def _write_at_the_end(*pairs) -> None:  # type: ignore[no-untyped-def]
    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        for out, total in pairs:
            out[0] = total[...].astype(out.dtype)
