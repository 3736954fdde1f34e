"""One update, as one device of many makes it.

In: the training state and this device's share of a batch. Out: the next state, and scalars about the update, the same
on every device. Pure: nothing here knows of the loop, the host or the config.
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
from jaxretr.train.loss import info_nce


class TrainState(NamedTuple):
    """All that an update changes."""

    step: Int32[Array, ""]
    params: PyTree[Float[Array, "..."]]
    opt_state: Any


class StepMetrics(NamedTuple):
    """Scalars of one update over the global batch; `grad_norm` before clipping, `accuracy` as in `Contrast`."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    grad_norm: Float[Array, ""]


def make_step(
    encoder: EncoderFunctions,
    optimizer: optax.GradientTransformation,
    *,
    temperature: float,
    symmetric: bool,
    dropout: bool,
) -> Callable[[TrainState, PairBatch, jax.Array], tuple[TrainState, StepMetrics]]:
    """The per-device update `(state, batch, key) -> (state, metrics)`, to be run under `parallel.pmap`.

    `key` is the run's own and never changes: the dropout of an update follows from it, the step and the device.
    """

    def loss_fn(params: PyTree, batch: PairBatch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        query_key, passage_key = (None, None) if key is None else jax.random.split(key)
        queries = encoder.encode_ids(params, batch.queries.ids, batch.queries.mask, query_key)
        rows, columns, length = batch.passages.ids.shape
        ids, mask = (leaf.reshape(rows * columns, length) for leaf in batch.passages)
        passages = encoder.encode_ids(params, ids, mask, passage_key).reshape(rows, columns, -1)
        return info_nce(
            queries,
            passages,
            batch.query_content,
            batch.passage_content,
            temperature=temperature,
            symmetric=symmetric,
        )

    def step(state: TrainState, batch: PairBatch, key: jax.Array) -> tuple[TrainState, StepMetrics]:
        update_key = None
        if dropout:
            update_key = jax.random.fold_in(jax.random.fold_in(key, state.step), parallel.device_index())
        (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, update_key)
        # Each device differentiated the sum of all devices' losses with respect to its own use of the parameters
        # (the transpose of `gather` adds up), so the mean over devices is the gradient of the mean loss.
        loss, accuracy, grads = parallel.mean((loss, accuracy, grads))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(loss, accuracy, optax.tree.norm(grads))
        return TrainState(state.step + jnp.int32(1), params, opt_state), metrics

    return step
