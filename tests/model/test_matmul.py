"""Products and their gradients against NumPy, and what XLA makes of them on a CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr.model.matmul import matmul, matmul_transposed

# Both ways round, since the smaller operand is turned for the gradient; with and without leading axes.
SHAPES = [((6, 3), (3, 5)), ((6, 5), (5, 3)), ((2, 4, 6, 3), (2, 4, 3, 6))]


def operands(left: tuple[int, ...], right: tuple[int, ...], dtype) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Two matrices and a cotangent of their product, of numbers that bfloat16 and its sums hold exactly."""
    rng = np.random.default_rng(0)
    a, b, g = (rng.integers(-4, 5, shape) for shape in (left, right, (*left[:-1], right[-1])))
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype), g


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("out", [None, jnp.float32])
def test_products_and_gradients(left, right, dtype, transposed: bool, out) -> None:
    a, b, g = operands(left, right, dtype)
    product = matmul_transposed if transposed else matmul
    given = jnp.swapaxes(b, -1, -2) if transposed else b
    found, pull = jax.vjp(lambda a, b: product(a, b, out), a, given)
    assert found.dtype == (out or dtype)
    np.testing.assert_array_equal(found.astype(jnp.float32), np.asarray(a, np.int64) @ np.asarray(b, np.int64))
    of_a, of_b = pull(jnp.asarray(g, found.dtype))
    assert of_a.dtype == of_b.dtype == dtype
    expected = np.swapaxes(np.asarray(a, np.int64), -1, -2) @ g
    np.testing.assert_array_equal(of_a.astype(jnp.float32), g @ np.swapaxes(np.asarray(b, np.int64), -1, -2))
    np.testing.assert_array_equal(of_b.astype(jnp.float32), np.swapaxes(expected, -1, -2) if transposed else expected)


def test_a_gradient_of_a_gradient() -> None:
    a, b, _ = operands((6, 3), (3, 5), jnp.bfloat16)
    a, b = a / 8, b / 8

    def gradient(product):
        return lambda a: jax.grad(lambda a: jnp.sum(product(a, b).astype(jnp.float32) ** 3))(a)

    ours, theirs = (jax.jvp(gradient(f), (a,), (a,)) for f in (matmul, lambda a, b: a @ b))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), rtol=0.05, atol=0.02)


def test_bfloat16_is_multiplied_natively_for_gradients_too() -> None:
    """In the program for a CPU every product reads bfloat16 row by row, none with its axes turned."""
    a, b = jax.ShapeDtypeStruct((256, 128), jnp.bfloat16), jax.ShapeDtypeStruct((128, 512), jnp.bfloat16)

    def products(product) -> list[str]:
        loss = jax.grad(lambda a, b: jnp.sum(product(a, b).astype(jnp.float32) ** 2), (0, 1))
        text = jax.jit(loss).lower(a, b).compile().as_text()
        return re.findall(r"\bdot\(.*lhs_contracting_dims=\{(\d)\}, rhs_contracting_dims=\{(\d)\}", text)

    assert products(matmul) == [("1", "0")] * 3
    assert sorted(products(lambda a, b: a @ b)) == [("0", "0"), ("1", "0"), ("1", "1")]
