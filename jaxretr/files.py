"""Paths that users give, and atomic and durable files, on a disk or in a bucket.

A path is a `pathlib.Path` on a disk, or an `epath.Path` in a bucket (`gs://bucket/…`); both have the same methods.
Every path that a user gives goes through `as_path`. Libraries that need a file on a disk get it from `local_copy`.
Every file is written through `replaced_file`, which is atomic and durable: the written file survives a power cut.
"""

import argparse
import contextlib
import ctypes
import datetime
import errno
import hashlib
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

type AnyPath = Path | epath.Path

_NEVER_DATA = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
BUCKET_PREFIX = "gs://"
"""Prefix of the path of anything in a bucket."""

COPIES = Path.home() / ".cache" / "jaxretr" / "copies"
"""Directory in which `local_copy` puts copies of objects in buckets."""


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of Linux

_PARTIAL = re.compile(r"\.\d+-[0-9a-f]{16}-")
"""Matches the beginning of the name of an unfinished file of `replaced_file`."""

_ABANDONED_SECONDS = 86_400
"""Age at which an unfinished copy counts as left behind by a killed process."""


def is_visible(name: str) -> bool:
    """Return whether a file or folder of this name can be data: neither hidden, nor created by an operating system."""
    return not name.startswith((".", "__MACOSX")) and name.lower() not in _NEVER_DATA


def as_path(value: str | os.PathLike[str]) -> AnyPath:
    """Return the path of a file or directory that a user has named; `~` and `~user` become home directories.

    Raises:
      ValueError: the path begins with `~name`, and there is no user of that name.
      RuntimeError: the path is in a bucket, and the package for buckets is not installed.
    """
    if not in_bucket(value):
        if not os.fspath(value).startswith("~"):
            return Path(value)
        try:
            return Path(value).expanduser()
        except RuntimeError as error:
            raise ValueError(
                f"{os.fspath(value)} begins with the home directory of an unknown user; write the full path"
            ) from error
    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as error:
        raise RuntimeError(
            f"{value} needs the package gcsfs ({error}); it is in the extra gcs: pip install 'jaxretr[gcs]'"
        ) from error
    return epath.Path(value)


