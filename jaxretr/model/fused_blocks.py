"""Fused attention for rows of several blocks: kernels with a running softmax.

Input and output as in `jaxretr.model.fused_attention`. Source: Rabe and Staats, arXiv:2112.05682; Dao et al.,
arXiv:2205.14135. The length of a row is a multiple of `BLOCK`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from jaxretr.model.attention import NEVER
from jaxretr.model.fused_tiles import LARGE_MEMORY, Settings, compiler_params, cost, dot, gradients, positions, tile_of

BLOCK = 512
"""Tokens of a block."""
_IN_BLOCKS = compiler_params(("parallel", "parallel", "arbitrary"), LARGE_MEMORY)


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


def forward_in_blocks(settings: Settings, qkv: Array, texts: Array, seed: Any) -> tuple[Array, Array]:
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
        cost_estimate=cost(settings, qkv, 2, 2 + 2 * (length // BLOCK)),
        interpret=settings.interpret,
        name="forward_block_kernel",
    )(seed.reshape(1), texts[:, :, None], texts[:, None, :], qkv, qkv, qkv)


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
    query_at, key_at = positions(BLOCK, pl.program_id(1) * BLOCK)[0], positions(BLOCK, key_block * BLOCK)[1]
    dim = q.shape[-1] // settings.heads
    for head in range(settings.heads):
        tile = tile_of(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), query_at, key_at)
        columns, column = slice(head * dim, (head + 1) * dim), slice(head, head + 1)
        scores = tile.scores
        before = largest[:, column]
        after = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        # A block without a key of the query's text has scores of NEVER only: they add nothing.
        exponentials = jnp.where(attended, jnp.exp(scores - after), 0)
        correction = jnp.exp(before - after)
        summed[:, column] = summed[:, column] * correction + jnp.sum(exponentials, axis=1, keepdims=True)
        used = tile.dropped_out(exponentials, settings.dropped).astype(tile.v.dtype)
        total[:, columns] = total[:, columns] * correction + dot(used, tile.v, 1, 0)
        largest[:, column] = after

    @pl.when(key_block == pl.num_programs(2) - 1)
    def _() -> None:
        for head in range(settings.heads):
            columns, column = slice(head * dim, (head + 1) * dim), slice(head, head + 1)
            out[0, :, columns] = (total[:, columns] / summed[:, column]).astype(out.dtype)
        log_sums[0] = largest[...] + jnp.log(summed[...])


def backward_in_blocks(
    settings: Settings, qkv: Array, texts: Array, seed: Any, gradient: Array, out: Array, log_sums: Array
) -> Array:
    """Return the gradient of `qkv`, from the gradient of the output and both results of `forward_in_blocks`."""
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
            cost_estimate=cost(settings, qkv, products, 2 + outputs + 2 * (length // BLOCK)),
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
    query_at, key_at = (positions(BLOCK, block * BLOCK)[axis] for axis, block in enumerate(blocks))
    dim = q.shape[-1] // settings.heads
    for head in range(settings.heads):
        tile = tile_of(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), query_at, key_at)
        columns, column = slice(head * dim, (head + 1) * dim), slice(head, head + 1)
        probabilities = jnp.where(attended, jnp.exp(tile.scores - log_sums[0, :, column]), 0)
        g = gradient[0, :, columns]
        of_probabilities = tile.dropped_out(dot(g, tile.v, 1, 1), settings.dropped)
        values = gradients(settings, tile, probabilities, of_probabilities, inner[0, :, column], g)
        for total, value in zip(totals, values, strict=True):
            if total is not None:
                total[:, columns] += value


def _write_at_the_end(*pairs) -> None:  # type: ignore[no-untyped-def]
    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        for out, total in pairs:
            out[0] = total[...].astype(out.dtype)
