"""Attention in one TPU kernel: scores, softmax and dropout stay in the chip's scratch memory.

Input: queries, keys and values [rows, length, 3 × hidden], as one matrix product writes them, and the text of each
position. Output: [rows, length, hidden], as the next matrix product reads it. Neither is transposed in main memory. The
backward pass computes the scores again.

Rows of up to `WHOLE` tokens are one block, so a row is read and written once. Longer rows are computed in several
blocks (`jaxretr.model.fused_blocks`).

A hash of the seed, the row, the head and both positions selects the entries that dropout drops. So both passes drop the
same entries for every block size, and a test can compute them without a TPU. The generator of a TPU core would give
other bits in another block size, and no bits at all in Pallas's interpreter.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32, Int32, UInt32

from jaxretr.model import fused_blocks
from jaxretr.model.attention import dropped_of_256
from jaxretr.model.fused_tiles import LARGE_MEMORY, Settings, compiler_params, cost, dot, gradients, positions, tile_of

WHOLE = 1024
"""Largest number of tokens in a row that is one block."""
SUBLANES = 16
"""Lengths are padded to a multiple of this number: the rows of a tile of bfloat16 numbers."""
_NO_TEXT = -2  # the text of added positions; the padding of a row has the text -1


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
    multiple = SUBLANES if _is_whole(qkv) else fused_blocks.BLOCK
    missing = -length % multiple
    if missing:
        qkv = jnp.pad(qkv, [(0, 0), (0, missing), (0, 0)])
        texts = jnp.pad(texts, [(0, 0), (0, missing)], constant_values=_NO_TEXT)
    dropped = 0 if seed is None else dropped_of_256(dropout_rate)
    seed = jnp.zeros((), jnp.uint32) if seed is None else seed
    out = _attention(Settings(heads, dropped, interpret), qkv, texts, seed)
    return out[:, :length] if missing else out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(settings: Settings, qkv: Array, texts: Array, seed: Any) -> Array:
    return _forward(settings, qkv, texts, seed)[0]


def _forward(settings: Settings, qkv: Array, texts: Array, seed: Any) -> tuple[Array, tuple[Any, ...]]:
    if _is_whole(qkv):
        out = _call_whole(_forward_kernel, settings, qkv, texts, seed)
        return out, (qkv, texts, seed)
    out, log_sums = fused_blocks.forward_in_blocks(settings, qkv, texts, seed)
    return out, (qkv, texts, seed, out, log_sums)


def _backward(settings: Settings, saved: tuple[Any, ...], gradient: Array) -> tuple[Array, None, None]:
    qkv, texts, seed, *of_blocks = saved
    gradient = gradient.astype(qkv.dtype)
    if _is_whole(qkv):
        return _call_whole(_backward_kernel, settings, qkv, texts, seed, gradient), None, None
    return fused_blocks.backward_in_blocks(settings, qkv, texts, seed, gradient, *of_blocks), None, None


_attention.defvjp(_forward, _backward)


def _whole_memory(length: int, width: int, itemsize: int) -> int:
    """Return an upper bound on the bytes of scratch memory of a kernel of one block.

    It has two copies of every block of main memory, the float32 output, and about eight arrays of scores.
    """
    return length * (width * (4 + 4 * itemsize) + 8 * 4 * length)


def _is_whole(qkv: Array) -> bool:
    """Return whether a row, padded to a multiple of `SUBLANES`, is one block. The answer is the same after padding."""
    _, length, width = qkv.shape
    padded = length + -length % SUBLANES
    return padded <= WHOLE and _whole_memory(padded, width, qkv.dtype.itemsize) <= LARGE_MEMORY


def _thirds(ref):  # type: ignore[no-untyped-def]
    hidden = ref.shape[-1] // 3
    return (ref.at[:, :, part * hidden : (part + 1) * hidden] for part in range(3))


def _forward_kernel(settings: Settings, seed_ref, texts_of_queries, texts_of_keys, qkv, out) -> None:  # type: ignore[no-untyped-def]
    q, k, v = _thirds(qkv)
    attended = texts_of_queries[0] == texts_of_keys[0]
    at = positions(qkv.shape[1])
    outputs = []
    for head in range(settings.heads):
        tile = tile_of(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), *at)
        probabilities = _softmax(tile.scores)
        outputs.append(dot(tile.dropped_out(probabilities, settings.dropped).astype(tile.v.dtype), tile.v, 1, 0))
    out[0] = jnp.concatenate(outputs, axis=1).astype(out.dtype)


def _backward_kernel(settings: Settings, seed_ref, texts_of_queries, texts_of_keys, qkv, gradient, out) -> None:  # type: ignore[no-untyped-def]
    q, k, v = _thirds(qkv)
    attended = texts_of_queries[0] == texts_of_keys[0]
    at = positions(qkv.shape[1])
    dim = gradient.shape[-1] // settings.heads
    of_q: list[Array] = []
    of_k: list[Array] = []
    of_v: list[Array] = []
    for head in range(settings.heads):
        tile = tile_of(settings, head, q, k, v, attended, seed_ref, pl.program_id(0), *at)
        probabilities = _softmax(tile.scores)
        g = gradient[0, :, head * dim : (head + 1) * dim]
        of_probabilities = tile.dropped_out(dot(g, tile.v, 1, 1), settings.dropped)
        inner = jnp.sum(probabilities * of_probabilities, axis=1, keepdims=True)
        for part, value in zip(
            (of_q, of_k, of_v), gradients(settings, tile, probabilities, of_probabilities, inner, g), strict=True
        ):
            part.append(value)
    out[0] = jnp.concatenate([*of_q, *of_k, *of_v], axis=1).astype(out.dtype)


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
        compiler_params=compiler_params(("parallel",), _whole_memory(length, width, qkv.dtype.itemsize)),
        cost_estimate=cost(settings, qkv, 5, 7) if more else cost(settings, qkv, 2, 4),
        interpret=settings.interpret,
        name=kernel.__name__.strip("_"),
    )(seed.reshape(1), texts[:, :, None], texts[:, None, :], qkv, *more)
