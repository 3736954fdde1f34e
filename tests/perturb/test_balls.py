import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.spatial.distance import cdist

from jaxretr.perturb import balls
from tests.attack.gradient.models import HIDDEN, LENGTH, NORMS, QUERIES, keys, normal, some_attackable

NUMPY_SIZE = {
    "token_l2": lambda x: np.linalg.norm(x, axis=2).max(1),
    "linf": lambda x: np.abs(x).max((1, 2)),
    "frobenius": lambda x: np.linalg.norm(x.reshape(len(x), -1), axis=1),
}
random_cases = given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(-6, 3, width=32), norm=st.sampled_from(NORMS))


@settings(deadline=None, max_examples=30)
@random_cases
def test_projections_are_in_the_ball_leave_its_points_and_are_nearest(seed: int, exponent: float, norm: str) -> None:
    x = normal(seed, QUERIES, LENGTH, HIDDEN)
    epsilon = jnp.full(QUERIES, 10.0**exponent)
    inside = np.asarray(balls.project(jnp.asarray(x), epsilon, norm))
    assert np.all(NUMPY_SIZE[norm](inside) <= epsilon * (1 + 1e-6))
    unmoved = NUMPY_SIZE[norm](x) <= epsilon
    np.testing.assert_array_equal(inside[unmoved], x[unmoved])
    # The nearest point of a convex set: from it, no point of the set lies towards x.
    other = np.asarray(balls.random_start(keys(seed), jnp.ones((QUERIES, LENGTH), bool), HIDDEN, epsilon, norm))
    towards = np.einsum("qlh,qlh->q", x - inside, other - inside)
    assert np.all(towards <= 1e-5 * epsilon * np.abs(x).sum((1, 2)))


@settings(deadline=None, max_examples=30)
@random_cases
def test_random_starts_are_in_the_ball_and_move_only_what_may_move(seed: int, exponent: float, norm: str) -> None:
    epsilon = jnp.full(QUERIES, 10.0**exponent)
    start = np.asarray(balls.random_start(keys(seed), jnp.asarray(some_attackable()), HIDDEN, epsilon, norm))
    assert np.all(NUMPY_SIZE[norm](start) <= epsilon * (1 + 1e-6))
    np.testing.assert_array_equal(np.any(start != 0, axis=2), some_attackable())
    np.testing.assert_allclose(balls.size(jnp.asarray(start), norm), NUMPY_SIZE[norm](start), rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_uniform(norm: str) -> None:
    """The volume of an n-dimensional ball grows with r^n, so (size / epsilon)^n is uniform on [0, 1]."""
    many = 2000
    free = jnp.broadcast_to(jnp.arange(LENGTH) < 2, (many, LENGTH))
    start = balls.random_start(keys(1, many), free, HIDDEN, jnp.full(many, 3.0), norm)
    dimensions = HIDDEN if norm == "token_l2" else 2 * HIDDEN
    shown = start[:, :1] if norm == "token_l2" else start
    assert stats.kstest((np.asarray(balls.size(shown, norm)) / 3) ** dimensions, "uniform").pvalue > 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_a_querys_draw_does_not_depend_on_its_batch(norm: str) -> None:
    epsilon = jnp.full(QUERIES, 0.3)
    batch = balls.random_start(keys(), jnp.asarray(some_attackable()), HIDDEN, epsilon, norm)
    padded = jnp.pad(jnp.asarray(some_attackable()[2:3]), ((0, 0), (0, 5)))
    alone = balls.random_start(keys()[2:3], padded, HIDDEN, epsilon[2:3], norm)
    np.testing.assert_allclose(alone[:, :LENGTH], batch[2:3], rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_direction_attains_the_dual_norm(norm: str) -> None:
    gradient = normal(3, QUERIES, LENGTH, HIDDEN)
    direction = np.asarray(balls.steepest(jnp.asarray(gradient), norm))
    dual = {
        "token_l2": np.linalg.norm(gradient, axis=2).sum(1),
        "linf": np.abs(gradient).sum((1, 2)),
        "frobenius": np.linalg.norm(gradient.reshape(QUERIES, -1), axis=1),
    }
    np.testing.assert_allclose((direction * gradient).sum((1, 2)), dual[norm], rtol=1e-5)
    np.testing.assert_allclose(NUMPY_SIZE[norm](direction), 1, rtol=1e-6)


def test_scipy_finds_no_steeper_direction() -> None:
    gradient = normal(4, 1, 2, 2)
    found = optimize.minimize(
        lambda x: -np.sum(x * gradient.ravel()),
        np.zeros(4),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: 1 - np.sum(x.reshape(2, 2) ** 2, axis=1)},
    )
    direction = np.asarray(balls.steepest(jnp.asarray(gradient), "token_l2"))
    np.testing.assert_allclose(direction.ravel(), found.x, atol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_tiny_gradients_have_a_direction_and_zero_has_none(norm: str) -> None:
    gradient = jnp.asarray(normal(5, QUERIES, LENGTH, HIDDEN))
    np.testing.assert_allclose(balls.steepest(gradient * 1e-30, norm), balls.steepest(gradient, norm), atol=1e-5)
    assert not np.any(balls.steepest(jnp.zeros_like(gradient), norm))


def test_padding_and_special_tokens_are_not_attackable() -> None:
    ids = jnp.array([[0, 7, 8, 2, 1, 1], [0, 7, 2, 1, 1, 1]])
    found = balls.attackable(ids, ids != 1, (0, 1, 2))
    np.testing.assert_array_equal(found, [[0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]])


def test_mean_row_norm_is_that_of_the_attackable_rows() -> None:
    embeds, free = normal(6, QUERIES, LENGTH, HIDDEN), some_attackable()
    expected = np.linalg.norm(embeds[free], axis=1).mean()
    assert float(balls.mean_row_norm(jnp.asarray(embeds), jnp.asarray(free))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("block", [7, 100, 10_000])
def test_nearest_row_distance_is_scipys(block: int) -> None:
    table = normal(7, 100, 8)
    table[40] = table[41] + 1e-3  # much nearer than the rows are long
    rows = np.array([40, 3, 99])
    distances = cdist(table[rows], table)
    distances[np.arange(3), rows] = np.inf
    found = balls.nearest_row_distance(jnp.asarray(table), jnp.asarray(rows), block=block)
    assert float(found) == pytest.approx(np.median(distances.min(1)), rel=1e-5)
    nearest = balls.nearest_row_distance(jnp.asarray(table), jnp.asarray(rows[:1]), block=block)
    assert float(nearest) == pytest.approx(distances[0].min(), rel=1e-3)
    assert isinstance(found, jax.Array) and found.dtype == jnp.float32
