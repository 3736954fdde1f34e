"""AdamW in shards on eight devices against AdamW written out, and against the whole optimizer on one device."""

import dataclasses
import functools
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxretr import parallel, run
from jaxretr.config import Config, EvaluationConfig, TrainConfig
from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import EncoderFunctions, param_shapes
from jaxretr.run import make_update
from jaxretr.train import sharded_optimizer
from jaxretr.train.checkpoint import Checkpoints
from jaxretr.train.early_stopping import EarlyStopping
from jaxretr.train.hardening import Budget, fgm
from jaxretr.train.optimizer import adamw
from jaxretr.train.output_dir import claim_output_dir
from jaxretr.train.sharded_optimizer import OptimizerSharding
from jaxretr.train.step import TrainState, make_step
from jaxretr.types import TokenBatch
from tests.test_run import assert_same_model, at_step
from tests.tiny import TINY
from tests.train.test_step import batch, shares

SHAPES = {
    "table": (130, 3),  # 130 rows in whole tiles: 192 rows, 24 per device
    "stack": (2, 32, 5),  # 64 rows, 8 per device, without padding
    "kernel": (7, 11),  # 77 elements, 10 per device
    "bias": (5,),
    "scale": (2, 8),
}
ELEMENTS = {"table": (24, 3), "stack": (8, 5), "kernel": (10,), "bias": (1,), "scale": (2,)}
RATE, DECAY, MAX_NORM = 0.1, 0.3, 2.0


