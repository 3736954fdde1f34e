"""Hardened gradients against hand-made ones, on one device and on eight."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr import parallel
from jaxretr.data.batches import PairBatch, Translations
from jaxretr.model.functions import functions, init_params
from jaxretr.train.hardening import Budget, Hardening, fgm, freelb, pgd, self_teaching, vat, worst_translations
from jaxretr.train.objective import Objective
from jaxretr.types import TokenBatch
from tests.tiny import TINY
from tests.train.test_step import BATCH, batch

SPECIAL = (0, 1, 2, 5)
OBJECTIVE = Objective(functions(TINY), 0.05, True)
BUDGET = Budget(0.3, "token_l2", SPECIAL)
PARAMS = jax.tree.map(lambda leaf: leaf * 5, init_params(TINY, jax.random.key(0)))  # away from the linear regime

METHODS: dict[str, Hardening] = {
    "fgm": partial(fgm, budget=BUDGET, weight=0.7),
    "pgd": partial(pgd, budget=BUDGET, steps=2, weight=0.7),
    "freelb": partial(freelb, budget=BUDGET, steps=3),
    "vat": partial(vat, budget=BUDGET, steps=1, weight=0.7),
    "typos": partial(self_teaching, weight=0.7),
    "translations": worst_translations,
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
    share = jax.tree.map(lambda x: x.reshape(devices, BATCH // devices, *x.shape[1:]), data)
    losses, grads = mapped(PARAMS, share, jax.random.key(1))
    return jax.tree.map(float, losses), jax.tree.map(np.asarray, grads)


def assert_close(found, expected, atol: float = 1e-6) -> None:
    """Gradients that agree within `atol` of their common length."""
    length = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(expected)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol * length), found, expected)


@pytest.mark.parametrize("name", METHODS)
def test_eight_devices_equal_one(name: str) -> None:
    data = extended(2)
    one, one_grads = run(METHODS[name], data, 1)
    eight, eight_grads = run(METHODS[name], data, 8)
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    assert_close(eight_grads, one_grads, atol=1e-4)


def test_fgm_by_hand() -> None:
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
        grads, *gradient = jax.grad(loss, argnums=(0, 1, 2))(PARAMS, *zero)
        delta = []
        for g, mask, epsilon in zip(gradient, free, radius, strict=True):
            g = np.asarray(g) * mask[:, :, None]
            delta.append(epsilon * g / np.maximum(np.linalg.norm(g, axis=2, keepdims=True), 1e-30))
        clean, adversarial = loss(PARAMS, *zero), loss(PARAMS, *delta)
        expected = jax.tree.map(lambda a, b: np.asarray(a + 0.7 * b), grads, jax.grad(loss)(PARAMS, *delta))
    found, found_grads = run(METHODS["fgm"], data)
    assert adversarial > clean + 0.1  # the adversary has something to do
    assert found.clean_loss == pytest.approx(float(clean), rel=1e-4)
    assert found.adversarial_loss == pytest.approx(float(adversarial), rel=1e-4)
    assert found.loss == pytest.approx(float(clean + 0.7 * adversarial), rel=1e-4)
    assert_close(found_grads, expected, atol=1e-4)
