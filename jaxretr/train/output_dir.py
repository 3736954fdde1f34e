"""The output directory of a run: create it, or check that the run in it can be resumed.

Input: a config, and the fingerprints of everything that the run depends on. Output: its `output_dir`, with the config
in `config.json` and the fingerprints in `content.json`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxretr import parallel
from jaxretr.config import Config
from jaxretr.files import AnyPath, as_path, write_json
from jaxretr.fingerprint import differences
from jaxretr.tracking import say
from jaxretr.train.checkpoint import finished_steps

MAY_CHANGE = {"resume", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "wandb_project"}
MAY_CHANGE |= {"shard_optimizer"}
"""Fields of a config that a resumed run may change."""


def output_directory(config: Config) -> AnyPath:
    """Return the `output_dir` of a config as a path, absolute on a disk.

    Raises:
      ValueError: `output_dir` is empty.
    """
    if not config.output_dir:
        raise ValueError("output_dir is empty; set it, for example to runs/hybrid.")
    output_dir = as_path(config.output_dir)
    return output_dir.absolute() if isinstance(output_dir, Path) else output_dir


def claim_output_dir(config: Config) -> AnyPath:
    """Create `output_dir`, or check that it holds this run. A run without a finished checkpoint is overwritten.

    A setting that the run's config lacks counts as its default, because the setting did not exist then.

    Raises:
      ValueError: `output_dir` is empty, or holds a run with another config (the message names the fields), or holds a
        run although `resume` is False.
      FileNotFoundError: the processes of a job do not share it.
    """
    output_dir = output_directory(config)
    with parallel.main_process_first():
        _claim(output_dir, config)
        parallel.check_shared(output_dir / "config.json")
    return output_dir


def check_content(output_dir: AnyPath, content: dict[str, str]) -> None:
    """Check that the data and the model of a run are the same as when the run began.

    `content.json` in `output_dir` holds their fingerprints. A run without a finished checkpoint starts on the new
    content: the evaluation before training is deleted.

    Args:
      output_dir: as `claim_output_dir` returned it.
      content: fingerprints of everything that the run depends on.

    Raises:
      ValueError: `output_dir` holds a run on other content; the message says what changed.
    """
    path = output_dir / "content.json"
    with parallel.main_process_first():
        recorded = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        changed = differences(recorded, content)
        if changed and _begun(output_dir):
            if recorded:
                raise ValueError(
                    f"{output_dir} holds a run on different content under the same names ({changed}); restore the "
                    "original content to resume, or set another output_dir."
                )
            say(f"{output_dir} does not record its data and model; they are assumed to be unchanged")
        elif changed:
            (output_dir / "results_before.json").unlink(missing_ok=True)
        if changed and parallel.is_main_process():
            write_json(path, content)


def _begun(output_dir: AnyPath) -> bool:
    """Return whether `output_dir` holds a checkpoint to resume from, or the results of a finished run."""
    return (output_dir / "results.json").exists() or bool(finished_steps(output_dir / "checkpoints"))


def _claim(output_dir: AnyPath, config: Config) -> None:
    path, before = output_dir / "config.json", output_dir / "results_before.json"
    wanted = config.to_dict()
    if path.exists():
        recorded = _with_defaults(json.loads(path.read_text(encoding="utf-8")), Config().to_dict())
        changed = sorted(_differences(recorded, wanted))
        begun = _begun(output_dir)
        if begun and not config.resume:
            raise ValueError(
                f"{output_dir} holds a run, and resume is False; delete the run or set another output_dir."
            )
        if begun and changed:
            raise ValueError(
                f"{output_dir} holds a run with other settings ({'; '.join(changed)}); give the original settings "
                "to resume the run, or set another output_dir."
            )
        if changed:
            before.unlink(missing_ok=True)
    if parallel.is_main_process():
        write_json(path, wanted)


def _with_defaults(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return `config` with defaults for the settings that it lacks."""
    inner = {
        name: _with_defaults(config[name], value)
        for name, value in defaults.items()
        if isinstance(config.get(name), dict)
    }
    return defaults | config | inner


def _differences(recorded: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted({*recorded, *wanted} - MAY_CHANGE):
        old, new = recorded.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name} was {old!r}, is {new!r}"
