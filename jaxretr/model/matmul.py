"""Matrix multiplication with a fast backward pass in bfloat16 on CPUs.

Input: matrices in the compute dtype. Output: their product.

XLA multiplies bfloat16 matrices natively on a CPU (AVX-512 BF16, AMX) only if both operands are row-major and the
contracted axis is the last axis of the left operand and the first axis of the right operand. A gradient multiplies by
transposed matrices. XLA does not materialize a transpose: it reads the matrix in column-major order, which goes through
float32 and takes more than twice the time. This module materializes the transposes. On other devices and in float32, it
uses XLA's default product.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def matmul(
    left: Float[Array, "*batch rows inner"],
    right: Float[Array, "*batch inner columns"],
    dtype: DTypeLike | None = None,
) -> Float[Array, "*batch rows columns"]:
    """Return `left @ right` in `dtype` (None: the dtype of the operands)."""
    dtype = jnp.dtype(dtype or left.dtype)
    return _with_backward(lambda a, b: _product(a, b, dtype), _matmul_backward, left, right)


def matmul_transposed(
    left: Float[Array, "*batch rows inner"],
    right: Float[Array, "*batch columns inner"],
    dtype: DTypeLike | None = None,
) -> Float[Array, "*batch rows columns"]:
    """Return `left @ rightᵀ` in `dtype` (None: the dtype of the operands)."""
    dtype = jnp.dtype(dtype or left.dtype)
    return _with_backward(lambda a, b: _product(a, _transposed(b), dtype), _transposed_backward, left, right)


def _with_backward(forward: Callable, backward: Callable, left: Array, right: Array) -> Array:
    """Return `forward(left, right)`; for bfloat16, use `backward` as its gradient, which is faster than JAX's own."""
    if left.dtype != jnp.bfloat16:
        return forward(left, right)
    run = jax.custom_vjp(forward)
    run.defvjp(lambda *pair: (forward(*pair), pair), lambda pair, g: backward(*pair, g.astype(jnp.bfloat16)))
    return run(left, right)


def _matmul_backward(left: Array, right: Array, g: Array) -> tuple[Array, Array]:
    left_gradient = _product(g, _transposed(right), g.dtype)
    if left.shape[-1] <= right.shape[-1]:
        return left_gradient, _product(_transposed(left), g, g.dtype)
    return left_gradient, _transposed(
        _product(_transposed(g), left, g.dtype)
    )  # transpose the smaller of `left` and `g`


def _transposed_backward(left: Array, right: Array, g: Array) -> tuple[Array, Array]:
    return _product(g, right, g.dtype), _product(_transposed(g), left, g.dtype)


def _product(left: Array, right: Array, dtype: jnp.dtype) -> Array:
    def plain(left: Array, right: Array) -> Array:
        return jnp.matmul(left, right, preferred_element_type=dtype)

    def row_by_row(left: Array, right: Array) -> Array:
        return _row_by_row(plain(_row_by_row(left), _row_by_row(right)))

    if left.dtype != jnp.bfloat16:
        return plain(left, right)
    return jax.lax.platform_dependent(left, right, cpu=row_by_row, default=plain)


def _row_by_row(x: Array) -> Array:
    """Constrain `x` to row-major order, so that XLA materializes a transpose instead of reading by columns."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _transposed(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)
