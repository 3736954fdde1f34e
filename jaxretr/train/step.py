"""One optimiser update, as one device makes it.

In: the training state, this device's rows of a batch, the run's key. Out: the state after the update, and metrics, the
same on every device. Pure: nothing here knows of the loop, the host or the config.
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
from jaxretr.train import chunks, word_rows
from jaxretr.train.hardening import Hardening
from jaxretr.train.objective import Objective

_DRAWS = 2**32 - 1
"""What the key of an update's draws is made from; the keys of dropout are made from the numbers of the devices."""


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


class HardenedMetrics(NamedTuple):
    """The same of a hardened update; `loss` is what is minimised, the others are explained in `Hardened`."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    grad_norm: Float[Array, ""]
    clean_loss: Float[Array, ""]
    adversarial_loss: Float[Array, ""]


def make_step(
    encoder: EncoderFunctions,
    optimizer: optax.GradientTransformation,
    *,
    temperature: float,
    symmetric: bool,
    dropout: bool,
    hardening: Hardening | None = None,
    chunk_size: int = 0,
    sparse_embeddings: bool = False,
) -> Callable[[TrainState, PairBatch, jax.Array], tuple[TrainState, StepMetrics | HardenedMetrics]]:
    """The per-device update `(state, batch, key) -> (state, metrics)`, to be run under `parallel.pmap`.

    `key` is the run's own and never changes: the dropout of an update follows from it, the step and the device. With
    `chunk_size` a device encodes so many pairs at once (`jaxretr.train.chunks`), 0 for all. With `sparse_embeddings`
    only the word embeddings of the batch are updated (`jaxretr.train.word_rows`); not to be had with `hardening`,
    which knows special tokens by their ids.
    """
    objective = Objective(encoder, temperature, symmetric)

    def step(state: TrainState, batch: PairBatch, key: jax.Array) -> tuple[TrainState, StepMetrics | HardenedMetrics]:
        update_key = jax.random.fold_in(key, state.step)
        dropout_key = jax.random.fold_in(update_key, parallel.device_index()) if dropout else None
        # Each device differentiated the sum of all devices' losses with respect to its own use of the parameters
        # (the transpose of `gather` adds up), so the mean over devices is the gradient of the mean loss.
        if hardening is None:
            if chunk_size:
                values, grads = chunks.value_and_grad(objective, state.params, batch, dropout_key, chunk_size)
            else:
                values, grads = jax.value_and_grad(objective, has_aux=True)(state.params, batch, dropout_key)
            (loss, accuracy), grads = parallel.mean((values, grads))
            metrics: StepMetrics | HardenedMetrics = StepMetrics(loss, accuracy, optax.tree.norm(grads))
        else:
            draws = jax.random.fold_in(update_key, _DRAWS)
            hardened, grads = parallel.mean(hardening(objective, state.params, batch, dropout_key, draws))
            metrics = HardenedMetrics(**hardened._asdict(), grad_norm=optax.tree.norm(grads))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + jnp.int32(1), params, opt_state), metrics

    def sparse_step(state: TrainState, batch: PairBatch, key: jax.Array) -> tuple[TrainState, Any]:
        rows = word_rows.occurring(batch, encoder.architecture.vocab_size)
        after, metrics = step(word_rows.take(state, rows), word_rows.renumbered(batch, rows), key)
        return word_rows.put(state, rows, after), metrics

    return sparse_step if sparse_embeddings else step
