"""Files that are whole or not there, on a disk or in a bucket: a path and what to write come in, a file goes out.

A path is a `pathlib.Path` on a disk, an `epath.Path` in a bucket (`gs://bucket/…`); both have the same methods. What
other libraries read or map into memory goes through `local_copy`, and everything is written through `replaced_file`.
"""

import contextlib
import datetime
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

type AnyPath = Path | epath.Path

BUCKETS = "gs://"
"""How the name of a path in a bucket begins."""

COPIES = Path.home() / ".cache" / "jaxretr" / "copies"
"""Where `local_copy` puts what is in buckets."""


def as_path(value: str | os.PathLike[str]) -> AnyPath:
    """The path of a file or directory that a user has named.

    Raises:
      RuntimeError: it is in a bucket, and the package that knows buckets is not installed.
    """
    if not in_bucket(value):
        return Path(value)
    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as error:
        raise RuntimeError(f"{value} needs the package gcsfs ({error}); it is in the extra gcs") from error
    return epath.Path(value)


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path names something in a bucket."""
    return os.fspath(path).startswith(BUCKETS)


def on_disk(path: str | AnyPath, what: str) -> Path:
    """`path`, where it is on a disk.

    Raises:
      ValueError: it is in a bucket, which will not do for `what`.
    """
    if in_bucket(path):
        raise ValueError(
            f"{path} is in a bucket, and {what} must be on a disk; copy it to one "
            f"(gcloud storage cp --recursive {path} DIRECTORY), and give that directory"
        )
    return Path(path)


@contextlib.contextmanager
def replaced_file(path: AnyPath) -> Iterator[Path]:
    """A name on a disk to write to; what is there becomes `path`, whose directory is made, if nothing is raised.

    A crash leaves what `path` was before, and at most a hidden file of the same name and ending beside it. In a bucket
    an object is there, or replaced, when its upload is complete.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory(prefix="jaxretr-") as scratch:
            written = Path(scratch) / path.name
            yield written
            upload(written, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: AnyPath, value: Any) -> None:
    """Replaces `path` by `value` as JSON.

    Raises:
      ValueError: for a number that is not finite, which JSON does not have.
    """
    with replaced_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def upload(file: Path, path: AnyPath) -> None:
    """Puts a file of a disk into a bucket, in place of what is there."""
    store, name = _store(path)
    store.put_file(str(file), name)


def local_copy(path: AnyPath, at: Path | None = None) -> Path:
    """A file or a directory on a disk: itself, or a copy of what a bucket has under that name.

    What was copied before is copied again where its size or time has changed.

    Args:
      path: of a file or a directory.
      at: a directory for the copy, in which other files stay; `disk_place(path)` without.

    Raises:
      FileNotFoundError: the bucket has nothing of that name.
    """
    if isinstance(path, Path):
        return path
    store, root = _store(path)
    objects = {name: about for name, about in store.find(root, detail=True).items() if about["type"] == "file"}
    if not objects:
        raise FileNotFoundError(f"there is nothing at {path}; check the name, and what your credentials may read")
    copy = at or disk_place(path)
    kept = set()
    for name, about in objects.items():
        file = copy if name == root else copy / name.removeprefix(f"{root}/")
        time = _time(about)
        if not file.exists() or (file.stat().st_size, file.stat().st_mtime_ns) != (about["size"], time):
            with replaced_file(file) as partial:
                store.get_file(name, str(partial))
                os.utime(partial, ns=(time, time))
        kept.add(file)
    for file in copy.rglob("*"):
        if file.is_file() and file not in kept and at is None:
            file.unlink()
    return copy


def disk_place(path: AnyPath) -> Path:
    """Itself on a disk; for a path in a bucket a place below `COPIES`, always the same."""
    if isinstance(path, Path):
        return path
    return COPIES / hashlib.sha256(os.fspath(path).encode()).hexdigest()[:16] / path.name


def name_anywhere(path: Path) -> str:
    """The name of a path; of a copy of what is in a bucket, one that is the same on all machines."""
    return str(path.relative_to(COPIES) if path.is_relative_to(COPIES) else path)


def upload_directory(directory: Path, path: AnyPath, last: str) -> None:
    """Makes what is under `path` in a bucket the files of a directory on a disk.

    A bucket cannot rename a directory. So the object `last`, without which readers take `path` for nothing, is deleted
    first and written last: until then the old ones are gone and the new ones not there, also after a crash.
    """
    store, root = _store(path)
    (path / last).unlink(missing_ok=True)
    files = {f"{root}/{file.relative_to(directory)}": file for file in directory.rglob("*") if file.is_file()}
    for name in set(store.find(root)) - set(files):
        if not name.rpartition("/")[2].startswith("."):  # hidden ones are not of the directory
            store.rm_file(name)
    for name, file in sorted(files.items(), key=lambda item: item[0] == f"{root}/{last}"):
        store.put_file(str(file), name)


def _store(path: AnyPath) -> tuple[Any, str]:
    """The file system of a bucket, and the name of `path` in it."""
    store, name = fsspec.core.url_to_fs(os.fspath(path))
    store.invalidate_cache()  # other processes write there too
    return store, name.rstrip("/")


def _time(about: dict[str, Any]) -> int:
    """When an object was written, in nanoseconds since 1970 to the microsecond; 0 where the store does not tell."""
    for key in ("mtime", "updated", "created"):
        time = about.get(key)
        if isinstance(time, str):
            time = datetime.datetime.fromisoformat(time)
        if isinstance(time, datetime.datetime):
            time = time.timestamp()
        if time is not None:
            return round(time * 1e6) * 1000  # a float has no more digits
    return 0
