"""Matrix products whose gradients are as fast as they are, on CPUs too.

In: matrices in the compute dtype. Out: their product. XLA multiplies bfloat16 matrices natively on a CPU (AVX-512 BF16,
AMX) only where both lie row by row and the inner axis is the last of the left and the first of the right one. A
gradient multiplies by transposes, which XLA does not make: it would read a matrix in the other order, which takes a
detour by float32 and more than twice the time. Here transposes are made. Other devices, and float32, get XLA's own.
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
    """`left @ right`, in `dtype` (None: that of the operands)."""
    dtype = jnp.dtype(dtype or left.dtype)
    return _natively(lambda a, b: _product(a, b, dtype), _matmul_backward, left, right)


def matmul_transposed(
    left: Float[Array, "*batch rows inner"],
    right: Float[Array, "*batch columns inner"],
    dtype: DTypeLike | None = None,
) -> Float[Array, "*batch rows columns"]:
    """`left @ rightᵀ`, in `dtype` (None: that of the operands)."""
    dtype = jnp.dtype(dtype or left.dtype)
    return _natively(lambda a, b: _product(a, _turned(b), dtype), _transposed_backward, left, right)


def _natively(forward: Callable, backward: Callable, left: Array, right: Array) -> Array:
    """`forward(left, right)`, with `backward` for its gradient where that is quicker than what JAX makes of it."""
    if left.dtype != jnp.bfloat16:
        return forward(left, right)
    run = jax.custom_vjp(forward)
    run.defvjp(lambda *pair: (forward(*pair), pair), lambda pair, g: backward(*pair, g.astype(jnp.bfloat16)))
    return run(left, right)


def _matmul_backward(left: Array, right: Array, g: Array) -> tuple[Array, Array]:
    of_left = _product(g, _turned(right), g.dtype)
    if left.shape[-1] <= right.shape[-1]:
        return of_left, _product(_turned(left), g, g.dtype)
    return of_left, _turned(_product(_turned(g), left, g.dtype))  # the smaller one is turned


def _transposed_backward(left: Array, right: Array, g: Array) -> tuple[Array, Array]:
    return _product(g, right, g.dtype), _product(_turned(g), left, g.dtype)


def _product(left: Array, right: Array, dtype: jnp.dtype) -> Array:
    def plain(left: Array, right: Array) -> Array:
        return jnp.matmul(left, right, preferred_element_type=dtype)

    def row_by_row(left: Array, right: Array) -> Array:
        return _row_by_row(plain(_row_by_row(left), _row_by_row(right)))

    if left.dtype != jnp.bfloat16:
        return plain(left, right)
    return jax.lax.platform_dependent(left, right, cpu=row_by_row, default=plain)


def _row_by_row(x: Array) -> Array:
    """Keeps XLA from taking a transpose for a matter of how one reads."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _turned(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)
