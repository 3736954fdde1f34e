"""Hardened gradients against hand-made ones, on one device and on eight."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxretr import parallel
from jaxretr.data.batches import PairBatch, Translations
from jaxretr.model.functions import functions, init_params
from jaxretr.perturb.balls import Norm, size
from jaxretr.train.hardening import Budget, Hardening, fgm, freelb, pgd, self_teaching, vat, worst_translations
from jaxretr.train.hardening.space import Space
from jaxretr.train.objective import Objective, passage_texts
from jaxretr.train.step import TrainState, make_step
from jaxretr.types import TokenBatch
from tests.tiny import TINY
from tests.train.test_step import BATCH, batch, shares

SPECIAL = (0, 1, 2, 5)
OBJECTIVE = Objective(functions(TINY), 0.05, True)
BUDGET = Budget(0.3, "token_l2", SPECIAL)
QUERIES = Budget(0.3, "token_l2", SPECIAL, "queries")
PARAMS = jax.tree.map(lambda leaf: leaf * 5, init_params(TINY, jax.random.key(0)))  # away from the linear regime

METHODS: dict[str, Hardening] = {
    "fgm": partial(fgm, budget=BUDGET, weight=0.7),
    "pgd": partial(pgd, budget=BUDGET, steps=2, weight=0.7),
    "freelb": partial(freelb, budget=BUDGET, steps=3),
    "vat": partial(vat, budget=BUDGET, steps=1, weight=0.7),
    "typos": partial(self_teaching, weight=0.7),
    "translations": worst_translations,
    "fgm of queries": partial(fgm, budget=QUERIES, weight=0.7),
    "vat of queries": partial(vat, budget=QUERIES, steps=1, weight=0.7),
}


def extended(columns: int) -> PairBatch:
    """A batch with typos and two translations."""
    rng = np.random.default_rng(10 + columns)
    data = batch(columns)

    def tokens(*shape: int) -> TokenBatch:
        mask = np.arange(12) < rng.integers(3, 13, shape)[..., None]
        return TokenBatch(np.where(mask, rng.integers(4, TINY.vocab_size, (*shape, 12)), 1).astype(np.int32), mask)

    content = np.arange(1000, 1000 + 2 * BATCH, dtype=np.uint32).reshape(BATCH, 2)
    translations = Translations(tokens(BATCH, 2), tokens(BATCH, 2), content, content + 500)
    return data._replace(typo_queries=tokens(BATCH), translations=translations)


def run(method: Hardening, data, devices: int = 8, objective: Objective = OBJECTIVE):
    """Losses and gradient of the global batch."""
    mapped = jax.pmap(
        lambda params, data, key: parallel.mean(method(objective, params, data, None, key)),
        axis_name=parallel.AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        devices=jax.devices()[:devices],
    )
    share = shares(data, devices)
    losses, grads = mapped(PARAMS, share, jax.random.key(1))
    return jax.tree.map(float, losses), jax.tree.map(np.asarray, grads)


def one_device(function, *arguments):
    """`function` as the only device."""
    mapped = jax.jit(jax.vmap(function, axis_name=parallel.AXIS))
    return jax.tree.map(lambda x: np.asarray(x[0]), mapped(*jax.tree.map(lambda x: jnp.asarray(x)[None], arguments)))


def assert_close(found, expected, atol: float = 1e-6) -> None:
    """Gradients that agree within `atol` of their common length."""
    length = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(expected)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol * length), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_eight_devices_equal_one(name: str) -> None:
    data = extended(2)
    one, one_grads = run(METHODS[name], data, 1)
    eight, eight_grads = run(METHODS[name], data, 8)
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    assert_close(eight_grads, one_grads, atol=1e-4)


@pytest.mark.parametrize("budget", [BUDGET, QUERIES], ids=lambda budget: budget.sides)
def test_fgm_by_hand(budget: Budget) -> None:
    """All of it written out for one device, with the radius of each side."""
    data = batch(3)
    encoder = OBJECTIVE.encoder

    def loss(params, query_delta, passage_delta):
        words = encoder.embed_tokens(params, jnp.asarray(data.queries.ids)) + query_delta
        queries = encoder.encode(params, words, jnp.asarray(data.queries.mask))
        ids, mask = (jnp.asarray(leaf.reshape(3 * BATCH, 12)) for leaf in data.passages)
        passages = encoder.encode(params, encoder.embed_tokens(params, ids) + passage_delta, mask)
        scores = queries @ passages.T / 0.05
        content = data.passage_content.reshape(-1)
        wrong = (content[None] == content[::3, None]) & (np.arange(3 * BATCH) != 3 * np.arange(BATCH)[:, None])
        forward = jax.nn.logsumexp(jnp.where(wrong, -jnp.inf, scores), axis=1)
        backward = jax.nn.logsumexp(jnp.where(wrong[:, ::3], -jnp.inf, scores[:, ::3].T), axis=1)
        return jnp.mean((forward + backward) / 2 - jnp.diag(scores[:, ::3]))

    table = PARAMS["embeddings"]["word"]["embedding"]
    free, radius = [], []
    for ids, mask in (data.queries, jax.tree.map(lambda leaf: leaf.reshape(3 * BATCH, 12), data.passages)):
        free.append(mask & ~np.isin(ids, SPECIAL))
        radius.append(0.3 * np.linalg.norm(table[ids[free[-1]]], axis=1).mean())
    zero = [np.zeros((*mask.shape, TINY.hidden_size), np.float32) for mask in free]
    with jax.default_matmul_precision("highest"):
        value_and_gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
        clean, (grads, *gradient) = value_and_gradients(PARAMS, *zero)
        delta = []
        for g, mask, epsilon in zip(gradient, free, radius, strict=True):
            g = np.asarray(g) * mask[:, :, None]
            delta.append(epsilon * g / np.maximum(np.linalg.norm(g, axis=2, keepdims=True), 1e-30))
        if budget.sides == "queries":
            delta[1] = zero[1]
        adversarial, (adversarial_grads, *_) = value_and_gradients(PARAMS, *delta)
        expected = jax.tree.map(lambda a, b: np.asarray(a + 0.7 * b), grads, adversarial_grads)
    found, found_grads = run(partial(fgm, budget=budget, weight=0.7), data)
    assert adversarial > clean + 0.1  # the adversary has something to do
    assert found.clean_loss == pytest.approx(float(clean), rel=1e-4)
    assert found.adversarial_loss == pytest.approx(float(adversarial), rel=1e-4)
    assert found.loss == pytest.approx(float(clean + 0.7 * adversarial), rel=1e-4)
    assert_close(found_grads, expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["token_l2", "linf", "frobenius"])
def test_perturbations_stay_in_their_balls_and_off_padding_and_special_tokens(norm: Norm) -> None:
    data = extended(2)
    budget = Budget(0.3, norm, SPECIAL)

    def found(params, data, key):
        words = OBJECTIVE.word_embeddings(params, data)
        space = Space.of(words, data, budget)
        start = space.draw(words, key)
        return words, space.epsilon, start, space.draw_entries(words, key), space.ascend(start, words, 2.5)

    # A run's keys are "rbg"; that kind draws from one key alone under vmap.
    words, epsilon, *perturbations = one_device(found, PARAMS, data, jax.random.key(0, impl="rbg"))
    for side, tokens in enumerate((data.queries, passage_texts(data))):
        free = tokens.mask & ~np.isin(tokens.ids, SPECIAL)
        radius = 0.3 * np.linalg.norm(words[side][free], axis=1).mean()
        np.testing.assert_allclose(epsilon[side], radius, rtol=1e-5)
        for number, delta in enumerate(perturbations):
            assert (delta[side][~free] == 0).all()
            reached = np.asarray(size(jnp.asarray(delta[side]), norm))[free.any(axis=1)]
            assert (reached <= radius * (1 + 1e-5)).all() and (reached > 0.01 * radius).all()
            if number < 2:  # every text draws for itself
                assert len(np.unique(delta[side][free])) > 0.99 * delta[side][free].size
        assert np.asarray(size(jnp.asarray(perturbations[2][side]), norm)).max() == pytest.approx(radius, rel=1e-4)


def test_with_queries_alone_no_passage_moves() -> None:
    data = extended(2)

    def found(params, data, key):
        words = OBJECTIVE.word_embeddings(params, data)
        both, queries = (Space.of(words, data, budget) for budget in (BUDGET, QUERIES))
        return [
            (space.draw(words, key), space.draw_entries(words, key), space.ascend(space.zero(words), words, 1.0))
            for space in (both, queries)
        ]

    both, queries = one_device(found, PARAMS, data, jax.random.key(2))
    for of_both, of_queries in zip(both, queries, strict=True):
        np.testing.assert_array_equal(of_queries.queries, of_both.queries)
        assert (of_queries.passages == 0).all() and np.abs(of_both.passages).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "terms"), [("fgm", 1.7), ("freelb", 1.0)])
def test_without_room_to_move_it_is_the_clean_gradient(name: str, terms: float) -> None:
    data = extended(2)
    none = Budget(1e-9, "token_l2", SPECIAL)
    method = {"fgm": partial(fgm, budget=none, weight=0.7), "freelb": partial(freelb, budget=none, steps=2)}[name]
    losses, grads = one_device(lambda p, d, k: method(OBJECTIVE, p, d, None, k), PARAMS, data, jax.random.key(0))
    (loss, accuracy), clean = one_device(
        lambda p, d: jax.value_and_grad(OBJECTIVE, has_aux=True)(p, d, None), PARAMS, data
    )
    assert losses.clean_loss == pytest.approx(float(loss), rel=1e-5)
    assert losses.adversarial_loss == pytest.approx(float(loss), rel=1e-5)
    assert losses.loss == pytest.approx(terms * float(loss), rel=1e-5)
    assert losses.accuracy == accuracy
    assert_close(grads, jax.tree.map(lambda leaf: terms * leaf, clean), atol=1e-5)


@pytest.mark.slow
def test_freelb_averages_over_the_points_of_the_walk_and_starts_at_random() -> None:
    """Two steps written out."""
    data = extended(1)

    def by_hand(params, data, key):
        def loss(params, delta):
            words = jax.tree.map(jnp.add, OBJECTIVE.word_embeddings(params, data), delta)
            return OBJECTIVE.loss(OBJECTIVE.sentence_embeddings(params, words, data, None), data).loss

        words = OBJECTIVE.word_embeddings(params, data)
        space = Space.of(words, data, BUDGET)
        first = space.draw_entries(words, key)
        second = space.ascend(first, jax.grad(loss, argnums=1)(params, first), 2.5 / 2)
        return jax.value_and_grad(lambda params: (loss(params, first) + loss(params, second)) / 2)(params)

    method = partial(freelb, budget=BUDGET, steps=2)
    key = jax.random.key(4)
    losses, grads = one_device(lambda p, d, k: method(OBJECTIVE, p, d, None, k), PARAMS, data, key)
    expected, expected_grads = one_device(by_hand, PARAMS, data, key)
    assert losses.loss == losses.adversarial_loss == pytest.approx(float(expected), rel=1e-5)
    assert losses.clean_loss < losses.loss
    assert_close(grads, expected_grads, atol=1e-5)


@pytest.mark.slow
def test_more_steps_find_more_than_one() -> None:
    data = extended(1)

    def loss(method: Hardening) -> float:
        found = one_device(lambda p, d, k: method(OBJECTIVE, p, d, None, k)[0], PARAMS, data, jax.random.key(0))
        return float(found.adversarial_loss)

    one, many = (partial(pgd, budget=BUDGET, steps=steps, weight=1.0) for steps in (1, 10))
    assert loss(many) > loss(one)


def test_a_step_without_hardening_is_the_clean_step() -> None:
    """And one with it also reports both losses and follows its gradient."""
    data = extended(1)
    optimizer = optax.sgd(1.0)
    state = TrainState(jnp.int32(0), PARAMS, optimizer.init(PARAMS))

    def step(**hardening):
        return make_step(OBJECTIVE.encoder, optimizer, temperature=0.05, symmetric=True, dropout=False, **hardening)

    def jaxpr(**hardening) -> str:
        one = jax.vmap(step(**hardening), axis_name=parallel.AXIS, in_axes=(None, 0, None))
        clean = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch(1))
        return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(one)(state, clean, jax.random.key(0))))

    assert jaxpr() == jaxpr(hardening=None)
    after, metrics = one_device(step(hardening=METHODS["typos"]), state, data, jax.random.key(0))
    losses, grads = one_device(
        lambda p, d, k: METHODS["typos"](OBJECTIVE, p, d, None, k), PARAMS, data, jax.random.key(0)
    )
    assert metrics._asdict() == losses._asdict() | {"grad_norm": metrics.grad_norm}
    assert_close(jax.tree.map(lambda a, b: a - b, PARAMS, after.params), grads, atol=1e-5)
