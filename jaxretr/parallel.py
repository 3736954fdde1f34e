"""Devices and processes. This is the only module that uses `pmap`.

Input: functions written for one device, and batches with one leading axis. Output: these functions over all devices of
all processes, and batches split over the devices. A per-device function communicates with the other devices through
`gather`, `mean` and the like; it never sees a mesh.

All arrays of a process are on its own devices, including the inputs and outputs of a `pmap` over the devices of all
processes. Only checkpoints see the parts of all processes as one array (`as_global`, `as_local`).
"""

import atexit
import contextlib
import functools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Concatenate

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxretr.files import AnyPath
from jaxretr.locks import DirectoryInUse, lock_directory, unlock_directory

AXIS = "devices"

_HEARTBEAT_TIMEOUT = 60  # seconds without a heartbeat after which a process counts as dead
_SHUTDOWN_TIMEOUT = 30  # seconds that an ending process waits for the others to end too
_ROWS_PER_GATHER = 16_384  # embeddings that a process sends to the others at a time
PROCESS_DIED = (
    "error: a process of this job has ended unexpectedly; the messages above, here or on another host, say why. Start "
    "the same command again on all hosts: it resumes from the saved state."
)


def initialize() -> None:
    """Initialize JAX; call this once, before any array is created.

    Join the other processes of a multi-host job. JAX finds them by itself on a TPU slice or under SLURM; elsewhere, set
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. If a process dies, the others end within a minute or
    two and print what to do. Also enable XLA's persistent compilation cache (`~/.cache/jaxretr/xla`, or
    JAX_COMPILATION_CACHE_DIR), so that a second run does not compile again.
    """
    many_hosts = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    if "JAX_COORDINATOR_ADDRESS" in os.environ or many_hosts:
        jax.config.update("jax_enable_preemption_service", False)  # it would intercept SIGTERM
        jax.distributed.initialize(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]) if "JAX_NUM_PROCESSES" in os.environ else None,
            process_id=int(os.environ["JAX_PROCESS_ID"]) if "JAX_PROCESS_ID" in os.environ else None,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
        _explain_sudden_ends()
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "jaxretr" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _explain_sudden_ends() -> None:
    """Print what to do if this process ends without leaving the job.

    When another process has died, JAX ends this one from C++, where no Python code runs any more. So a shell waits for
    a line on a pipe that closes with this process, and prints the message if no line arrives.
    """
    command = ["sh", "-c", 'read -r _ || echo "$0" >&2', PROCESS_DIED]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def leave() -> None:
        jax.distributed.shutdown()  # waits for the others, and ends this process if they do not come
        watcher.communicate(b"left\n")

    atexit.register(leave)


def device_count() -> int:
    """Return the number of devices of all processes."""
    return jax.device_count()


def local_device_count() -> int:
    """Return the number of devices of this process."""
    return jax.local_device_count()


def is_main_process() -> bool:
    """Return whether this process prints, logs and writes results."""
    return jax.process_index() == 0


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block on the main process first, then on the other processes, which see the main process's files.

    Processes without a shared disk each make their own files.
    """
    if not is_main_process():
        wait_for_all()
    try:
        yield
    finally:  # also after an error, so that the other processes do not wait forever
        if is_main_process():
            wait_for_all()


@contextlib.contextmanager
def locked(directory: AnyPath, remedy: str) -> Iterator[None]:
    """Hold the lock of `directory` during the block, as the only job that works there.

    If the job has several processes, all must make this call. The main process holds the lock. If another job holds
    it, all processes raise.

    Args:
      directory: created if absent. In a bucket, nothing is locked.
      remedy: see `lock_directory`.

    Raises:
      DirectoryInUse: another job holds the lock.
    """
    was_absent = isinstance(directory, Path) and not directory.exists()
    held: IO[str] | None = None
    failure: Exception | None = None
    if isinstance(directory, Path) and is_main_process():
        try:
            held = lock_directory(directory, remedy)
        except (OSError, DirectoryInUse) as error:
            failure = error
    try:
        if broadcast_from_main(failure is not None):
            raise failure or DirectoryInUse(f"the main process could not lock {directory}; its error message says why")
        yield
    finally:
        if held:
            unlock_directory(held)
            if was_absent:  # leave no trace if nothing was written
                with contextlib.suppress(OSError):
                    directory.rmdir()


def in_locked_directory[**P, R](
    function: Callable[Concatenate[AnyPath, P], R],
) -> Callable[Concatenate[AnyPath, P], R]:
    """Decorate a function whose first argument is its output directory: hold the directory's lock during the call."""

    @functools.wraps(function)
    def with_lock(output_dir: AnyPath, *args: P.args, **kwargs: P.kwargs) -> R:
        with locked(output_dir, "wait until it has ended, or give another output directory"):
            return function(output_dir, *args, **kwargs)

    return with_lock