def path_flag(text: str) -> AnyPath:
    """Parse the value of a command-line flag with `as_path`; argparse shows the message of an error."""
    try:
        return as_path(text)
    except (ValueError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def model_flag(text: str) -> str:
    """Parse the name of a model, or the path of its directory, in which `~` is expanded."""
    return str(path_flag(text)) if text.startswith("~") else text


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is in a bucket."""
    return os.fspath(path).startswith(BUCKET_PREFIX)


def on_disk(path: str | AnyPath, what: str) -> Path:
    """Return `path` as `as_path` does, and reject paths in a bucket.

    Args:
      path: a path that a user has given.
      what: what the path holds, for the error message.

    Raises:
      ValueError: `path` is in a bucket, or `as_path` rejects it.
    """
    if in_bucket(path):
        raise ValueError(
            f"{path} is in a bucket, but {what} must be on a disk; copy it to a disk "
            f"(gcloud storage cp --recursive {path} DIRECTORY), and give the copy"
        )
    return Path(as_path(path))


def make_directory(path: Path) -> None:
    """Create a directory and its parents, and sync every directory that got a new entry."""
    absent = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in absent:
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Wait until the entries of a directory are on the disk: names created, renamed and deleted in it.

    File systems that cannot sync directories (some network mounts) are skipped.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until every file and directory below `path`, and `path` itself, are on the disk."""
    for directory, _, names in os.walk(path):
        for name in names:
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                _sync_file(file)
        sync_directory(Path(directory))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def exchange(first: Path, second: Path) -> None:
    """Swap the names of two files or directories of one file system, in one atomic step.

    Raises:
      OSError: the operating system (ENOSYS) or the file system (EINVAL, ENOTSUP) cannot swap names; or one of the two
        paths does not exist (ENOENT).
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        code = errno.ENOSYS
    elif renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
    else:
        return
    raise OSError(code, os.strerror(code), str(first), None, str(second))


@contextlib.contextmanager
def replaced_file(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary path to write to; on success, rename it to `path`, creating parent directories.

    File and directories are synced, so the written file survives a power cut. A crash before the rename leaves the old
    `path`, and at most a hidden file beside it whose name ends with the name of `path`. Any number of threads,
    processes and hosts may write one path at once: the last rename wins. In a bucket, an object appears, or is
    replaced, when its upload is complete.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory(prefix="jaxretr-") as scratch:
            partial = Path(scratch) / path.name
            yield partial
            upload(partial, path)
        return
    make_directory(path.parent)
    partial = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}-{path.name}")
    try:
        yield partial
        _sync_file(partial)
        os.replace(partial, path)
        sync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` to `path` as JSON, atomically.

    Raises:
      ValueError: a number is not finite, which JSON does not allow.
    """
    with replaced_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def upload(file: Path, path: AnyPath) -> None:
    """Copy a file from a disk to a bucket, replacing any object at `path`."""
    store, name = _store(path)
    store.put_file(str(file), name)


def local_copy(path: AnyPath, at: Path | None = None) -> Path:
    """Return a file or directory on a disk: `path` itself, or a copy of the objects that a bucket has under this name.

    A file that was copied before is copied again if its size or time has changed. Any number of processes may copy one
    path at once.

    Args:
      path: a file or a directory.
      at: a directory for the copy, in which other files are kept. None means `disk_place(path)`, in which files that
        the bucket no longer has are deleted.

    Raises:
      FileNotFoundError: the bucket has nothing of that name.
    """
    if isinstance(path, Path):
        return path
    store, root = _store(path)
    objects = {name: info for name, info in store.find(root, detail=True).items() if info["type"] == "file"}
    if not objects:
        raise FileNotFoundError(f"{path} does not exist; check the name, and whether your credentials may read it")
    copy = at or disk_place(path)
    copied = set()
    for name, info in objects.items():
        file = copy if name == root else copy / name.removeprefix(f"{root}/")
        written = _time(info)
        if _size_and_time(file) != (info["size"], written):
            with replaced_file(file) as partial:
                store.get_file(name, str(partial))
                os.utime(partial, ns=(written, written))
        copied.add(file)
    if at is None:
        for file in copy.rglob("*"):
            if file.is_file() and file not in copied and not _in_use(file):
                file.unlink(missing_ok=True)
    return copy


def _size_and_time(file: Path) -> tuple[int, int] | None:
    """Return the size and modification time of a file, or None if it is absent."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _in_use(file: Path) -> bool:
    """Return whether another process may still be writing a file: `replaced_file` named it, and it is not old."""
    try:  # ctime, because a copy has the modification time of its object
        return bool(_PARTIAL.match(file.name)) and time.time() - file.stat().st_ctime < _ABANDONED_SECONDS
    except FileNotFoundError:
        return True  # renamed in the meantime


def disk_place(path: AnyPath) -> Path:
    """Return `path` itself if it is on a disk, or else its fixed place below `COPIES`."""
    if isinstance(path, Path):
        return path
    return COPIES / hashlib.sha256(os.fspath(path).encode()).hexdigest()[:16] / path.name


def portable_name(path: Path) -> str:
    """Return a path as text; for the local copy of an object in a bucket, a text that is the same on all machines."""
    return str(path.relative_to(COPIES) if path.is_relative_to(COPIES) else path)


def upload_directory(directory: Path, path: AnyPath, last: str) -> None:
    """Replace the objects under `path` in a bucket with the files of a directory on a disk.

    A bucket cannot rename a directory. So the object `last`, without which readers ignore `path`, is deleted first and
    written last. Until it is written, also after a crash, readers find neither the old nor the new files.
    """
    store, root = _store(path)
    (path / last).unlink(missing_ok=True)
    files = {f"{root}/{file.relative_to(directory)}": file for file in directory.rglob("*") if file.is_file()}
    for name in set(store.find(root)) - set(files):
        if not name.rpartition("/")[2].startswith("."):  # hidden objects do not belong to the directory
            store.rm_file(name)
    for name, file in sorted(files.items(), key=lambda item: item[0] == f"{root}/{last}"):
        store.put_file(str(file), name)


def _store(path: AnyPath) -> tuple[Any, str]:
    """Return the file system of a bucket, and the name of `path` in it."""
    store, name = fsspec.core.url_to_fs(os.fspath(path))
    store.invalidate_cache()  # other processes write there too
    return store, name.rstrip("/")


def _time(info: dict[str, Any]) -> int:
    """Return when an object was written, in nanoseconds since 1970; 0 if the store does not say when.

    The resolution is one microsecond.
    """
    for key in ("mtime", "updated", "created"):
        written = info.get(key)
        if isinstance(written, str):
            written = datetime.datetime.fromisoformat(written)
        if isinstance(written, datetime.datetime):
            written = written.timestamp()
        if written is not None:
            return round(written * 1e6) * 1000  # a float has no more precision
    return 0
