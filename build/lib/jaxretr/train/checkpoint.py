"""Checkpoints of a run: everything that a killed run needs to resume bit for bit.

In: the training state, the position of the data iterator, the config, the held-out values so far. Out: Orbax
checkpoints in `<output_dir>/checkpoints/<step>`, written in the background, of which the last few and the best are
kept. They are renamed when whole; in a bucket, what has no `commit_success.txt` yet is not looked at. Nothing in them
depends on the number of processes; all processes must make the same calls.
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
from jaxretr.train.step import TrainState


class Restored(NamedTuple):
    """A checkpoint as read: the state on the devices, `get_state()` of the data iterator, `EarlyStopping.values`."""

    state: TrainState
    data: dict[str, Any]
    values: dict[int, float]


_NO_SPACE = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def finished_steps(directory: AnyPath) -> list[int]:
    """Return the steps of the finished checkpoints in a directory, in ascending order.

    Orbax writes into a directory with a temporary name and renames it at the end; in a bucket, where nothing can be
    renamed, it adds `commit_success.txt` at the end.
    """
    return sorted(ocp.utils.checkpoint_steps(directory))


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """The checkpoints in one directory; to be used in a `with` statement.

    Args:
      directory: made if absent; all processes must see the same.
      keep: how many of the latest stay; the best stays as well.
    """

    def __init__(self, directory: AnyPath, *, keep: int):
        latest = checkpoint_managers.LatestN(n=keep)
        self._best = _Best()
        self._directory = directory
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
        """Number of updates made in the newest whole checkpoint, 0 without one."""
        return self._manager.latest_step() or 0

    def save(self, state: TrainState, data: dict[str, Any], config: dict[str, Any], evaluations: EarlyStopping) -> None:
        """Starts writing; returns as soon as the state may be changed again. Waits for a save still under way.

        The checkpoint of `evaluations.best_step` stays, and the values go into this one.

        Raises:
          OSError: this or the previous checkpoint cannot be written, such as on a full disk.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        try:
            self._manager.wait_until_finished()
            self._best.step = evaluations.best_step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(parallel.as_global(state._asdict())),
                    data=ocp.args.JsonSave(data),
                    config=ocp.args.JsonSave(config),
                    evaluations=ocp.args.JsonSave({str(step): value for step, value in evaluations.values.items()}),
                ),
            )
        except Exception as error:
            raise self._unwritable(error) from error

    def wait(self) -> None:
        """Returns when all saves are on disk.

        Raises:
          OSError: where one of them failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> OSError:
        whole = finished_steps(self._directory)
        kept = f"checkpoint {whole[-1]} is whole and the run resumes from it" if whole else "there is no whole one yet"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if any(text in str(error) for text in _NO_SPACE):
            remedy = "Free some disk space, or set output_dir to a larger disk, then run the same command again."
        else:
            remedy = "Make the directory writable for this run again, then run the same command again."
        return OSError(f"Writing a checkpoint to {self._directory} failed ({reason}); {kept}. {remedy}")

    def restore(self, like: TrainState, step: int | None = None) -> Restored:
        """The checkpoint after update number `step`, the newest if None, its arrays replicated over the devices.

        Args:
          like: a state of the same structure, shapes and dtypes; is donated (its values are not read).
        """
        sharding = parallel.global_sharding()
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like._asdict())
        for leaf in jax.tree.leaves(like):  # two states need not fit onto a device
            leaf.delete()
        read = self._manager.restore(
            self._manager.latest_step() if step is None else step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                data=ocp.args.JsonRestore(),
                evaluations=ocp.args.JsonRestore(),
            ),
        )
        values = {int(number): value for number, value in read["evaluations"].items()}
        return Restored(TrainState(**parallel.as_local(read["state"])), read["data"], values)

    def __exit__(self, *_: object) -> None:
        """Waits for a save under way, also when the run failed, and ends the background threads."""
        self._manager.close()


class _Synced(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A checkpoint being written, which gets its final name after its content is on the disk."""

    async def finalize(self) -> None:
        await asyncio.to_thread(sync_tree, Path(self.get()))
        await super().finalize()  # adds small files of metadata, which are not needed to restore, and renames
        await asyncio.to_thread(sync_tree, Path(self.get_final()))
        await asyncio.to_thread(sync_directory, Path(self.get_final()).parent)


class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoint of one step. Orbax's own policy for the best would need its value when it is written."""

    step = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]
