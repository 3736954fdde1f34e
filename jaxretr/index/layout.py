"""Directory layout of an index, and atomic replacement of its current generation.

index.json       current generation, model, sizes, settings, measured recall and latency
00001/           a generation: complete, and immutable except for its store
  passages.sqlite          passages and metadata, and all later upserts and deletions (`store`)
  vectors-00000.npy, …     vectors of each segment (`vectors`)
  scann-00000/, …          ScaNN searcher of each segment that is large enough (`approximate`)
  lexical-1-00000/, …      terms of each segment, if the index has a lexical part (`postings`)
  languages.npy, keys.npy  language number and key of each row
  sums.npy                 sum of the vectors in each language
  queries.npy              query vectors for measuring recall
lock             held by the single process that updates or builds the index
.build/          unfinished build
.temporary-*/    unfinished compaction

A new generation is written to a separate directory. `place` syncs it and renames it to its number, which readers do
not notice. A compaction then opens it. `switch` replaces index.json, and only then is the old generation removed. So
after a power cut at any moment, index.json names a generation that is complete on disk.
"""

import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from jaxretr.files import make_directory, sync_directory, sync_tree, write_json
from jaxretr.index.types import DamagedIndexError

INDEX = "index.json"
BUILD = ".build"
_TEMPORARY = ".temporary-"
STORE = "passages.sqlite"

_FORMAT = "jaxretr-index"
_VERSION = 1


def read_about(directory: Path) -> dict[str, Any]:
    """Return the content of index.json.

    Raises:
      FileNotFoundError: the directory holds no index, or its build is unfinished.
      ValueError: index.json is damaged (`DamagedIndexError`), or has another format or version.
      OSError: index.json cannot be read.
    """
    path = directory / INDEX
    if not path.is_file():
        if (directory / BUILD).exists():
            raise FileNotFoundError(f"the build of {directory} is unfinished; run the same build command to resume it")
        raise FileNotFoundError(f"{directory} holds no index (no {INDEX}); build one with scripts/build_index.py")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        form, version = about["format"], about["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedIndexError(f"{path} is damaged ({error!r}); restore the index, or rebuild it") from error
    if (form, version) != (_FORMAT, _VERSION):
        raise ValueError(
            f"{path} has format {form}, version {version}; expected {_FORMAT}, version {_VERSION}; rebuild the index"
        )
    return about


def check_files(generation: Path, about: dict[str, Any]) -> None:
    """Raise DamagedIndexError if a file of a generation is missing or its size differs from when it was written."""
    for name, size in about["files"].items():
        path = generation / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            raise DamagedIndexError(
                f"{path} {'is missing' if actual is None else f'has {actual} bytes, expected {size}'}; restore the "
                "index, or rebuild it"
            )


def sizes(generation: Path) -> dict[str, int]:
    """Return the sizes of the files of a generation, except its store.

    Updates change the size of the store; SQLite itself detects damage to it.
    """
    return {
        str(path.relative_to(generation)): path.stat().st_size
        for path in sorted(generation.rglob("*"))
        if path.is_file() and not path.name.startswith(STORE)
    }


@contextmanager
def workspace(directory: Path) -> Iterator[Path]:
    """Yield a new temporary directory inside an index and remove it afterwards.

    If the process is killed, `tidy` removes the directory later.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix=_TEMPORARY, ignore_cleanup_errors=True) as work:
        yield Path(work)


def place(directory: Path, generation: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Sync a finished generation and move it into the index under a new number. `switch` then makes it current.

    Args:
      directory: directory of the index.
      generation: directory on the same file system; no file in it may be open for writing.
      about: future content of index.json.

    Returns:
      `about`, with the name of the generation and the sizes of its files.
    """
    for path in generation.glob(".*"):  # left by a killed build
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    numbers = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    name = f"{max(numbers, default=0) + 1:05}"
    files = sizes(generation)
    sync_tree(generation)
    generation.rename(directory / name)
    sync_directory(directory)
    return {**about, "format": _FORMAT, "version": _VERSION, "generation": name, "files": files}


def switch(directory: Path, about: dict[str, Any]) -> None:
    """Make the generation that `about` names the current one.

    If this raises, index.json may name the former or the new generation, and a power cut may change which.
    """
    write_json(directory / INDEX, about)


def tidy(directory: Path) -> None:
    """Remove what killed builds and compactions left behind. The caller must hold the lock.

    If index.json does not exist, no generation is current, and all generations stay. `.build` always stays, since a
    build resumes from it.
    """
    current = read_about(directory)["generation"] if (directory / INDEX).exists() else None
    for path in directory.iterdir():
        former = current is not None and path.name != current and re.fullmatch(r"\d{5,}", path.name)
        if former or path.name.startswith(_TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(".") and path.name.endswith(f"-{INDEX}"):  # left by a killed `replaced_file`
            path.unlink(missing_ok=True)


def lock(directory: Path) -> IO[str]:
    """Lock an index for updates by this process until the returned file is closed.

    Raises:
      RuntimeError: another process holds the lock.
      OSError: the directory cannot be written, or the path is a file.
    """
    try:
        make_directory(directory)
        file = (directory / "lock").open("w")
    except (FileExistsError, NotADirectoryError):  # the message already says that a file is in the way
        raise
    except OSError as error:
        raise OSError(
            f"{directory} cannot be written ({error.strerror}); open the index read-only, or check the permissions and "
            "whether the volume is read-only"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RuntimeError(
            f"another process updates {directory}; stop it first, or open the index read-only"
        ) from error
    except BaseException:
        file.close()
        raise
    return file
