"""Gradient attacks on a ModernBERT: they perturb word embeddings before the LayerNorm that follows them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxretr.attack.gradient import PGD, InfoNCE, QueryObjective, Target
from jaxretr.attack.gradient.objective import LanguageObjective, LanguageTarget, SplitEncoder
from jaxretr.model.functions import functions, init_params
from jaxretr.perturb import balls
from tests.attack.gradient.models import keys, normal
from tests.model import modern_reference
from tests.tiny import MODERN

QUERIES, LENGTH, PASSAGES = 3, 6, 8
LENGTHS = np.array([6, 5, 4])
ENCODER = SplitEncoder(functions(MODERN))
PARAMS = jax.tree.map(lambda leaf: leaf * 5 if leaf.ndim > 2 else leaf, init_params(MODERN, jax.random.key(0)))
MASK = np.arange(LENGTH) < LENGTHS[:, None]
IDS = np.where(MASK, np.random.default_rng(0).integers(7, MODERN.vocab_size, MASK.shape), MODERN.pad_token_id)
STORED = normal(1, PASSAGES, MODERN.hidden_size)
STORED /= np.linalg.norm(STORED, axis=1, keepdims=True)
RELEVANT = np.eye(QUERIES, PASSAGES, dtype=bool)


def scores(x: np.ndarray) -> np.ndarray:
    return modern_reference.encode(MODERN, PARAMS, x, LENGTHS) @ STORED.astype(float).T


def assert_gradient(objective, target, value) -> None:
    """`value` is the same loss in numpy and float64; its finite differences are the gradient's products."""
    embeds = np.asarray(ENCODER.functions.embed_tokens(PARAMS, jnp.asarray(IDS)))
    losses, gradient = jax.jit(jax.value_and_grad(lambda x: objective(target, x).sum()))(jnp.asarray(embeds))
    clean = embeds.astype(float)
    assert float(losses) == pytest.approx(value(clean).sum(), rel=1e-4)
    np.testing.assert_array_equal(np.asarray(gradient)[~MASK], 0)
    for seed in range(3):
        direction = normal(seed, *clean.shape).astype(float)
        difference = (value(clean + 1e-6 * direction) - value(clean - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2)), difference, rtol=1e-3, atol=1e-3)


def shared(array: np.ndarray) -> jax.Array:
    return jnp.asarray(np.broadcast_to(array, (QUERIES, *array.shape)))


def test_the_gradient_of_a_query_attack_is_that_of_finite_differences() -> None:
    target = Target(PARAMS, jnp.asarray(MASK), shared(STORED), jnp.asarray(RELEVANT), jnp.asarray(~RELEVANT))

    def loss(x: np.ndarray) -> np.ndarray:
        found = scores(x) / 0.2
        return special.logsumexp(found, axis=1) - found[RELEVANT]

    assert_gradient(QueryObjective(ENCODER, InfoNCE(0.2)), target, loss)


@pytest.mark.slow
def test_an_attack_on_the_language_of_a_ranking() -> None:
    """Its gradient, and that PGD gains by it, within its ball, and leaves padding as it is."""
    favored = np.broadcast_to(np.arange(PASSAGES) % 2 == 0, (QUERIES, PASSAGES))
    embeds = ENCODER.functions.embed_tokens(PARAMS, jnp.asarray(IDS))
    best = np.max(scores(np.asarray(embeds, float)), axis=1, where=RELEVANT, initial=-np.inf)
    target = LanguageTarget(
        PARAMS,
        jnp.asarray(MASK),
        shared(STORED),
        *map(jnp.asarray, (favored, ~favored, RELEVANT, (best - 0.5).astype(np.float32))),
    )
    objective = LanguageObjective(ENCODER, temperature=0.2)

    def moved(x: np.ndarray) -> np.ndarray:
        found = scores(x) / 0.2
        return special.logsumexp(np.where(favored, found, -np.inf), axis=1) - special.logsumexp(
            np.where(favored, -np.inf, found), axis=1
        )

    assert_gradient(objective, target, moved)
    free = balls.attackable(jnp.asarray(IDS), jnp.asarray(MASK), (0, 1, 2))
    delta = PGD(objective, target, embeds, free, 0.05, keys(0, QUERIES), norm="token_l2", steps=5).delta
    norms = np.linalg.norm(delta, axis=2)
    assert norms.max() <= 0.05 * (1 + 1e-5) and (norms[~np.asarray(free)] == 0).all()
    clean = np.asarray(embeds, float)
    assert (moved(clean + np.asarray(delta, float)) > moved(clean) + 0.01).all()
