"""One training update, from the loss to the new parameters, as one device makes it.

Input: the training state, this device's rows of a batch, the run's key. Output: the state after the update, and
metrics, the same on every device. The update is a pure function and does not depend on the loop, the host or the
config.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, PyTree

from jaxretr import parallel
from jaxretr.data.batches import PairBatch
from jaxretr.model.functions import EncoderFunctions
from jaxretr.train import gradient_cache, sharded_optimizer
from jaxretr.train import sparse_embeddings as sparse
from jaxretr.train.hardening import Hardening
from jaxretr.train.loss import LossFunction, info_nce
from jaxretr.train.objective import Objective

_HARDENING_KEY = 2**32 - 1
"""Folded into the key of an update for the random draws of hardening. It is larger than any device index, which
dropout folds in, so the two keys differ."""


class TrainState(NamedTuple):
    """Everything that an update changes."""

    step: Int32[Array, ""]
    params: PyTree[Float[Array, "..."]]
    opt_state: Any


class StepMetrics(NamedTuple):
    """Scalars of one update over the global batch; `grad_norm` is before clipping, `accuracy` as in `LossMetrics`."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    grad_norm: Float[Array, ""]


class HardenedMetrics(NamedTuple):
    """Scalars of one hardened update; `loss` is the minimized loss, `Hardened` explains the other losses."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    grad_norm: Float[Array, ""]
    clean_loss: Float[Array, ""]
    adversarial_loss: Float[Array, ""]


Metrics = StepMetrics | HardenedMetrics


def make_step(
    encoder: EncoderFunctions,
    optimizer: optax.GradientTransformation,
    *,
    temperature: float,
    symmetric: bool,
    dropout: bool,
    loss: LossFunction = info_nce,
    hardening: Hardening | None = None,
    chunk_size: int = 0,
    sparse_embeddings: bool = False,
    shard_optimizer: bool = False,
) -> Callable[[TrainState, PairBatch, jax.Array], tuple[TrainState, Metrics]]:
    """Build the per-device update `(state, batch, key) -> (state, metrics)`, to be run under `parallel.pmap`.

    `key` is the run's key and never changes. The dropout of an update depends on the key, the step and the device.

    Args:
      encoder: the encoder.
      optimizer: clips the gradients and transforms them into updates (`jaxretr.train.optimizer`).
      temperature, symmetric: see `info_nce`.
      dropout: whether the encoder drops entries.
      loss: one of `jaxretr.train.loss.LOSSES`.
      hardening: replaces the clean loss by the loss against an adversary; None for none.
      chunk_size: pairs that a device encodes at once (`jaxretr.train.gradient_cache`); 0 for all.
      sparse_embeddings: update only the word embeddings of the batch (`jaxretr.train.sparse_embeddings`). It renumbers
        the token ids, so it excludes `hardening`, which identifies special tokens by their ids.
      shard_optimizer: `state.opt_state` is this device's shard, and `optimizer` clips by the norm of all shards
        (`jaxretr.train.sharded_optimizer`); excludes `sparse_embeddings`.
    """
    objective = Objective(encoder, temperature, symmetric, loss)

    def step(state: TrainState, batch: PairBatch, key: jax.Array) -> tuple[TrainState, Metrics]:
        # 1. Random keys of this update.
        update_key = jax.random.fold_in(key, state.step)
        dropout_key = jax.random.fold_in(update_key, parallel.device_index()) if dropout else None

        # 2. Loss and gradient. Each device differentiates the sum of all devices' losses, but only through its own rows
        # (the transpose of `gather` is a sum over devices). The mean of these gradients over the devices is the
        # gradient of the mean loss.
        local: Any
        if hardening:
            draw_key = jax.random.fold_in(update_key, _HARDENING_KEY)
            local, grads = hardening(objective, state.params, batch, dropout_key, draw_key)
        elif chunk_size:
            local, grads = gradient_cache.value_and_grad(objective, state.params, batch, dropout_key, chunk_size)
        else:
            local, grads = jax.value_and_grad(objective, has_aux=True)(state.params, batch, dropout_key)

        # 3. Average over the devices. With a sharded optimizer, each device averages only its shard of the gradient.
        if shard_optimizer:
            values, grads = parallel.mean(local), sharded_optimizer.mean_shards(grads)
            params, grad_norm = sharded_optimizer.shard(state.params), sharded_optimizer.global_norm(grads)
        else:
            values, grads = parallel.mean((local, grads))
            params, grad_norm = state.params, optax.tree.norm(grads)
        metrics: Metrics
        if hardening:
            metrics = HardenedMetrics(**values._asdict(), grad_norm=grad_norm)
        else:
            mean_loss, accuracy = values
            metrics = StepMetrics(mean_loss, accuracy, grad_norm)

        # 4. Clip, apply AdamW, update the parameters.
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        if shard_optimizer:
            updates = sharded_optimizer.gather(updates, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + jnp.int32(1), params, opt_state), metrics

    def sparse_step(state: TrainState, batch: PairBatch, key: jax.Array) -> tuple[TrainState, Metrics]:
        ids = sparse.unique_token_ids(batch, encoder.architecture.vocab_size)
        updated, metrics = step(sparse.gather_rows(state, ids), sparse.remap_ids(batch, ids), key)
        return sparse.scatter_rows(state, ids, updated), metrics

    return sparse_step if sparse_embeddings else step
