"""Texts that share rows against texts in rows of their own: the same embeddings, losses and gradients."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr import parallel
from jaxretr.data.batches import PairBatch, packing_of
from jaxretr.model.architecture import Architecture
from jaxretr.model.functions import functions, init_params
from jaxretr.train import gradient_cache
from jaxretr.train.hardening import Budget, fgm
from jaxretr.train.objective import Objective, passage_texts
from tests.tiny import TINY
from tests.train.test_gradient_cache import PARAMS, assert_equal, on
from tests.train.test_sparse_embeddings import run as updates
from tests.train.test_step import BATCH, batch

BERT = dataclasses.replace(TINY, model_type="bert", pad_token_id=0, pooling="cls", dense_head=(TINY.hidden_size, 8))


def packed(data: PairBatch, pairs: int) -> PairBatch:
    return data._replace(packing=packing_of(data, pairs))


@pytest.mark.parametrize("architecture", [TINY, dataclasses.replace(TINY, pooling="max"), BERT])
def test_embeddings_are_those_of_the_texts_alone(architecture: Architecture) -> None:
    data = jax.tree.map(jnp.asarray, packed(batch(3), BATCH))
    passages = passage_texts(data)
    # A text without any token, as the padding of a batch is, has no place and no embedding.
    queries = data.queries._replace(mask=data.queries.mask.at[5].set(False))
    params, encoder = init_params(architecture, jax.random.key(0)), functions(architecture)
    sides = (queries, passages)
    found = encoder.encode_packed(
        params,
        [encoder.embed_tokens(params, side.ids) for side in sides],
        [side.mask for side in sides],
        data.packing,
    )
    for embeddings, side in zip(found, sides, strict=True):
        np.testing.assert_allclose(embeddings, encoder.encode_ids(params, *side), atol=1e-6)
    assert data.packing.text.size < 0.65 * (queries.mask.size + passages.mask.size)


@pytest.mark.parametrize(("devices", "chunk_size"), [(1, 0), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_loss_and_gradient_are_those_of_rows_of_their_own(devices: int, chunk_size: int) -> None:
    objective = Objective(functions(TINY, dropout_rate=0.0, remat="dots"), 0.05, True)

    def gradient(data: PairBatch):
        if chunk_size:
            return parallel.mean(gradient_cache.value_and_grad(objective, PARAMS, data, None, chunk_size))
        return parallel.mean(jax.value_and_grad(objective, has_aux=True)(PARAMS, data, None))

    data = batch(3)
    (ours, our_grads), (theirs, their_grads) = (
        on(devices, gradient, some) for some in (packed(data, chunk_size or BATCH // devices), data)
    )
    assert tuple(map(float, ours)) == pytest.approx(tuple(map(float, theirs)), rel=1e-5)
    assert_equal(our_grads, their_grads)


@pytest.mark.slow
def test_an_adversary_finds_the_same_perturbations() -> None:
    objective = Objective(functions(TINY, dropout_rate=0.0), 0.05, True)
    method = partial(fgm, budget=Budget(0.3, "token_l2", (0, 1, 2, 3)), weight=0.7)

    def hardened(data: PairBatch):
        return method(objective, PARAMS, data, None, jax.random.key(1))

    data = batch(2)
    (ours, our_grads), (theirs, their_grads) = (on(1, hardened, some) for some in (packed(data, BATCH), data))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    norm = float(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(their_grads))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * norm), our_grads, their_grads)


def test_dropout_is_a_function_of_the_key_and_changes_the_loss() -> None:
    objective = Objective(functions(TINY, dropout_rate=0.3), 0.05, False)
    data = packed(batch(1), BATCH)
    first, again, other, none = (
        float(on(1, lambda some, key=key: objective(PARAMS, some, key).loss, data))
        for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2), None)
    )
    assert first == again and len({first, other, none}) == 3


@pytest.mark.slow
def test_updates_of_the_words_of_a_batch_alone_are_the_same() -> None:
    data = batch(1)
    (ours,), (norm,) = updates([packed(data, BATCH // 2)], sparse=True, devices=2)
    (theirs,), (their_norm,) = updates([data], sparse=True, devices=2)
    assert norm == pytest.approx(their_norm, rel=1e-5)
    # An entry of the gradient that is all rounding moves by Adam's full step either way.
    moved = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.params)]) for state in (ours, theirs)]
    assert np.mean(np.abs(moved[0] - moved[1]) > 1e-5) < 0.01
