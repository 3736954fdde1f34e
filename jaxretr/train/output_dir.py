"""The directory of a run, and whether the run in it is the one that is wanted.

In: a config, and the fingerprints of what the run depends on. Out: its `output_dir`, with the config in `config.json`;
`results_before.json` holds the fingerprints.
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

MAY_CHANGE = {"resume", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "wandb_project"}
"""Fields of a config that a resumed run may change."""


def claim_output_dir(config: Config) -> AnyPath:
    """Makes `output_dir`, or checks that the run in it is this one. A run that has no checkpoint yet gives way.

    A setting that the run's config does not know yet had no effect then, which is what its default means.

    Raises:
      ValueError: where it holds a run of another config (naming the fields), or any run while `resume` is False.
      FileNotFoundError: where several processes do not share it.
    """
    if not config.output_dir:
        raise ValueError("output_dir is empty; set it, for example to runs/hybrid.")
    output_dir = as_path(config.output_dir)
    if isinstance(output_dir, Path):
        output_dir = output_dir.absolute()
    with parallel.main_process_first():
        _claim(output_dir, config)
        parallel.check_shared(output_dir / "config.json")
    return output_dir


def check_content(output_dir: AnyPath, content: dict[str, str]) -> None:
    """Check that the data and the model of a run are the same as when the run began.

    A run that has no checkpoint yet starts with the new content: the evaluation before training is deleted.

    Args:
      output_dir: as `claim_output_dir` returned it.
      content: fingerprints, such as `results_before.json` holds them.

    Raises:
      ValueError: `output_dir` holds a run on other content; says what changed.
    """
    path = output_dir / "results_before.json"
    with parallel.main_process_first():
        former = json.loads(path.read_text(encoding="utf-8")).get("content", {}) if path.exists() else {}
        changed = differences(former, content)
        if not _begun(output_dir):
            if changed:
                path.unlink(missing_ok=True)
        elif not former:
            say(f"{output_dir} does not say what data and model it began with; they are taken as unchanged")
        elif changed:
            raise ValueError(
                f"{output_dir} holds a run on other content under the same names ({changed}); put the former content "
                "back to resume, or set another output_dir."
            )


def _begun(output_dir: AnyPath) -> bool:
    """Whether there is something to resume from or, of a finished run whose checkpoints were deleted, to reuse."""
    return (output_dir / "results.json").exists() or any((output_dir / "checkpoints").glob("[0-9]*"))


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
                "started with to go on, or set another output_dir."
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
