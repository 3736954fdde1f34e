"""An index as a directory: what is where, and how one generation takes the place of another at one stroke.

index.json       what it is: which generation holds, the model, sizes, settings, measured recall and latency
00001/           a generation: complete, and never changed but for its store
  passages.sqlite          passages and metadata, and all that was upserted or deleted since (`store`)
  vectors-00000.npy, …     the vectors of each segment (`vectors`)
  scann-00000/, …          a searcher for each segment that is large enough (`approximate`)
  languages.npy, keys.npy  of each row; sums.npy, of the vectors in each language
  queries.npy              those that recall is measured with
lock             held by the one process that updates or builds it
.build/          what is being built
"""

import fcntl
import json
from pathlib import Path
from typing import IO, Any

from jaxretr.files import write_json

INDEX = "index.json"
BUILD = ".build"
STORE = "passages.sqlite"

_FORMAT = "jaxretr-index"
_VERSION = 1


def read_about(directory: Path) -> dict[str, Any]:
    """What the index in a directory says about itself.

    Raises:
      FileNotFoundError: there is none, or its build was not finished.
      ValueError: it is damaged, or of another version.
    """
    path = directory / INDEX
    if not path.is_file():
        why = "its build was not finished, the same command goes on" if (directory / BUILD).exists() else f"no {INDEX}"
        raise FileNotFoundError(f"{directory} holds no index ({why}); make one with scripts/build_index.py")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        form, version = about["format"], about["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); restore the index, or build it anew") from error
    if (form, version) != (_FORMAT, _VERSION):
        raise ValueError(
            f"{path} is a {form} of version {version}, expected {_FORMAT} {_VERSION}; build the index anew"
        )
    return about


def check_files(generation: Path, about: dict[str, Any]) -> None:
    """Raises ValueError where a file of a generation is missing or has another size than when it was written."""
    for name, size in about["files"].items():
        path = generation / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise ValueError(
                f"{path} {'is missing' if found is None else f'has {found} bytes, expected {size}'}; restore the "
                "index, or build it anew"
            )


def commit(directory: Path, generation: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Makes a finished generation the one that holds, in place of the former; returns what index.json says now."""
    numbers = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    name = f"{max(numbers, default=0) + 1:05}"
    # The store grows and shrinks; it knows itself when it is damaged.
    files = {
        str(path.relative_to(generation)): path.stat().st_size
        for path in sorted(generation.rglob("*"))
        if path.is_file() and not path.name.startswith(STORE)
    }
    about = {"format": _FORMAT, "version": _VERSION, "generation": name} | about | {"files": files}
    about["generation"] = name
    generation.rename(directory / name)
    write_json(directory / INDEX, about)
    return about


def lock(directory: Path) -> IO[str]:
    """Makes this process the only one that updates an index, until the file returned is closed.

    Raises:
      RuntimeError: another one is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RuntimeError(
            f"another process updates {directory}; stop it first, or open the index to read it"
        ) from error
    return file
