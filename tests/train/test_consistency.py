"""Virtual adversarial training and self-teaching: directions, divergences and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxretr.train.hardening import Budget, self_teaching, vat
from jaxretr.train.hardening.consistency import kl_divergence, sensitive_direction, symmetric_divergence
from jaxretr.train.hardening.space import Space
from jaxretr.train.loss import Scores
from jaxretr.train.objective import WordEmbeddings
from tests.train.test_hardening import OBJECTIVE, PARAMS, assert_close, extended, one_device


def test_divergences_are_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 7)).astype(np.float32) * 4
    first[1, 2:4] = second[1, 2:4] = -np.inf
    p, q = (scipy.special.softmax(np.asarray(scores, np.float64), axis=1) for scores in (first, second))
    assert kl_divergence(jnp.asarray(first), jnp.asarray(second)) == pytest.approx(
        scipy.special.rel_entr(p, q).sum(axis=1).mean(), rel=1e-5
    )
    own = jnp.zeros(3, jnp.int32)
    both = symmetric_divergence((Scores(jnp.asarray(first), own),), (Scores(jnp.asarray(second), own),))
    expected = (scipy.special.rel_entr(p, q) + scipy.special.rel_entr(q, p)).sum(axis=1).mean()
    assert both == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(kl_divergence)(jnp.asarray(first), jnp.asarray(second))
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[1, 2:4] == 0).all()


def test_power_iteration_finds_the_top_eigenvector_of_the_divergence() -> None:
    """One text of two tokens; its scores are softly nonlinear functions of both."""
    rng = np.random.default_rng(1)
    mixing = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)
    own = jnp.zeros(1, jnp.int32)

    def scores(delta: WordEmbeddings) -> tuple[Scores, ...]:
        return (Scores(jnp.sin(delta.queries[0, 1:3].reshape(1, 6) + 0.3) @ mixing, own),)

    free = jnp.asarray([[False, True, True]])
    space = Space((free, jnp.zeros((1, 1), bool)), (jnp.ones(1), jnp.ones(1)), (True, False), "frobenius")
    start = WordEmbeddings(jnp.asarray(rng.normal(size=(1, 3, 3)), jnp.float32), jnp.zeros((1, 1, 3)))
    found = sensitive_direction(scores, space, start, 60)

    clean = scores(space.zero(start))

    def divergence(flat: jax.Array) -> jax.Array:
        delta = jnp.zeros((1, 3, 3)).at[0, 1:3].set(flat.reshape(2, 3))
        return symmetric_divergence(clean, scores(WordEmbeddings(delta, start.passages)))

    values, vectors = np.linalg.eigh(np.asarray(jax.hessian(divergence)(jnp.zeros(6)), np.float64))
    assert values[-1] > 1.2 * values[-2]
    assert abs(np.asarray(found.queries)[0, 1:3].ravel() @ vectors[:, -1]) == pytest.approx(1, abs=1e-3)
    assert (np.asarray(found.queries)[0, 0] == 0).all() and (np.asarray(found.passages) == 0).all()


@pytest.mark.slow
def test_clean_queries_as_typos_teach_nothing() -> None:
    """Nor does any gradient flow into the teacher: the divergence is at its least in the student alone."""
    data = extended(2)
    same = data._replace(typo_queries=data.queries)
    losses, grads = one_device(
        lambda params, data, key: self_teaching(OBJECTIVE, params, data, None, key, weight=5.0),
        *(PARAMS, same, jax.random.key(0)),
    )
    clean = one_device(lambda params, data: jax.grad(lambda p: OBJECTIVE(p, data, None).loss)(params), PARAMS, data)
    assert losses.adversarial_loss == pytest.approx(0, abs=1e-5)
    assert losses.loss == pytest.approx(losses.clean_loss, abs=1e-4)
    assert_close(grads, clean, atol=1e-4)


@pytest.mark.slow
def test_the_gradient_of_self_teaching_does_not_flow_into_the_teacher() -> None:
    """Against the gradient with teacher scores computed once, as numbers."""
    data = extended(2)

    def found(params, data, key):
        return self_teaching(OBJECTIVE, params, data, None, key, weight=1.0)

    def score(params, queries, data):
        q = OBJECTIVE.encoder.encode_ids(params, *queries)
        sentences = OBJECTIVE.sentence_embeddings(params, OBJECTIVE.word_embeddings(params, data), data, None)
        return OBJECTIVE.scores(sentences._replace(queries=q), sentences, data)[0].scores

    def by_hand(params, data):
        teacher = score(PARAMS, data.queries, data)

        def loss(params):
            student = score(params, data.typo_queries, data)
            return OBJECTIVE(params, data, None).loss + kl_divergence(student, teacher)

        return jax.value_and_grad(loss)(params)

    losses, grads = one_device(found, PARAMS, data, jax.random.key(0))
    expected, expected_grads = one_device(by_hand, PARAMS, data)
    assert losses.loss == pytest.approx(float(expected), rel=1e-5)
    assert losses.adversarial_loss > 0.01
    assert_close(grads, expected_grads, atol=1e-5)


@pytest.mark.slow
def test_vat_regularises_more_than_a_random_direction() -> None:
    """And less for a smaller ball, quadratically."""
    data = extended(1)
    special = (0, 1, 2, 5)

    def divergence(rho: float, steps: int) -> float:
        def found(params, data, key):
            return vat(
                OBJECTIVE, params, data, None, key, budget=Budget(rho, "frobenius", special), steps=steps, weight=1.0
            )[0]

        return float(one_device(found, PARAMS, data, jax.random.key(3)).adversarial_loss)

    small, large = divergence(0.005, 3), divergence(0.01, 3)
    assert large == pytest.approx(4 * small, rel=0.15)

    def random(params, data, key):
        words = OBJECTIVE.word_embeddings(params, data)
        space = Space.of(words, data, Budget(0.01, "frobenius", special))
        delta = space.ascend(space.zero(words), space.draw(words, key), 1.0)

        def scores(words):
            sentences = OBJECTIVE.sentence_embeddings(params, words, data, None)
            return OBJECTIVE.scores(sentences, sentences, data)

        return symmetric_divergence(scores(words), scores(jax.tree.map(jnp.add, words, delta)))

    assert large > 2 * float(one_device(random, PARAMS, data, jax.random.key(3)))
