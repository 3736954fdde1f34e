"""Shard the optimizer state over the devices (ZeRO stage 1: Rajbhandari et al. 2020, arXiv 1910.02054).

Input: gradients that each device has computed from its own rows, and parameters that every device holds. Output: the
updates of all parameters. Each device keeps the moments of 1/devices of every array, averages only this shard of the
gradient over the devices, and computes only this shard of the update. The updates are then gathered.

A shard is a block of rows, because a TPU cuts and joins whole rows without reordering memory. The rows of an array run
along its last axis. An array of few rows is one long row, and its elements are distributed instead. Zeros pad the rows
(or elements) to a multiple of the number of devices. A scalar, such as the number of updates, is not sharded.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxretr import parallel
from jaxretr.model.functions import Params

_TILE_ROWS = 8
"""Rows of a TPU's smallest float32 tile. A shard of whole tiles is not copied to align it."""


def mean_shards(tree: Any) -> Any:
    """Inside a per-device function: return this device's shard of the mean over all devices, leaf by leaf."""
    devices = parallel.axis_size()
    return jax.tree.map(lambda leaf: parallel.mean_part(_rows(leaf, devices)) if leaf.ndim else leaf, tree)


def shard(tree: Any) -> Any:
    """Inside a per-device function: return this device's shard of replicated values, leaf by leaf."""
    devices = parallel.axis_size()
    return jax.tree.map(lambda leaf: parallel.part(_rows(leaf, devices)) if leaf.ndim else leaf, tree)


def gather(shards: Any, like: Any) -> Any:
    """Inside a per-device function: join the shards of all devices; `like` has the shapes of the whole leaves."""

    def joined(leaf: Array, whole: Any) -> Array:
        if not whole.ndim:
            return leaf
        rows = parallel.gather(leaf)
        return rows[: whole.size // (rows.size // len(rows))].reshape(whole.shape)

    return jax.tree.map(joined, shards, like)


def global_norm(shards: Any) -> Float[Array, ""]:
    """Inside a per-device function: return the norm of all shards of all devices as one vector."""
    return jnp.sqrt(parallel.total(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(shards))))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Return `optax.clip_by_global_norm` for shards of gradients; its update must run inside `parallel.pmap`."""

    def update(shards: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        del params
        norm = global_norm(shards)
        return jax.tree.map(lambda leaf: jnp.where(norm < max_norm, leaf, leaf / norm * max_norm), shards), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


class OptimizerSharding:
    """Convert the state of an optimizer between all devices' shards and whole arrays.

    Whole arrays are replicated, in the layout of `optimizer.init(params)`. Shards have a leading `devices` axis.

    Args:
      optimizer: an optimizer whose state has only scalars and arrays of the parameters' shapes.
      devices: see `parallel.pmap`.
    """

    def __init__(self, optimizer: optax.GradientTransformation, devices: Sequence[jax.Device] | None = None) -> None:
        def whole(state: Any, params: Params) -> Any:
            return gather(state, jax.eval_shape(optimizer.init, params))

        self._init = parallel.pmap(lambda _, params: optimizer.init(shard(params)), in_axes=(0, None), devices=devices)
        self._shard = parallel.pmap(lambda _, state: shard(state), in_axes=(0, None), devices=devices)
        self._gather = parallel.pmap(whole, in_axes=(0, None), out_axes=None, devices=devices)
        # `pmap` needs an argument with a `devices` axis.
        self._each = np.zeros(len(devices) if devices else parallel.local_device_count(), np.int8)

    def init(self, params: Params) -> Any:
        """Return the shards of the initial state for replicated parameters."""
        return self._init(self._each, params)

    def shard(self, state: Any) -> Any:
        """Return the shards of a whole, replicated state."""
        return self._shard(self._each, state)

    def gather(self, state: Any, params: Params) -> Any:
        """Invert `shard`; every device must have memory for the whole state."""
        return self._gather(state, params)


def _rows(leaf: Array, devices: int) -> Array:
    """Return an array as rows (or elements, if it has few rows), padded with zeros to equally many per device."""
    aligned = devices * _TILE_ROWS
    by_row = leaf.size // leaf.shape[-1] >= aligned
    rows = leaf.reshape(-1, leaf.shape[-1]) if by_row else leaf.reshape(-1)
    missing = -len(rows) % (aligned if by_row else devices)
    return jnp.pad(rows, ((0, missing), *[(0, 0)] * (rows.ndim - 1))) if missing else rows