def wait_for_all() -> None:
    """Return when all processes have called this function."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxretr")


def check_shared(path: AnyPath) -> None:
    """Check that this process sees a file that the main process has written.

    Raises:
      FileNotFoundError: the file is absent.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"process {jax.process_index()} does not see {path}, which the main process has written; give a directory "
            "on storage that all processes share"
        )


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process; all processes must make this call."""
    return bool(np.any(multihost_utils.process_allgather(np.int32(flag))))


def broadcast_from_main(flag: bool) -> bool:
    """Return the main process's flag; all processes must make this call.

    It makes all processes take the same branch, even if files change between their checks of the disk.
    """
    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def encode_sharded(encode: Callable[[Sequence[str]], np.ndarray]) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a version of `encode` (texts -> rows) that divides the work among all processes.

    Each process encodes consecutive texts, and every process returns all rows. All processes must call the returned
    function with the same texts.
    """

    def shared(texts: Sequence[str]) -> np.ndarray:
        processes = jax.process_count()
        if processes == 1:
            return encode(texts)
        size = -(-len(texts) // processes)
        part = encode(texts[jax.process_index() * size :][:size])
        part = np.pad(part, ((0, size - len(part)), (0, 0)))
        rows = np.empty((processes, *part.shape), part.dtype)
        for start in range(0, size, _ROWS_PER_GATHER):  # the rows pass through the memory of every device
            rows_to_send = part[start : start + _ROWS_PER_GATHER]
            rows[:, start : start + _ROWS_PER_GATHER] = multihost_utils.process_allgather(rows_to_send)
        return rows.reshape(-1, part.shape[1])[: len(texts)]

    return shared


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
      fn: a function of one device's part of the arguments; may call `gather`, `mean` and `device_index`.
      in_axes, out_axes: per argument, 0 if it has the leading `devices` axis that `split` adds, or None if every device
        gets (or returns) the same value; a None output must really be the same on every device.
      donate_argnums: arguments whose buffers are donated to the outputs; they must not be read again.
      devices: the devices, in order. None uses the devices of all processes; all processes must then make the same
        calls in the same order. To compile only, devices may be descriptions (`jaxretr.tpu_estimate`).
    """
    return jax.pmap(
        fn, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate_argnums, devices=devices
    )


def gather(x: jax.Array) -> jax.Array:
    """Inside a per-device function: gather [n, ...] of each device to [devices * n, ...], in device order."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def mean(tree: Any) -> Any:
    """Inside a per-device function: return the mean over all devices, leaf by leaf."""
    return jax.lax.pmean(tree, AXIS)


def total(x: Any) -> jax.Array:
    """Inside a per-device function: return the sum over all devices."""
    return jax.lax.psum(x, AXIS)


def part(x: jax.Array) -> jax.Array:
    """Inside a per-device function: return this device's part of [devices * n, ...]; `gather` inverts it."""
    n = x.shape[0] // axis_size()
    return jax.lax.dynamic_slice_in_dim(x, device_index() * n, n)


def mean_part(x: jax.Array) -> jax.Array:
    """Inside a per-device function: return this device's `part` of the mean over all devices (reduce-scatter)."""
    return jax.lax.psum_scatter(x, AXIS, tiled=True) / axis_size()


def axis_size() -> int:
    """Inside a per-device function: return the number of devices that run the function."""
    return jax.lax.axis_size(AXIS)


def device_index() -> jax.Array:
    """Inside a per-device function: return this device's index in the order of `gather`, an int32 scalar."""
    return jax.lax.axis_index(AXIS)


def per_device_batch_size(batch_size: int, devices: int) -> int:
    """Return the number of rows of a global batch that each device takes.

    Raises:
      ValueError: the batch cannot be divided evenly over the devices.
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
    """Return the rows of a global batch that belong to this process, in the order of its devices.

    Raises:
      ValueError: see `per_device_batch_size`.
    """
    rows = per_device_batch_size(batch_size, device_count()) * local_device_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def split(tree: Any) -> Any:
    """Reshape [local_devices * n, ...] to [local_devices, n, ...], leaf by leaf, without a copy."""
    n = local_device_count()
    return jax.tree.map(lambda x: x.reshape(n, x.shape[0] // n, *x.shape[1:]), tree)


def merge(x: jax.Array) -> np.ndarray:
    """Invert `split` for a result with a `devices` axis: return this process's part, on the host."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data).reshape(-1, *x.shape[2:]) for shard in shards])


def replicate(tree: Any) -> Any:
    """Return values as arrays on every device of this process, in the layout of `pmap`'s None outputs."""
    return jax.device_put(tree, replicated_sharding())


def replicated_sharding() -> jax.sharding.Sharding:
    """Return the layout of `replicate`."""
    return _replicated_over(jax.local_devices())


def as_global(tree: Any) -> Any:
    """Return each process's replicated arrays as arrays replicated over all processes' devices, without a copy."""
    return _relabeled(tree, global_sharding())


def as_local(tree: Any) -> Any:
    """Invert `as_global`."""
    return _relabeled(tree, replicated_sharding())


def global_sharding() -> jax.sharding.Sharding:
    """Return the layout of `as_global`."""
    return _replicated_over(jax.devices())


def _replicated_over(devices: Sequence[jax.Device]) -> jax.sharding.Sharding:
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(devices), (AXIS,)), jax.sharding.PartitionSpec())


def _relabeled(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    def relabeled(x: jax.Array) -> jax.Array:
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

    return jax.tree.map(relabeled, tree)
