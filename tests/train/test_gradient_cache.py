"""Gradient caching against the gradient of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxretr import parallel
from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import functions, init_params
from jaxretr.train import gradient_cache
from jaxretr.train.loss import SentenceEmbeddings
from jaxretr.train.objective import Objective
from jaxretr.train.step import TrainState, make_step
from tests.tiny import TINY
from tests.train.test_step import BATCH, batch, shares

PARAMS = init_params(TINY, jax.random.key(0))


def on(devices: int, per_device, data: PairBatch, out_axes=None):
    """Runs a function of a device's share of a batch."""
    mapped = jax.pmap(per_device, axis_name=parallel.AXIS, out_axes=out_axes, devices=jax.devices()[:devices])
    return mapped(shares(data, devices))


def assert_equal(ours, theirs) -> None:
    norm = float(optax.tree.norm(theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 * norm), ours, theirs)


@pytest.mark.parametrize(
    ("columns", "chunk_size", "devices"),
    [pytest.param(1, 4, 1, marks=pytest.mark.slow), (3, 2, 2), pytest.param(1, 1, 4, marks=pytest.mark.slow)],
)
def test_without_dropout_it_is_the_gradient_of_the_whole_batch(columns: int, chunk_size: int, devices: int) -> None:
    objective = Objective(functions(TINY, dropout_rate=0.0, remat="dots"), 0.05, True)

    def cached(data):
        return parallel.mean(gradient_cache.value_and_grad(objective, PARAMS, data, None, chunk_size))

    def whole(data):
        return parallel.mean(jax.value_and_grad(objective, has_aux=True)(PARAMS, data, None))

    (ours, our_grads), (theirs, their_grads) = (on(devices, f, batch(columns)) for f in (cached, whole))
    assert tuple(map(float, ours)) == pytest.approx(tuple(map(float, theirs)), rel=1e-5)
    assert_equal(our_grads, their_grads)


@pytest.mark.slow
def test_with_dropout_it_is_the_gradient_of_the_chunks_encoded_together() -> None:
    objective = Objective(functions(TINY, dropout_rate=0.3), 0.05, False)
    key, size = jax.random.key(5), 4

    def in_chunks(params, data):
        """The same chunks with the same keys, and nothing cached."""
        found = []
        for number, chunk_key in enumerate(jax.random.split(key, BATCH // size)):
            chunk = jax.tree.map(lambda leaf, n=number: leaf[n * size : (n + 1) * size], data)
            found.append(
                objective.sentence_embeddings(params, objective.word_embeddings(params, chunk), chunk, chunk_key)
            )
        metrics = objective.loss(SentenceEmbeddings(*map(jnp.concatenate, zip(*found, strict=True))), data)
        return metrics.loss, metrics

    cached = on(1, lambda data: gradient_cache.value_and_grad(objective, PARAMS, data, key, size), batch(1))
    plain = on(1, lambda data: jax.value_and_grad(in_chunks, has_aux=True)(PARAMS, data), batch(1))
    assert float(cached[0].loss) == pytest.approx(float(plain[0][0]), rel=1e-6)
    assert_equal(cached[1], plain[1])


def test_an_update_takes_it_as_a_setting() -> None:
    encoder, optimizer = functions(TINY, dropout_rate=0.0), optax.sgd(1.0)

    def after(chunk_size: int):
        step = make_step(encoder, optimizer, temperature=0.05, symmetric=False, dropout=False, chunk_size=chunk_size)
        state = TrainState(jnp.int32(0), PARAMS, optimizer.init(PARAMS))
        return on(4, lambda data: step(state, data, jax.random.key(1))[0].params, batch(1))

    assert_equal(after(2), after(0))


def test_memory_is_that_of_a_chunk() -> None:
    objective = Objective(functions(TINY), 0.05, False)

    def temporary(per_device) -> int:
        mapped = parallel.pmap(per_device)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((jax.device_count(), 256, *x.shape[1:]), x.dtype), batch(1)
        )
        return mapped.lower(shapes).compile().memory_analysis().temp_size_in_bytes

    whole = temporary(lambda data: jax.grad(lambda p: objective(p, data, None).loss)(PARAMS))
    cached = temporary(lambda data: gradient_cache.value_and_grad(objective, PARAMS, data, None, 16)[1])
    assert cached < 0.5 * whole


def test_chunks_that_do_not_divide_the_batch_are_refused() -> None:
    objective = Objective(functions(TINY), 0.05, False)
    with pytest.raises(ValueError, match="chunk_size is 3; expected a divisor of the 16 pairs of a device"):
        on(1, lambda data: gradient_cache.value_and_grad(objective, PARAMS, data, None, 3)[1], batch(1))
