import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxretr import parallel
from jaxretr.train import loss as loss_module
from jaxretr.train.loss import info_nce

BATCH, DIM = 16, 8


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def loss(queries, passages, query_content=None, passage_content=None, *, temperature=0.1, symmetric=False):
    """Over eight devices; returns the mean over devices of loss and accuracy."""
    batch, columns = passages.shape[:2]
    if query_content is None:
        query_content = np.arange(1, batch + 1, dtype=np.uint32)
    if passage_content is None:
        passage_content = np.arange(101, 101 + batch * columns, dtype=np.uint32).reshape(batch, columns)

    def per_device(*arguments):
        return parallel.mean(info_nce(*arguments, temperature=temperature, symmetric=symmetric))

    over_devices = parallel.pmap(per_device, out_axes=None)
    return jax.tree.map(float, over_devices(*parallel.split((queries, passages, query_content, passage_content))))


def reference(queries, passages, temperature, allowed=None):
    """optax's cross entropy on the whole score matrix, by one device."""
    batch, columns, dim = passages.shape
    scores = np.asarray(queries, np.float64) @ passages.reshape(-1, dim).T.astype(np.float64) / temperature
    if allowed is not None:
        scores = np.where(allowed, scores, -1e9)
    labels = jnp.arange(batch) * columns
    return float(optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(scores), labels).mean())


@pytest.mark.parametrize("columns", [1, 3])
def test_gathered_over_devices_it_is_the_cross_entropy_of_the_whole_batch(columns: int) -> None:
    rng = np.random.default_rng(0)
    queries, passages = unit(rng, BATCH, DIM), unit(rng, BATCH, columns, DIM)
    assert loss(queries, passages).loss == pytest.approx(reference(queries, passages, 0.1), rel=1e-5)


def test_symmetric_averages_both_directions() -> None:
    rng = np.random.default_rng(1)
    queries, passages = unit(rng, BATCH, DIM), unit(rng, BATCH, 1, DIM)
    both = (reference(queries, passages, 0.1) + reference(passages[:, 0], queries[:, None], 0.1)) / 2
    assert loss(queries, passages, symmetric=True).loss == pytest.approx(both, rel=1e-5)


def test_closed_form_of_orthonormal_pairs() -> None:
    pairs = np.eye(BATCH, dtype=np.float32)
    result = loss(pairs, pairs[:, None], temperature=0.5)
    assert result.loss == pytest.approx(np.log(1 + (BATCH - 1) * np.exp(-1 / 0.5)), rel=1e-6)
    assert result.accuracy == 1.0


def test_a_passage_with_the_relevant_text_is_no_negative() -> None:
    rng = np.random.default_rng(2)
    queries, passages = unit(rng, BATCH, DIM), unit(rng, BATCH, 2, DIM)
    content = np.arange(101, 101 + 2 * BATCH, dtype=np.uint32).reshape(BATCH, 2)
    content[9, 0] = content[2, 0]  # on another device
    content[4, 1] = content[3, 0]  # a hard negative
    content[6, 1] = 0  # missing
    allowed = np.ones((BATCH, 2 * BATCH), bool)
    allowed[2, 18] = allowed[9, 4] = allowed[3, 9] = False
    allowed[:, 13] = False
    result = loss(queries, passages, passage_content=content)
    assert result.loss == pytest.approx(reference(queries, passages, 0.1, allowed), rel=1e-5)


def test_the_answer_to_the_same_question_is_no_negative_but_its_hard_negatives_are() -> None:
    rng = np.random.default_rng(3)
    queries, passages = unit(rng, BATCH, DIM), unit(rng, BATCH, 2, DIM)
    content = np.arange(1, BATCH + 1, dtype=np.uint32)
    content[12] = content[1]
    allowed = np.ones((BATCH, 2 * BATCH), bool)
    allowed[1, 24] = allowed[12, 2] = False
    result = loss(queries, passages, query_content=content)
    assert result.loss == pytest.approx(reference(queries, passages, 0.1, allowed), rel=1e-5)


def test_low_temperature_stays_finite() -> None:
    rng = np.random.default_rng(4)
    assert np.isfinite(loss(unit(rng, BATCH, DIM), unit(rng, BATCH, 1, DIM), temperature=1e-4).loss)


