"""Files that are either whole or not there: a path and what to write come in, a file goes out."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A name to write to beside `path`, whose directory is made; what is there becomes `path` if nothing is raised.

    A crash leaves what `path` was before, and at most a hidden file of the same name and ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as JSON.

    Raises:
      ValueError: for a number that is not finite, which JSON does not have.
    """
    with replaced_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
