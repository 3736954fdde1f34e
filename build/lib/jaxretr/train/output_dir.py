"""The directory of a run, and whether the run in it is the one that is wanted.

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
    """Create `output_dir`, or check that the run in it is this one. A run without a finished checkpoint is overwritten.

    A setting that is absent from the run's config counts as its default: the setting did not exist yet.

    Raises:
      ValueError: `output_dir` is empty, or holds a run of another config (naming the fields), or any run while
        `resume` is False.
      FileNotFoundError: several processes do not share it.
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
        former = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        changed = differences(former, content)
        if changed and _begun(output_dir):
            if former:
                raise ValueError(
                    f"{output_dir} holds a run on other content under the same names ({changed}); put the former "
                    "content back to resume, or set another output_dir."
                )
            say(f"{output_dir} does not say on which data and model it began; they are taken as unchanged")
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
        found = _completed(json.loads(path.read_text(encoding="utf-8")), Config().to_dict())
        changed = sorted(_differences(found, wanted))
        begun = _begun(output_dir)
        if begun and not config.resume:
            raise ValueError(f"{output_dir} holds a run and resume is False; delete it or set another output_dir.")
        if begun and changed:
            raise ValueError(
                f"{output_dir} holds a run with other settings ({'; '.join(changed)}); give the settings it was "
                "started with to resume it, or set another output_dir."
            )
        if changed:
            before.unlink(missing_ok=True)
    if parallel.is_main_process():
        write_json(path, wanted)


def _completed(found: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`found` with the defaults of what it lacks."""
    inner = {
        name: _completed(found[name], value) for name, value in defaults.items() if isinstance(found.get(name), dict)
    }
    return defaults | found | inner


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted({*found, *wanted} - MAY_CHANGE):
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name} was {old!r}, is {new!r}"
