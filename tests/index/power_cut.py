"""A disk that remembers what was synced: what would be left of a directory if the power failed now."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

type Tree = dict[str, bytes | None]
"""Path -> content of a file, None for a directory."""


class Disk:
    """Records every sync, rename and removal below a directory.

    SQLite syncs in C, which Python does not see. What its documentation promises is assumed instead, by the
    `synchronous` setting that each connection has; `test_power_cut.test_sqlite_syncs_as_assumed` checks it.

    Args:
      root: the directory; what is in it now counts as synced.
      moment: called before and after everything that changes what a power cut would leave.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, moment: Callable[[], None]):
        self.root = root
        self._moment = moment
        self._entries: dict[int, dict[str, int]] = {}  # of each directory, as it was when it was last synced
        self._contents: dict[int, bytes] = {}  # of each file, likewise
        self._held: dict[int, int] = {}  # open files, so that no inode is used again
        self._fsync = os.fsync
        for directory, _, names in os.walk(root):
            for path in (Path(directory), *(Path(directory, name) for name in names)):
                self._synced(path)
        for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, self._recorded(getattr(os, name), is_sync=name == "fsync"))
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=_connection_of(self)))

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)

    def left(self, *, names_survive: bool) -> Tree:
        """What is left: synced content under synced names, or under the present names if those happened to survive."""
        found: Tree = {}

        def visit(inode: int, path: str) -> None:
            if inode in self._directories:
                found[path] = None
                here = self._names(self._held[inode]) if names_survive else self._entries.get(inode, {})
                for name, child in here.items():
                    if not name.endswith("-shm"):  # memory that SQLite makes anew
                        visit(child, str(Path(path, name)))
            else:
                found[path] = self._contents.get(inode, b"")

        visit(self._hold(self.root), "")
        del found[""]
        return found

    def _recorded(self, function: Callable[..., Any], *, is_sync: bool) -> Callable[..., Any]:
        def recorded(*arguments: Any, **options: Any) -> Any:
            self._moment()
            done = function(*arguments, **options)
            if is_sync:
                self._synced(arguments[0])
            self._moment()
            return done

        return recorded

    @property
    def _directories(self) -> set[int]:
        return {inode for inode, descriptor in self._held.items() if _place(descriptor).is_dir()}

    def _hold(self, file: Path | int) -> int:
        inode = (_place(file) if isinstance(file, int) else file).stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.dup(file) if isinstance(file, int) else os.open(file, os.O_RDONLY)
        return inode

    def _names(self, descriptor: int) -> dict[str, int]:
        return {path.name: self._hold(path) for path in _place(descriptor).iterdir()}

    def _synced(self, file: Path | int) -> None:
        inode = self._hold(file)
        place = _place(self._held[inode])
        if place.is_dir():
            self._entries[inode] = self._names(self._held[inode])
        else:
            self._contents[inode] = place.read_bytes()

    def sqlite_wrote(self, database: Path, level: int, checkpoint: bool, wal_known: set[int]) -> None:
        """What SQLite has synced when a statement that wrote has returned."""
        log = database.with_name(f"{database.name}-wal")
        if log.exists() and level >= 2:
            self._synced(log)
            if self._hold(log) not in wal_known:  # with the first sync of a log its name is synced
                wal_known.add(self._hold(log))
                self._synced(log.parent)
        inode = self._hold(database)
        # In WAL mode only a checkpoint writes to the file, and it syncs the log before and the file afterwards.
        if level >= 1 and (checkpoint or database.read_bytes() != self._contents.get(inode)):
            self._synced(database)
        self._moment()


def _place(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}")


def _connection_of(disk: Disk) -> type[sqlite3.Connection]:
    class Recorded(sqlite3.Connection):
        def __init__(self, name: str, *arguments: Any, **options: Any):
            self.writes, self.known = "mode=ro" not in name, set[int]()
            super().__init__(name, *arguments, **options)

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            done = super().execute(statement, *values)
            if statement in ("COMMIT", "PRAGMA wal_checkpoint(TRUNCATE)"):
                self._note(*self._file_and_level(), statement != "COMMIT")
            return done

        def executescript(self, script: str) -> sqlite3.Cursor:
            done = super().executescript(script)
            self._note(*self._file_and_level(), False)
            return done

        def close(self) -> None:
            file, level = self._file_and_level()
            super().close()  # the last connection moves the log into the file
            self._note(file, level, True)

        def _file_and_level(self) -> tuple[Path, int]:
            (level,) = super().execute("PRAGMA synchronous").fetchone()
            (*_, file) = super().execute("PRAGMA database_list").fetchone()
            return Path(file), level

        def _note(self, file: Path, level: int, checkpoint: bool) -> None:
            if self.writes and file.is_relative_to(disk.root) and file.exists():
                disk.sqlite_wrote(file, level, checkpoint, self.known)

    return Recorded


def write(tree: Tree, directory: Path) -> None:
    """Makes the files of a tree."""
    directory.mkdir()
    for path, content in tree.items():
        if content is None:
            (directory / path).mkdir()
        else:
            (directory / path).write_bytes(content)
