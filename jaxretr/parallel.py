"""Devices and processes: the only file that says `pmap`.

In: functions written for one device, and batches with one leading axis. Out: the same functions over all devices
(of all processes), and batches split over them. A per-device function talks to its peers through `gather`, `mean`
and `device_index`; it never sees a mesh.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

AXIS = "devices"


def initialize() -> None:
    """Call once, before any array is made.

    Joins the other processes of a multi-host job: JAX finds them by itself on a TPU slice or under SLURM; elsewhere
    set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Also switches on XLA's persistent compilation
    cache (`~/.cache/jaxretr/xla`, or JAX_COMPILATION_CACHE_DIR), so that a second run does not compile again.
    """
    many_hosts = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    if "JAX_COORDINATOR_ADDRESS" in os.environ or many_hosts:
        jax.distributed.initialize(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]) if "JAX_NUM_PROCESSES" in os.environ else None,
            process_id=int(os.environ["JAX_PROCESS_ID"]) if "JAX_PROCESS_ID" in os.environ else None,
        )
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "jaxretr" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def device_count() -> int:
    """Devices of all processes."""
    return jax.device_count()


def local_device_count() -> int:
    """Devices of this process."""
    return jax.local_device_count()


def is_main_process() -> bool:
    """Whether this process prints, logs and writes results."""
    return jax.process_index() == 0


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """What the block makes on disk, the main process makes, and the others then find; each makes its own elsewhere."""
    several = jax.process_count() > 1
    if several and not is_main_process():
        multihost_utils.sync_global_devices("made by the main process")
    try:
        yield
    finally:  # an error of the main process does not leave the others waiting
        if several and is_main_process():
            multihost_utils.sync_global_devices("made by the main process")


def pmap(
    fn: Callable,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    donate_argnums: tuple[int, ...] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Any:
    """Run a per-device `fn` on every device.

    Args:
      fn: a function of one device's share; may call `gather`, `mean` and `device_index`.
      in_axes, out_axes: per argument, 0 where it carries the leading `devices` axis that `split` adds, None where
        every device gets (or returns) the same value; a None output must really be the same on every device.
      donate_argnums: arguments whose memory the outputs may reuse; they must not be read again.
      devices: which, in order; None for all. They may be described only, to compile for (`jaxretr.compile`).
    """
    return jax.pmap(
        fn, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate_argnums, devices=devices
    )


def gather(x: jax.Array) -> jax.Array:
    """Inside a per-device function: [n, ...] of this device -> [devices * n, ...] of all, in device order."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def mean(tree: Any) -> Any:
    """Inside a per-device function: the mean over all devices, leaf by leaf."""
    return jax.lax.pmean(tree, AXIS)


def device_index() -> jax.Array:
    """Inside a per-device function: this device's place in the order of `gather`, an int32 scalar."""
    return jax.lax.axis_index(AXIS)


def share(batch_size: int, devices: int) -> int:
    """Rows of a global batch that each device takes.

    Raises:
      ValueError: where the batch cannot be divided evenly over the devices.
    """
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"batch_size={batch_size} cannot be divided evenly over {devices} devices; set train.batch_size to a "
            f"multiple of {devices}, such as {nearest}."
        )
    return batch_size // devices


def process_rows(batch_size: int) -> slice:
    """The rows of a global batch of `batch_size` that belong to this process, in the order of its devices.

    Raises:
      ValueError: see `share`.
    """
    rows = share(batch_size, device_count()) * local_device_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def split(tree: Any) -> Any:
    """[local_devices * n, ...] -> [local_devices, n, ...], leaf by leaf, without a copy."""
    n = local_device_count()
    return jax.tree.map(lambda x: x.reshape(n, x.shape[0] // n, *x.shape[1:]), tree)


def merge(x: jax.Array) -> np.ndarray:
    """The inverse of `split` for a result with a `devices` axis: this process's part, on the host."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data).reshape(-1, *x.shape[2:]) for shard in shards])


def replicate(tree: Any) -> Any:
    """Host values -> arrays on every device of every process, laid out as `pmap` returns its None outputs."""
    return jax.device_put(tree, replicated_sharding())


def replicated_sharding() -> jax.sharding.Sharding:
    """The layout of `replicate`."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
