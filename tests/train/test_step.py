"""The update on eight devices against the same update on one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxretr import parallel
from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import functions, init_params
from jaxretr.train.optimizer import adamw, decays, learning_rate_schedule
from jaxretr.train.step import TrainState, make_step
from jaxretr.types import TokenBatch
from tests.tiny import TINY

BATCH = 16


def batch(columns: int) -> PairBatch:
    rng = np.random.default_rng(columns)

    def tokens(*shape: int) -> TokenBatch:
        lengths = rng.integers(3, 13, shape)
        mask = np.arange(12) < lengths[..., None]
        return TokenBatch(np.where(mask, rng.integers(4, TINY.vocab_size, (*shape, 12)), 1).astype(np.int32), mask)

    content = np.arange(1, 1 + BATCH * columns, dtype=np.uint32).reshape(BATCH, columns)
    content[3, 0] = content[11, 0]
    return PairBatch(tokens(BATCH), tokens(BATCH, columns), np.arange(1, BATCH + 1, dtype=np.uint32), content)


def shares(data: PairBatch, devices: int) -> PairBatch:
    """The batch with a leading axis of devices."""
    return jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), data)


def update(data: PairBatch, devices: int, *, dropout: bool = False, symmetric: bool = False):
    encoder = functions(TINY, dropout_rate=0.2 if dropout else 0.0, remat="dots")
    params = init_params(TINY, jax.random.key(0))
    # Plain SGD shows the gradient itself; Adam would hide a factor.
    optimizer = optax.sgd(1.0)
    step = make_step(encoder, optimizer, temperature=0.05, symmetric=symmetric, dropout=dropout)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    run = jax.pmap(
        step, axis_name=parallel.AXIS, in_axes=(None, 0, None), out_axes=None, devices=jax.devices()[:devices]
    )
    share = shares(data, devices)
    after, metrics = run(state, share, jax.random.key(1))
    return jax.tree.map(np.asarray, jax.tree.map(lambda a, b: b - a, after.params, params)), jax.tree.map(
        float, metrics
    )


@pytest.mark.parametrize(
    ("columns", "symmetric"),
    [(3, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, False), (1, True), (3, False)))],
)
def test_eight_devices_equal_one(columns: int, symmetric: bool) -> None:
    one_gradient, one = update(batch(columns), 1, symmetric=symmetric)
    eight_gradient, eight = update(batch(columns), 8, symmetric=symmetric)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(one_gradient)))
    assert one.grad_norm == pytest.approx(norm, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-6 * norm), one_gradient, eight_gradient)


def test_the_gradient_is_that_of_the_loss() -> None:
    """One entry against a central difference."""
    data = batch(1)
    gradient, _ = update(data, 8)
    encode, params = jax.jit(functions(TINY).encode_ids), init_params(TINY, jax.random.key(0))
    on_device = jax.tree.map(jax.numpy.asarray, data)

    def loss(shift: float) -> float:
        table = params["embeddings"]["word"]["embedding"]
        moved = jax.tree.map(lambda x: x, params)
        moved["embeddings"]["word"]["embedding"] = table + shift * direction
        q = encode(moved, *on_device.queries)
        p = encode(moved, *(leaf[:, 0] for leaf in on_device.passages))
        scores = np.asarray(q, np.float64) @ np.asarray(p, np.float64).T / 0.05
        same = data.passage_content == data.passage_content.T
        scores[same & ~np.eye(BATCH, dtype=bool)] = -np.inf
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)))

    table = gradient["embeddings"]["word"]["embedding"]
    direction = table / np.linalg.norm(table)
    h = 3e-3
    assert (loss(h) - loss(-h)) / (2 * h) == pytest.approx(np.linalg.norm(table), rel=2e-2)


def test_dropout_follows_from_key_and_step_alone() -> None:
    first, _ = update(batch(1), 8, dropout=True)
    again, _ = update(batch(1), 8, dropout=True)
    without, _ = update(batch(1), 8)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(without), strict=True))


def test_decay_spares_biases_and_norms() -> None:
    params = init_params(TINY, jax.random.key(0))
    optimizer = adamw(optax.constant_schedule(0.1), weight_decay=0.5, max_grad_norm=1.0)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path)
        assert bool((leaf != 0).any()) == (not name.endswith(("['bias']", "['scale']"))), name
    assert not all(jax.tree.leaves(decays(params)))


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.8536, 0.5, 0.1464]),
    ],
)
def test_schedules(schedule: str, values: list[float]) -> None:
    rate = learning_rate_schedule(1.0, steps=6, warmup_steps=2, schedule=schedule)
    np.testing.assert_allclose([rate(i) for i in range(6)], values, atol=1e-4)