@pytest.mark.parametrize(("columns", "symmetric"), [(1, True), (3, False), (3, True)])
def test_in_blocks_the_loss_and_its_gradient_are_the_same(
    monkeypatch: pytest.MonkeyPatch, columns: int, symmetric: bool
) -> None:
    rng = np.random.default_rng(7)
    queries, passages = unit(rng, BATCH, DIM), unit(rng, BATCH, columns, DIM)
    content = np.arange(101, 101 + columns * BATCH, dtype=np.uint32).reshape(BATCH, columns)
    content[9, 0] = content[2, 0]
    content[6, -1] = 0 if columns > 1 else content[6, -1]
    query_content = np.arange(1, BATCH + 1, dtype=np.uint32)
    query_content[5] = query_content[12]

    def value_and_grads() -> tuple[tuple, tuple]:
        def per_device(*arguments):
            def of(queries, passages):
                result = info_nce(queries, passages, *arguments[2:], temperature=0.05, symmetric=symmetric)
                return result.loss, result

            (_, result), grads = jax.value_and_grad(of, argnums=(0, 1), has_aux=True)(*arguments[:2])
            return parallel.mean(result), grads

        mapped = parallel.pmap(per_device, out_axes=(None, 0))
        result, grads = mapped(*parallel.split((queries, passages, query_content, content)))
        return jax.tree.map(float, result), jax.tree.map(np.asarray, grads)

    whole, whole_grads = value_and_grads()
    monkeypatch.setattr(loss_module, "STREAM_ABOVE", 7)
    streamed, streamed_grads = value_and_grads()
    assert streamed == pytest.approx(whole, rel=1e-6)
    for ours, theirs in zip(streamed_grads, whole_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("columns", "stream_above"), [(1, 100), (3, 500), (3, 1)])
def test_in_blocks_every_separable_pair_comes_first(
    monkeypatch: pytest.MonkeyPatch, columns: int, stream_above: int, dtype: jnp.dtype
) -> None:
    """The own score is the best one, so it must be rounded like the best one: 384 dimensions round in every product."""
    rng = np.random.default_rng(5)
    queries = unit(rng, 512, 384)
    passages = unit(rng, 512, columns, 384)
    passages[:, 0] = queries + 0.3 * passages[:, 0]
    passages /= np.linalg.norm(passages, axis=-1, keepdims=True)
    sides = np.asarray(queries, dtype), np.asarray(passages, dtype)
    whole = loss(*sides, symmetric=True)
    monkeypatch.setattr(loss_module, "STREAM_ABOVE", stream_above)
    streamed = loss(*sides, symmetric=True)
    assert whole.accuracy == streamed.accuracy == 1.0
    assert streamed.loss == pytest.approx(whole.loss, rel=1e-5, abs=0 if dtype == jnp.float32 else 0.03)


@pytest.mark.parametrize("stream_above", [8_192, 100])
def test_a_better_negative_costs_accuracy_however_it_is_computed(
    monkeypatch: pytest.MonkeyPatch, stream_above: int
) -> None:
    rng = np.random.default_rng(6)
    queries, passages = unit(rng, 512, 384), unit(rng, 512, 2, 384)
    passages[:, 0] = queries
    passages[::4] = passages[::4, ::-1]  # every fourth query prefers its hard negative
    monkeypatch.setattr(loss_module, "STREAM_ABOVE", stream_above)
    assert loss(queries, passages).accuracy == 0.75


def test_in_blocks_no_device_holds_all_scores() -> None:
    """Of 65,536 candidates and 1,024 anchors a device, in float32 268 MB, the compiled gradient holds a part."""
    devices = jax.device_count()
    batch = 65_536 // devices

    def per_device(queries, passages, query_content, passage_content):
        def of(queries, passages):
            return info_nce(queries, passages, query_content, passage_content, temperature=0.05).loss

        return jax.grad(of, argnums=(0, 1))(queries, passages)

    shapes = ((DIM,), (1, DIM), (), (1,))
    dtypes = (jnp.float32, jnp.float32, jnp.uint32, jnp.uint32)
    arguments = [jax.ShapeDtypeStruct((devices, batch, *s), d) for s, d in zip(shapes, dtypes, strict=True)]
    memory = parallel.pmap(per_device).lower(*arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes / devices < 0.5 * batch * 65_536 * 4
