"""Checkpoints of a run: everything that a killed run needs to resume bit for bit.

Input: the training state, the position of the data iterator, the config, and the held-out values so far. Output: Orbax
checkpoints in `<output_dir>/checkpoints/<step>`, written in the background. The latest few checkpoints and the best one
are kept. A finished checkpoint is renamed to its final name; in a bucket, a checkpoint without `commit_success.txt` is
ignored. The content does not depend on the number of processes and devices. All processes must make the same calls.
"""

import asyncio
import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxretr import parallel
from jaxretr.files import AnyPath, sync_directory, sync_tree
from jaxretr.train.early_stopping import EarlyStopping
from jaxretr.train.sharded_optimizer import OptimizerSharding
from jaxretr.train.step import TrainState


class Restored(NamedTuple):
    """A restored checkpoint: state on the devices, `get_state()` of the data iterator, and `EarlyStopping.values`."""

    state: TrainState
    data: dict[str, Any]
    values: dict[int, float]


_NO_SPACE = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def finished_steps(directory: AnyPath) -> list[int]:
    """Return the steps of the finished checkpoints in a directory, in ascending order.

    Orbax writes into a directory with a temporary name and renames it at the end. A bucket has no renames, so there
    Orbax adds `commit_success.txt` at the end.
    """
    return sorted(ocp.utils.checkpoint_steps(directory))


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """The checkpoints in one directory; use it in a `with` statement.

    Args:
      directory: created if absent; all processes must share it.
      keep: number of latest checkpoints to keep, in addition to the best.
      sharding: how the optimizer state of the run is sharded; None if it is replicated. The files always hold the whole
        state, so a run may resume with another sharding or number of devices.
    """

    def __init__(self, directory: AnyPath, *, keep: int, sharding: OptimizerSharding | None = None):
        latest = checkpoint_managers.LatestN(n=keep)
        self._best = _Best()
        self._directory = directory
        self._sharding = sharding
        self._manager = ocp.CheckpointManager(
            directory.absolute() if isinstance(directory, Path) else directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, self._best]),
                cleanup_tmp_directories=True,
                temporary_path_class=_Synced if isinstance(directory, Path) else None,
            ),
            item_names=("state", "data", "config", "evaluations"),
        )

    @property
    def latest_step(self) -> int:
        """Number of updates before the latest finished checkpoint; 0 if there is none."""
        return self._manager.latest_step() or 0

    def save(self, state: TrainState, data: dict[str, Any], config: dict[str, Any], evaluations: EarlyStopping) -> None:
        """Wait for an unfinished save, start to write a checkpoint, and return as soon as the state may change.

        A step that already has a checkpoint is skipped. Every checkpoint stores the values of `evaluations`. The
        checkpoint of `evaluations.best_step` is never deleted to make room for later checkpoints.

        Raises:
          OSError: this or the previous checkpoint cannot be written, for example because the disk is full.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if self._sharding:
            state = state._replace(opt_state=self._sharding.gather(state.opt_state, state.params))
        saved = parallel.as_global(state._asdict())
        try:
            self._manager.wait_until_finished()
            self._best.step = evaluations.best_step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(saved),
                    data=ocp.args.JsonSave(data),
                    config=ocp.args.JsonSave(config),
                    evaluations=ocp.args.JsonSave({str(step): value for step, value in evaluations.values.items()}),
                ),
            )
        except Exception as error:
            raise self._unwritable(error) from error
        if self._sharding:  # a device may not have memory for the whole optimizer state beside the next update
            for leaf in jax.tree.leaves((state.opt_state, saved["opt_state"])):
                leaf.delete()

    def wait(self) -> None:
        """Wait until all saves are on the disk.

        Raises:
          OSError: a save failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> OSError:
        finished = finished_steps(self._directory)
        kept = f"the run resumes from checkpoint {finished[-1]}" if finished else "no checkpoint is finished yet"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if any(text in str(error) for text in _NO_SPACE):
            remedy = "Free some disk space, or set output_dir to a larger disk, then run the same command again."
        else:
            remedy = "Make the directory writable, then run the same command again."
        return OSError(f"Writing a checkpoint to {self._directory} failed ({reason}); {kept}. {remedy}")

    def restore(self, like: TrainState, step: int | None = None) -> Restored:
        """Return the checkpoint after update number `step` (None: the latest), with arrays on the devices.

        The arrays are replicated, or sharded if the optimizer state of the run is sharded.

        Args:
          like: a state with the same structure, shapes and dtypes; it is deleted, and its values are not read.
          step: number of updates before the checkpoint.
        """
        whole = like
        if self._sharding:
            whole = like._replace(opt_state=jax.eval_shape(self._sharding.gather, like.opt_state, like.params))
        replicated = parallel.global_sharding()
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), whole._asdict())
        for leaf in jax.tree.leaves(like):  # a device may not have memory for two states
            leaf.delete()
        restored = self._manager.restore(
            self._manager.latest_step() if step is None else step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                data=ocp.args.JsonRestore(),
                evaluations=ocp.args.JsonRestore(),
            ),
        )
        values = {int(number): value for number, value in restored["evaluations"].items()}
        state = TrainState(**parallel.as_local(restored["state"]))
        if self._sharding:
            state = state._replace(opt_state=self._sharding.shard(state.opt_state))
        return Restored(state, restored["data"], values)

    def __exit__(self, *_: object) -> None:
        """Wait for an unfinished save, even if the run failed, and end the background threads."""
        self._manager.close()


class _Synced(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """An unfinished checkpoint; it gets its final name after its content is on the disk."""

    async def finalize(self) -> None:
        await asyncio.to_thread(sync_tree, Path(self.get()))
        await super().finalize()  # adds metadata that restoring does not need, and renames
        await asyncio.to_thread(sync_tree, Path(self.get_final()))
        await asyncio.to_thread(sync_directory, Path(self.get_final()).parent)


class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoint of one step.

    Orbax's `BestN` would need a checkpoint's held-out value at the save, but the state is evaluated after the save.
    """

    step = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]
