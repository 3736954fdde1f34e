"""An index as a directory: what is where, and how a new generation replaces the current one atomically.

index.json       what it is: which generation holds, the model, sizes, settings, measured recall and latency
00001/           a generation: complete, and never changed but for its store
  passages.sqlite          passages and metadata, and all that was upserted or deleted since (`store`)
  vectors-00000.npy, …     the vectors of each segment (`vectors`)
  scann-00000/, …          a searcher for each segment that is large enough (`approximate`)
  languages.npy, keys.npy  of each row; sums.npy, of the vectors in each language
  queries.npy              those that recall is measured with
lock             held by the one process that updates or builds it
.build/          what is being built
.temporary-*/    what is being compacted

A new generation is written elsewhere. `place` syncs it and gives it its name, which changes nothing for readers; the
caller opens it; `switch` replaces index.json. Only then is the old generation removed. So after a power cut at any
moment index.json names a generation that is on the disk as a whole.
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
    """What the index in a directory says about itself.

    Raises:
      FileNotFoundError: there is none, or its build was not finished.
      ValueError: it is damaged (`DamagedIndexError`), or of another version.
      OSError: it cannot be read.
    """
    path = directory / INDEX
    if not path.is_file():
        why = "its build was not finished, the same command goes on" if (directory / BUILD).exists() else f"no {INDEX}"
        raise FileNotFoundError(f"{directory} holds no index ({why}); make one with scripts/build_index.py")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        form, version = about["format"], about["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedIndexError(f"{path} is damaged ({error!r}); restore the index, or build it anew") from error
    if (form, version) != (_FORMAT, _VERSION):
        raise ValueError(
            f"{path} is a {form} of version {version}, expected {_FORMAT} {_VERSION}; build the index anew"
        )
    return about


def check_files(generation: Path, about: dict[str, Any]) -> None:
    """Raise DamagedIndexError if a file of a generation is missing or has another size than when it was written."""
    for name, size in about["files"].items():
        path = generation / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise DamagedIndexError(
                f"{path} {'is missing' if found is None else f'has {found} bytes, expected {size}'}; restore the "
                "index, or build it anew"
            )


@contextmanager
def workspace(directory: Path) -> Iterator[Path]:
    """Yield a new directory inside an index, and remove it afterwards; `tidy` does so if the process is killed."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=_TEMPORARY, ignore_cleanup_errors=True) as work:
        yield Path(work)


def place(directory: Path, generation: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Give a finished generation its name in an index, all of it on the disk. It does not count before `switch`.

    Args:
      directory: of the index.
      generation: a directory on the same file system; nothing in it may be open to be written.
      about: what index.json is to say.

    Returns:
      `about`, with the name of the generation and the sizes of its files.
    """
    for path in generation.glob(".*"):  # of a build that was killed
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    numbers = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    name = f"{max(numbers, default=0) + 1:05}"
    # The store grows and shrinks; it knows itself when it is damaged.
    files = {
        str(path.relative_to(generation)): path.stat().st_size
        for path in sorted(generation.rglob("*"))
        if path.is_file() and not path.name.startswith(STORE)
    }
    sync_tree(generation)
    generation.rename(directory / name)
    sync_directory(directory)
    return {**about, "format": _FORMAT, "version": _VERSION, "generation": name, "files": files}


def switch(directory: Path, about: dict[str, Any]) -> None:
    """Make the generation that `about` names the current one.

    If this raises, index.json may name the former generation or the new one, and a power cut may change which.
    """
    write_json(directory / INDEX, about)


def tidy(directory: Path) -> None:
    """Remove what builds and compactions that were killed have left; the caller holds the lock.

    Without index.json nothing is current, and generations stay. `.build`, from which a build resumes, stays too.
    """
    current = read_about(directory)["generation"] if (directory / INDEX).exists() else None
    for path in directory.iterdir():
        former = current is not None and path.name != current and re.fullmatch(r"\d{5,}", path.name)
        if former or path.name.startswith(_TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(".") and path.name.endswith(f"-{INDEX}"):  # `replaced_file` was killed
            path.unlink(missing_ok=True)


def lock(directory: Path) -> IO[str]:
    """Make this process the only one that updates an index, until the file returned is closed.

    Raises:
      RuntimeError: another process does.
      OSError: the directory cannot be written, or is a file.
    """
    try:
        make_directory(directory)
        file = (directory / "lock").open("w")
    except (FileExistsError, NotADirectoryError):  # says by itself that a file is in the way
        raise
    except OSError as error:
        raise OSError(
            f"{directory} cannot be written ({error.strerror}); open it to read it, or check the permissions and "
            "whether the volume is read-only"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RuntimeError(
            f"another process updates {directory}; stop it first, or open the index to read it"
        ) from error
    except BaseException:
        file.close()
        raise
    return file