def arrays(seed: int, *axes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(*axes, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


def optimizer(sharded: bool) -> optax.GradientTransformation:
    return adamw(optax.constant_schedule(RATE), weight_decay=DECAY, max_grad_norm=MAX_NORM, sharded=sharded)


def test_shards_are_equal_parts_and_gather_joins_them() -> None:
    whole = parallel.replicate(arrays(0) | {"count": np.int32(7)})
    shards = OptimizerSharding(optimizer(sharded=True)).shard(whole)
    assert {name: shard.shape[1:] for name, shard in shards.items()} == ELEMENTS | {"count": ()}
    for name, shard in shards.items():
        flat = np.ravel(shard)
        np.testing.assert_array_equal(flat[: whole[name].size], np.ravel(whole[name]))
        assert name == "count" or (flat[whole[name].size :] == 0).all()
    joined = parallel.pmap(sharded_optimizer.gather, in_axes=(0, None), out_axes=None)(shards, whole)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)


def test_updates_are_those_of_adamw_written_out() -> None:
    """Four updates in float64. The norm is above the limit in two of them; biases and scales do not decay."""

    def per_device(params, state, gradients):
        gradients = sharded_optimizer.mean_shards(gradients)
        updates, state = optimizer(sharded=True).update(gradients, state, sharded_optimizer.shard(params))
        params = optax.apply_updates(params, sharded_optimizer.gather(updates, params))
        return params, state, sharded_optimizer.global_norm(gradients)

    step = parallel.pmap(per_device, in_axes=(None, 0, 0), out_axes=(None, 0, None))
    params = parallel.replicate(arrays(0))
    sharding = OptimizerSharding(optimizer(sharded=True))
    state = sharding.init(params)
    expected = {name: leaf.astype(np.float64) for name, leaf in arrays(0).items()}
    first, second = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    clipped = []
    for number in range(1, 5):
        scale = np.float32([0.05, 1.0][number % 2])
        gradients = {name: scale * leaf for name, leaf in arrays(number, 8).items()}
        params, state, norm = step(params, state, gradients)
        mean = {name: leaf.astype(np.float64).mean(axis=0) for name, leaf in gradients.items()}
        length = np.sqrt(sum((leaf**2).sum() for leaf in mean.values()))
        assert float(norm) == pytest.approx(length, rel=1e-5)
        clipped.append(length > MAX_NORM)
        for name, leaf in mean.items():
            gradient = leaf * min(1, MAX_NORM / length)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            change = first[name] / (1 - 0.9**number) / (np.sqrt(second[name] / (1 - 0.999**number)) + 1e-8)
            change += DECAY * expected[name] * (name not in ("bias", "scale"))
            expected[name] = expected[name] - RATE * change
    assert clipped == [True, False, True, False]
    for name, leaf in expected.items():
        np.testing.assert_allclose(params[name], leaf, rtol=1e-4, atol=1e-5, err_msg=name)
    whole = sharding.gather(state, params)
    assert jax.tree.structure(whole) == jax.tree.structure(optimizer(sharded=False).init(params))
    for name in SHAPES:
        np.testing.assert_allclose(whole[1][0].mu[name], first[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(whole[1][0].nu[name], second[name], rtol=1e-4, atol=1e-8)
    assert (np.asarray(state[1][0].count) == 4).all()


def other_words(data: PairBatch, number: int) -> PairBatch:
    """The batch with every word of the queries replaced by another one."""
    ids, mask = data.queries
    return data._replace(queries=TokenBatch(np.where(mask, 4 + (ids + 7 * number) % 100, ids).astype(np.int32), mask))


class BagOfWords(EncoderFunctions):
    """An encoder of one layer, which compiles in a moment."""

    def embed_tokens(self, params, ids):
        return params["embeddings"]["word"]["embedding"][ids]

    def encode(self, params, embeds, mask, key=None):
        del key
        summed = jnp.einsum("blh,bl->bh", embeds, mask.astype(jnp.float32))
        hidden = jnp.tanh(summed @ params["layer"]["kernel"] + params["layer"]["bias"])
        return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


def trained(sharded: bool, **options):
    """The state after three updates, with the whole optimizer state, and all metrics."""
    clipping = adamw(optax.constant_schedule(1e-2), weight_decay=0.1, max_grad_norm=0.05, sharded=sharded)
    encoder = BagOfWords(TINY, "float32", "none", 0.0)
    step = make_step(
        encoder, clipping, temperature=0.05, symmetric=True, dropout=False, shard_optimizer=sharded, **options
    )
    rng = np.random.default_rng(0)
    table, kernel = ((0.3 * rng.normal(size=shape)).astype(np.float32) for shape in ((TINY.vocab_size, 16), (16, 11)))
    layer = {"kernel": kernel, "bias": np.ones(11, np.float32)}
    params = parallel.replicate({"embeddings": {"word": {"embedding": table}}, "layer": layer})
    sharding = OptimizerSharding(clipping)
    axes: Any = TrainState(None, None, 0 if sharded else None)  # type: ignore[arg-type]
    run_step = parallel.pmap(step, in_axes=(axes, 0, None), out_axes=(axes, None))
    state = TrainState(jnp.int32(0), params, (sharding if sharded else clipping).init(params))
    found = []
    for number in range(3):
        state, values = run_step(state, shares(other_words(batch(1), number), 8), jax.random.key(1))
        found.append(values)
    if sharded:
        state = state._replace(opt_state=sharding.gather(state.opt_state, state.params))
    return jax.tree.map(np.array, (state, found))


@pytest.mark.parametrize(
    "kind", ["plain", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gradient cache", "hardened"))]
)
def test_shards_are_updated_as_the_whole_state_is(kind: str) -> None:
    """Both on eight devices, with clipping and decay; tests/train/test_step.py compares eight devices with one."""
    options: dict[str, Any] = {
        "plain": {},
        "gradient cache": {"chunk_size": 1},
        "hardened": {"hardening": functools.partial(fgm, budget=Budget(0.1, "token_l2", (0, 1, 2)), weight=1.0)},
    }[kind]
    (ours, our_values), (theirs, their_values) = (trained(sharded, **options) for sharded in (True, False))
    np.testing.assert_allclose(our_values, their_values, rtol=1e-5)
    assert all(values.grad_norm > 0.05 for values in their_values)
    # AdamW moves an entry of a tiny gradient by its rounding; an update moves an entry by up to 1e-2.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), ours, theirs)


def test_only_with_the_option_gradients_are_scattered() -> None:
    def counts(sharded: bool) -> tuple[int, int]:
        update = make_update(Config(train=TrainConfig(shard_optimizer=sharded)), TINY, (0, 1, 2))
        state = jax.eval_shape(update.initial_state, param_shapes(TINY))
        text = update.over_devices().lower(state, shares(batch(1), 8), jax.random.key(1)).as_text()
        return text.count("stablehlo.reduce_scatter"), text.count("stablehlo.all_gather")

    leaves = len(jax.tree.leaves(param_shapes(TINY)))
    # Without the option, the loss gathers embeddings and hashes of texts, and the transpose of a gather scatters.
    (scattered, gathered), sharded = counts(False), counts(True)
    assert (scattered, gathered) == (1, 3)
    assert sharded == (scattered + leaves, gathered + leaves)


def test_one_device_has_nothing_to_shard() -> None:
    config = Config(train=TrainConfig(shard_optimizer=True))
    sharded = [make_update(config, TINY, (), jax.devices()[:devices]).sharding for devices in (1, 2)]
    assert sharded[0] is None and sharded[1] is not None


def test_checkpoints_hold_the_whole_state_for_any_number_of_devices(tmp_path: Path) -> None:
    params = parallel.replicate(arrays(0))
    whole = optimizer(sharded=False).init(params)
    moments = whole[1][0]._replace(count=jnp.int32(5), mu=arrays(1), nu=arrays(2))
    whole = parallel.replicate((whole[0], (moments, *whole[1][1:])))
    sharding = OptimizerSharding(optimizer(sharded=True))

    def state(opt_state) -> TrainState:
        return jax.tree.map(jnp.copy, TrainState(parallel.replicate(jnp.int32(5)), params, opt_state))

    shards = sharding.shard(whole)
    for name, kept, how in (("on", shards, sharding), ("off", whole, None)):
        with Checkpoints(tmp_path / name, keep=1, sharding=how) as checkpoints:
            checkpoints.save(state(kept), {}, {}, EarlyStopping(""))
        for expected, then in ((shards, sharding), (whole, None)):
            with Checkpoints(tmp_path / name, keep=1, sharding=then) as checkpoints:
                like = jax.tree.map(jnp.zeros_like, state(expected))
                restored = checkpoints.restore(like).state
            jax.tree.map(np.testing.assert_array_equal, restored, TrainState(jnp.int32(5), params, expected))


@pytest.mark.slow
def test_a_run_with_shards_resumes_bit_for_bit(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, dropout=0.0),
        train=dataclasses.replace(tiny_config.train, steps=4, shard_optimizer=True),
        evaluation=EvaluationConfig(dataset="none"),
    )
    model = run.train(dataclasses.replace(config, output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped after step 2"):
            run.train(config)
    assert_same_model(run.train(config), model)


def test_a_run_may_resume_with_another_value(tiny_config: Config) -> None:
    output = claim_output_dir(tiny_config)
    (output / "checkpoints" / "5").mkdir(parents=True)
    sharded = dataclasses.replace(tiny_config.train, shard_optimizer=True)
    assert claim_output_dir(dataclasses.replace(tiny_config, train=sharded)) == output
