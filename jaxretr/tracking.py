"""Console output and recorded metrics of a run.

Input: scalars by name. Output: `metrics.jsonl`, TensorBoard event files, optionally Weights & Biases, and a live
progress line with an ETA. Only the main process writes. Files in a bucket cannot be appended to; if the output is in a
bucket, the files of a run are kept on the disk, and whole files are uploaded whenever something is recorded.
"""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from jaxretr import json_lines, parallel
from jaxretr.files import AnyPath, replaced_file, upload

_EXPECTED = {
    errno.EISDIR: "; expected a file there",
    errno.ENOTDIR: "; expected a directory there",
    errno.EEXIST: "; expected a directory there",  # as `mkdir(exist_ok=True)` fails on a file
}

console = Console(highlight=False, soft_wrap=True)
"""The console that the package prints to."""


def say(text: str) -> None:
    """Print a permanent line above any live progress line, on the main process only."""
    if parallel.is_main_process():
        console.print(text)


@contextmanager
def errors_as_lines(interrupted: str = "nothing was finished") -> Iterator[None]:
    """End a script with one line on stderr and exit status 1 if its input or the machine is at fault.

    Other exceptions are bugs and keep their traceback.

    Args:
      interrupted: what the message says after Ctrl-C, unless the exception has its own text.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        sys.exit(f"Interrupted: {str(stop) or interrupted}")
    except (ValueError, OSError, RuntimeError, ImportError, FloatingPointError, MemoryError) as error:
        sys.exit(f"error: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    """Return the message of an error; for a file system error, add what was expected at the path."""
    expected = _EXPECTED.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    return (str(error) or type(error).__name__) + expected


class Tracker(AbstractContextManager["Tracker"]):
    """Records the scalars of a run on disk.

    Args:
      output_dir: gets `metrics.jsonl` and `tensorboard/`.
      first_step: the step that the run resumes after. Records of later steps (of a run that was killed after its last
        checkpoint) are dropped, so that no step is recorded twice. 0 starts from scratch.
      wandb_project: project at Weights & Biases to log to as well, if not "" (needs the extra `wandb`).
      config: the config of the run, for Weights & Biases.
    """

    def __init__(self, output_dir: AnyPath, *, first_step: int = 0, wandb_project: str = "", config: Any = None):
        path = output_dir / "metrics.jsonl"
        self._active = parallel.is_main_process()
        self._wandb = None
        if not self._active:
            return
        rows = json_lines.read(path) if first_step and path.exists() else []
        kept = [json.dumps(row) for row in rows if row["step"] <= first_step]
        self._output_dir = output_dir
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if isinstance(output_dir, Path):
            self._directory = output_dir
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="jaxretr-")
            self._directory = Path(self._scratch.name)
        with replaced_file(self._directory / path.name) as partial:
            partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._recorded = set(kept)
        self._file = (self._directory / path.name).open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(
            str(self._directory / "tensorboard"),
            purge_step=first_step + 1 if first_step else 0,
            flush_secs=1,  # so the curves of a killed run have no gap where it resumes
            filename_suffix=f".{first_step}",  # the name also holds the time of creation, but only in seconds
        )
        if wandb_project:
            try:
                import wandb
            except ImportError as error:
                raise ImportError(
                    f"wandb_project={wandb_project!r} needs the package wandb; it is in the extra wandb: "
                    "pip install 'jaxretr[wandb]'"
                ) from error

            self._wandb = wandb.init(
                project=wandb_project, dir=str(self._directory), config=config, name=output_dir.name, resume="allow"
            )

    def log(self, step: int, scalars: Mapping[str, float], *, group: str) -> None:
        """Record `scalars` after update number `step` (1 is the first update, 0 is before training).

        `metrics.jsonl` gets them as one row under their own names, TensorBoard and Weights & Biases under "group/name".
        A row that is already recorded is skipped: a run may have been killed before it could save the result of that
        step.
        """
        row = json.dumps({"step": step, **scalars})
        if not self._active or row in self._recorded:
            return
        self._file.write(row + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())  # a checkpoint is durable, so the rows before it must be
        tagged = {f"{group}/{name}": value for name, value in scalars.items()}
        for tag, value in tagged.items():
            self._tensorboard.add_scalar(tag, value, step)
        if self._wandb is not None:
            self._wandb.log(tagged, step=step)
        self._tensorboard.flush()
        self._publish()

    def _publish(self) -> None:
        if self._scratch is not None:
            for file in (self._directory / "metrics.jsonl", *(self._directory / "tensorboard").iterdir()):
                upload(file, self._output_dir / file.relative_to(self._directory))

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._file.close()
            self._tensorboard.close()
            self._publish()
            if self._wandb is not None:
                self._wandb.finish()


def progress_bar(*columns: ProgressColumn, enabled: bool = True, transient: bool = True) -> Progress:
    """Return a live line with bar, count, elapsed time, ETA and further columns.

    It is silent on all processes except the main one, and if the output is not a terminal.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        *columns,
        console=console,
        disable=not (enabled and parallel.is_main_process() and console.is_terminal),
        refresh_per_second=2,
        transient=transient,
    )


class StepProgress(AbstractContextManager["StepProgress"]):
    """A live line with bar, step count, elapsed time, ETA, and the latest figures."""

    def __init__(self, description: str, *, total: int, completed: int = 0):
        self._progress = progress_bar(TextColumn("{task.fields[figures]}"), transient=False)
        self._task = self._progress.add_task(description, total=total, completed=completed, figures="")

    def __enter__(self) -> "StepProgress":
        self._progress.start()
        return self

    def advance(self) -> None:
        """Count one more step."""
        self._progress.advance(self._task)

    def show(self, figures: str) -> None:
        """Replace the figures at the end of the line; if the output is not a terminal, print them."""
        self._progress.update(self._task, figures=figures)
        if parallel.is_main_process() and not console.is_terminal:
            console.print(figures)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
