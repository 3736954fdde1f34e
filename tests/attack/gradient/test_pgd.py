from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxretr.attack.gradient import APGD, FGM, PGD, RANDOM, BestPerturbation
from jaxretr.perturb import balls
from tests.attack.gradient.models import (
    HIDDEN,
    LENGTH,
    NORMS,
    QUERIES,
    distance,
    keys,
    linear,
    normal,
    some_attackable,
)

SEARCHES = {
    "fgm": FGM,
    "pgd": partial(PGD, steps=10, restarts=2),
    "apgd": partial(APGD, steps=20, restarts=2),
    "random": partial(RANDOM, steps=20),
}


def run(name: str, objective, context, embeds, epsilon, *, norm: str, seed: int = 0) -> BestPerturbation:
    arguments = (objective, context, jnp.asarray(embeds), jnp.asarray(some_attackable()), epsilon)
    return SEARCHES[name](*arguments, keys(seed), norm=norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgm", "apgd"])
def test_a_linear_objective_rises_by_epsilon_times_the_dual_norm(name: str, norm: str) -> None:
    weights, embeds = normal(0, QUERIES, LENGTH, HIDDEN), normal(1, QUERIES, LENGTH, HIDDEN)
    epsilon = np.linspace(0.1, 3, QUERIES).astype(np.float32)
    found = run(name, linear, jnp.asarray(weights), embeds, jnp.asarray(epsilon), norm=norm)
    free = weights * some_attackable()[:, :, None]
    dual = {
        "token_l2": np.linalg.norm(free, axis=2).sum(1),
        "linf": np.abs(free).sum((1, 2)),
        "frobenius": np.linalg.norm(free.reshape(QUERIES, -1), axis=1),
    }
    clean = (weights * embeds).sum((1, 2))
    np.testing.assert_allclose(found.loss - clean, epsilon * dual[norm], rtol=1e-4 if name == "fgm" else 2e-2)
    assert np.all(found.loss - clean <= epsilon * dual[norm] * (1 + 1e-5))


@pytest.mark.parametrize("norm", NORMS)
def test_scipy_finds_no_better_optimum_of_a_concave_objective(norm: str) -> None:
    matrices, goals = normal(2, QUERIES, 6, LENGTH * HIDDEN), 3 * normal(3, QUERIES, 6)
    embeds, epsilon = normal(4, QUERIES, LENGTH, HIDDEN), 0.4
    free = some_attackable()
    context = (jnp.asarray(matrices), jnp.asarray(goals))
    attack = (distance, context, jnp.asarray(embeds), jnp.asarray(free), epsilon, keys())
    found = APGD(*attack, norm=norm, steps=100)

    for query in range(QUERIES):
        moved = np.repeat(free[query], HIDDEN)

        def value(x: np.ndarray, query: int = query, moved: np.ndarray = moved) -> float:
            full = embeds[query].ravel().astype(np.float64)
            full[moved] += x
            return float(np.sum((matrices[query] @ full - goals[query]) ** 2))

        room = {
            "token_l2": lambda x: epsilon**2 - np.sum(x.reshape(-1, HIDDEN) ** 2, axis=1),
            "linf": lambda x: np.concatenate([epsilon - x, epsilon + x]),
            "frobenius": lambda x: epsilon**2 - np.sum(x**2),
        }[norm]
        best = optimize.minimize(
            value, np.zeros(moved.sum()), method="SLSQP", constraints={"type": "ineq", "fun": room}
        )
        assert best.success
        clean = value(np.zeros(moved.sum()))
        gain = clean - best.fun
        assert clean + found.loss[query] == pytest.approx(gain, rel=5e-3)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.floats(-3, 2, width=32),
    norm=st.sampled_from(NORMS),
    name=st.sampled_from([*SEARCHES]),
)
def test_perturbations_stay_in_their_ball_and_the_loss_is_the_objective_there(
    seed: int, exponent: float, norm: str, name: str
) -> None:
    context = (jnp.asarray(normal(seed, QUERIES, 6, LENGTH * HIDDEN)), jnp.asarray(normal(seed + 1, QUERIES, 6)))
    embeds = jnp.asarray(normal(seed + 2, QUERIES, LENGTH, HIDDEN))
    epsilon = jnp.float32(10.0**exponent)
    found = run(name, distance, context, embeds, epsilon, norm=norm, seed=seed % 1000)
    assert np.all(balls.size(found.delta, norm) <= epsilon * (1 + 1e-6))
    assert not np.any(np.asarray(found.delta)[~some_attackable()])
    np.testing.assert_allclose(found.loss, distance(context, embeds + found.delta), rtol=1e-4, atol=1e-4)
    if name != "fgm":
        assert np.all(found.loss >= distance(context, embeds) * (1 + 1e-6))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SEARCHES)
def test_without_a_budget_nothing_moves(name: str, norm: str) -> None:
    context = (jnp.asarray(normal(5, QUERIES, 6, LENGTH * HIDDEN)), jnp.asarray(normal(6, QUERIES, 6)))
    embeds = jnp.asarray(normal(7, QUERIES, LENGTH, HIDDEN))
    found = run(name, distance, context, embeds, jnp.float32(0), norm=norm)
    np.testing.assert_array_equal(found.delta, 0)
