"""SQLite connections, and exceptions that explain SQLite's errors.

A file has one connection that writes, in the process that updates the index, and any number that only read. All use
SQLite's write-ahead log (WAL), so readers never wait for the writer.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxretr.index.types import DamagedIndexError

_WAIT = 30.0  # seconds to wait for another connection's lock
_BUILD_LOG_PAGES = 16_384  # 4 KiB pages per checkpoint during a build: each checkpoint syncs, so a few large ones
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another process has locked it; try again",
    sqlite3.SQLITE_LOCKED: "another connection has locked it; try again",
    sqlite3.SQLITE_PERM: "check its permissions",
    sqlite3.SQLITE_READONLY: "check its permissions, and whether the volume is read-only",
    sqlite3.SQLITE_CANTOPEN: "check its permissions, and the limit on open files (ulimit -n)",
    sqlite3.SQLITE_IOERR: "check the disk",
    sqlite3.SQLITE_FULL: "free some disk space",
    sqlite3.SQLITE_PROTOCOL: "check that the file system supports locks",
    sqlite3.SQLITE_NOLFS: "check that the file system supports large files",
}
"""Remedy for each kind of error that does not mean a damaged file."""


def open_writer(path: Path, *, durable: bool) -> sqlite3.Connection:
    """Open the connection that writes; create the file if it is absent.

    Args:
      path: path of the file.
      durable: sync every transaction, so that a committed transaction survives a power cut. Otherwise a power cut may
        lose the last transactions, but leaves the file consistent.

    Raises:
      OSError, DamagedIndexError: as for `explained`.
    """
    settings = ["PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}"]
    if not durable:
        settings.append(f"PRAGMA wal_autocheckpoint = {_BUILD_LOG_PAGES}")
    with explained(path, "written"):
        return _open(path.absolute().as_uri(), *settings)


class Reader:
    """A connection that never writes. Thread-safe.

    On a read-only volume SQLite cannot create the shared-memory file through which readers and the writer coordinate.
    If this file does not exist, the database is read without locks. This is safe while the database does not change, so
    every read checks that the database is unchanged since it was opened.

    Raises:
      OSError, DamagedIndexError: as for `explained`; OSError also if a file on a read-only volume has changed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._unlocked: dict[Path, tuple[int, ...]] = {}  # files read without locks, and their states
        uri = path.absolute().as_uri()
        with explained(self.path, "read"):
            try:
                self._connection = _open(f"{uri}?mode=ro")
            except sqlite3.OperationalError as error:
                if _kind(error) != sqlite3.SQLITE_CANTOPEN or os.access(path.parent, os.W_OK):
                    raise
                log = path.with_name(f"{path.name}-wal")
                files = [path, log] if log.exists() else [path]
                self._unlocked = {file: _state(file) for file in files}
                # `immutable` ignores the log. With exclusive locking SQLite needs no shared memory to read the log,
                # and the VFS "unix-none" grants the lock without writing.
                if log.exists():
                    self._connection = _open(f"{uri}?mode=ro&vfs=unix-none", "PRAGMA locking_mode = EXCLUSIVE")
                else:
                    self._connection = _open(f"{uri}?mode=ro&immutable=1")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of one statement."""
        with self._lock, explained(self.path, "read"):
            rows = self._connection.execute(statement, values).fetchall()
            self._check_unchanged()
        return rows

    @contextmanager
    def snapshot(self) -> Iterator[Callable[..., list[Any]]]:
        """Yield a function like `rows`. All its calls see the file as it was at the first call."""
        with self._lock, explained(self.path, "read"):
            self._connection.execute("BEGIN")
            try:
                yield lambda statement, values=(): self._connection.execute(statement, values).fetchall()
                self._check_unchanged()
            finally:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    def _check_unchanged(self) -> None:
        for file, state in self._unlocked.items():
            if _state(file) != state:
                raise OSError(
                    f"{file} has changed since it was opened; on a read-only volume, an open index cannot follow "
                    "changes; open the index again"
                )


@contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Translate SQLite's errors into exceptions that say what is wrong with a file.

    Args:
      path: path of the file.
      what: what the block does to the file, as a participle: "read" or "written".

    Raises:
      DamagedIndexError: the file is damaged, or is not an SQLite file.
      OSError: any other cause outside this process; the message has a remedy.
      RuntimeError: the connection is closed.
    """
    try:
        yield
    except sqlite3.Error as error:
        outcome = "; nothing has changed" if what == "written" else ""
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            raise RuntimeError(f"{path} cannot be {what}: the index was closed; open it again") from error
        code = _kind(error)
        if code is None:  # raised by Python's module, not by SQLite
            raise
        if code in _REMEDIES:
            raise OSError(f"{path} cannot be {what} ({error}){outcome}; {_REMEDIES[code]}") from error
        raise DamagedIndexError(f"{path} is damaged ({error}); restore the index, or rebuild it") from error


def _kind(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code, such as `sqlite3.SQLITE_FULL`; None if the error has no code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _open(uri: str, *settings: str) -> sqlite3.Connection:
    """Open a connection and read once, so that SQLite opens all files that it needs."""
    connection = sqlite3.connect(uri, uri=True, timeout=_WAIT, check_same_thread=False, isolation_level=None)
    try:
        for statement in (*settings, "SELECT 1 FROM sqlite_master"):
            connection.execute(statement).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _state(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except FileNotFoundError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns
