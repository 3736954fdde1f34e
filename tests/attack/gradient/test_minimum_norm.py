"""Minimum-norm attacks against closed forms, and against attacks at fixed budgets."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr.attack.gradient import CORE, FMN, pooled_radii
from jaxretr.attack.gradient.attack import GradientAttack, measure_scale
from jaxretr.attack.gradient.losses import Margin
from jaxretr.attack.gradient.pgd import PGD
from jaxretr.attack.gradient.queries import attack_queries
from jaxretr.attack.victim import margin
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
    pooled_margin,
    some_attackable,
)
from tests.attack.parallel_questions import encoder, victim

SEARCHES = {"fmn": FMN, "core": CORE}


def below_zero(context, embeds):
    """Negative at the clean points, linear."""
    weights, offset = context
    return linear(weights, embeds) - offset


def lead_of_the_second(pairs, embeds):
    return jnp.einsum("qd,qd->q", embeds[:, 0], pairs[:, 1] - pairs[:, 0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SEARCHES)
def test_a_linear_objective_becomes_positive_at_its_value_over_the_dual_norm(name: str, norm: str) -> None:
    weights, embeds = normal(0, QUERIES, LENGTH, HIDDEN), normal(1, QUERIES, LENGTH, HIDDEN)
    below = np.linspace(0.5, 3, QUERIES).astype(np.float32)
    context = (jnp.asarray(weights), jnp.asarray((weights * embeds).sum((1, 2)) + below))
    free = weights * some_attackable()[:, :, None]
    dual = {
        "token_l2": np.linalg.norm(free, axis=2).sum(1),
        "linf": np.abs(free).sum((1, 2)),
        "frobenius": np.linalg.norm(free.reshape(QUERIES, -1), axis=1),
    }
    arguments = (jnp.asarray(embeds), jnp.asarray(some_attackable()), 100.0, keys())
    found = SEARCHES[name](below_zero, context, *arguments, norm=norm)
    assert np.all(found.loss > 0)
    assert not np.any(np.asarray(found.delta)[~some_attackable()])
    smallest = below / dual[norm]
    sizes = np.asarray(balls.size(found.delta, norm))
    assert np.all(sizes >= smallest * (1 - 1e-4))
    np.testing.assert_allclose(sizes, smallest, rtol=1e-2)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_pooled_radius_of_one_distractor_is_met_within_one_percent(name: str) -> None:
    """With one distractor the lost queries form a half space, so a local optimum is the optimum."""
    queries, passages = (normal(seed, count, 8) for seed, count in ((0, 12), (1, 24)))
    queries, passages = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, passages))
    relevant, distractors = passages[:12], passages[12:]
    swapped = np.sum(queries * (relevant - distractors), axis=1, keepdims=True) < 0
    relevant, distractors = np.where(swapped, distractors, relevant), np.where(swapped, relevant, distractors)
    pairs = np.stack([relevant, distractors], axis=1)
    radii = np.array(
        [pooled_radii(q[None], pair, np.array([[0]]))[0, 0] for q, pair in zip(queries, pairs, strict=True)]
    )
    arguments = (jnp.asarray(queries[:, None]), jnp.ones((12, 1), bool), 3.0, keys(queries=12))
    found = SEARCHES[name](lead_of_the_second, jnp.asarray(pairs), *arguments, norm="token_l2")
    sizes = np.asarray(balls.size(found.delta, "token_l2"))
    assert np.all(found.loss > 0)
    assert np.all(sizes >= radii * (1 - 1e-4))
    np.testing.assert_allclose(sizes, radii, rtol=1e-2)


def test_no_result_is_below_the_pooled_radius() -> None:
    queries, passages = (normal(seed, count, 8) for seed, count in ((0, 12), (1, 60)))
    queries, passages = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, passages))
    best = (queries @ passages.T).argmax(1)
    radii = pooled_radii(queries, passages, best[:, None])[:, 0]
    context = (jnp.asarray(passages), jnp.asarray(best))
    arguments = (jnp.asarray(queries[:, None]), jnp.ones((12, 1), bool), 3.0, keys(queries=12))
    sizes = np.asarray(balls.size(CORE(pooled_margin, context, *arguments, norm="token_l2").delta, "token_l2"))
    assert np.all(sizes >= radii * (1 - 1e-4))
    assert np.sum(sizes <= radii * 1.01) >= 9  # the others end at a distractor that is not the nearest


def test_what_cannot_be_lost_within_the_largest_radius_keeps_the_zero_perturbation() -> None:
    context = (jnp.asarray(normal(5, QUERIES, 6, LENGTH * HIDDEN)), jnp.asarray(normal(6, QUERIES, 6)))
    embeds, free = jnp.asarray(normal(7, QUERIES, LENGTH, HIDDEN)), jnp.asarray(some_attackable())
    for search in SEARCHES.values():  # minus a squared distance is never positive
        found = search(distance, context, embeds, free, 1.0, keys(), norm="frobenius", steps=6)
        np.testing.assert_array_equal(found.delta, 0)
        assert np.all(found.loss <= 0)


def test_a_query_that_is_lost_clean_has_size_zero() -> None:
    weights, embeds = normal(0, QUERIES, LENGTH, HIDDEN), normal(1, QUERIES, LENGTH, HIDDEN)
    context = (jnp.asarray(weights), jnp.asarray((weights * embeds).sum((1, 2)) - 1))
    found = FMN(below_zero, context, jnp.asarray(embeds), jnp.asarray(some_attackable()), 1.0, keys(), norm="linf")
    np.testing.assert_array_equal(found.delta, 0)
    assert np.all(found.loss > 0)


@pytest.mark.slow
def test_core_loses_what_pgd_loses_at_every_budget() -> None:
    task = victim().tasks[0]
    scale = measure_scale(encoder(), encoder().query_tokenization([q.text for q in victim().queries_of(task)]), "word")
    settings = {"scale": scale, "loss": Margin(10), "seed": 0}
    (found,) = attack_queries(victim(), [task], GradientAttack(CORE, steps=30), rho=3.0, **settings)
    corpus, candidates = victim().corpus(task), victim().candidates(task)
    assert np.all(margin(found.embeddings, corpus, candidates, 10)[np.isfinite(found.sizes)] > 0)
    assert np.isfinite(found.sizes).all()
    lost_by_pgd = 0
    for rho in (0.1, 0.2, 0.4):
        (pgd,) = attack_queries(victim(), [task], GradientAttack(PGD, steps=30), rho=rho, **settings)
        lost = margin(pgd.embeddings, corpus, candidates, 10) > 0
        lost_by_pgd += lost.sum()
        assert np.all(found.sizes[lost] <= 1.01 * rho)
    assert lost_by_pgd > 0


def test_sizes_are_norms_in_units_of_the_mean_row_norm() -> None:
    task = victim().tasks[0]
    scale = measure_scale(encoder(), encoder().query_tokenization([q.text for q in victim().queries_of(task)]), "word")
    (found,) = attack_queries(
        victim(), [task], GradientAttack(FMN, steps=8), rho=3.0, scale=scale, loss=Margin(10), seed=0
    )
    longest = [np.linalg.norm(delta, axis=1).max() for delta in found.deltas]
    np.testing.assert_allclose(found.sizes, np.array(longest) / scale.row_norm, rtol=1e-4)


def test_costs_are_counted() -> None:
    assert GradientAttack(FMN, steps=30).forward_passes == 91 + 9
    assert GradientAttack(CORE, steps=30).forward_passes == 2 * 91 + 31 + 9
