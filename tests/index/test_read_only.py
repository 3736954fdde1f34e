"""An index on a read-only volume, and what errors of SQLite are called."""

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions, database
from jaxretr.index.database import explained
from jaxretr.index.shards import open_shards
from jaxretr.index.types import DamagedIndexError
from tests.index import made

STATES = {"closed": (), "killed": ("-wal", "-shm"), "copied without -shm": ("-wal",)}
"""How a writer has left an index: files beside passages.sqlite."""


def make(directory: Path, state: str) -> None:
    """An index of 40 passages, of which p0 was replaced and p1 deleted."""
    made.build(directory.parent / "made", 40)
    with Index.open(directory.parent / "made", writable=True) as index:
        index.upsert([IndexedPassage("p0", "new")], made.vectors(1, seed=3))
        index.delete(["p1"])
        if state != "closed":
            shutil.copytree(directory.parent / "made", directory)
    if state == "closed":
        shutil.copytree(directory.parent / "made", directory)
    for file in (directory / "00001").glob("passages.sqlite-*"):
        if not file.name.endswith(STATES[state]):
            file.unlink()


def use(directory: Path) -> None:
    """What a reader does."""
    with open_shards([directory]) as index:  # type: ignore[union-attr]
        (answer,) = index.search(made.vectors(1), [SearchOptions(k=100, where={"even": (True, False)})])
        assert len(answer.hits) == 38
        (answer,) = index.search(made.vectors(1), [SearchOptions(k=100)])
        about = index.describe()
    texts = {hit.passage.id: hit.passage.text for hit in answer.hits}
    assert len(texts) == 39 and texts["p0"] == "new" and "p1" not in texts
    assert about["since_built"] == {"upserted": 1, "deleted": 2}


def in_mounts_of_its_own(work: Callable[[], None]) -> None:
    """Run in a thread that may mount file systems, which nobody else sees; skip where that is not allowed."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            os.unshare(os.CLONE_NEWNS)
            mount("--make-rprivate", "/")
        except (OSError, subprocess.CalledProcessError) as error:
            raised.append(pytest.skip.Exception(f"no mounts here: {error}"))
            return
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def mount(*arguments: object) -> None:
    """It ends with the thread."""
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.parametrize("state", STATES)
def test_a_read_only_volume(tmp_path: Path, state: str) -> None:
    directory = tmp_path / "index"
    make(directory, state)

    def work() -> None:
        before = sorted(path.name for path in directory.rglob("*"))
        mount("-o", "ro,bind", directory, directory)
        use(directory)
        with pytest.raises(OSError, match=r"cannot be written \(Read-only file system\); open the index read-only"):
            Index.open(directory, writable=True)
        assert sorted(path.name for path in directory.rglob("*")) == before

    in_mounts_of_its_own(work)


@pytest.mark.parametrize("state", ["closed", "copied without -shm"])
def test_what_changes_behind_a_read_only_volume_is_told(tmp_path: Path, state: str) -> None:
    directory, outside = tmp_path / "index", tmp_path / "same"
    make(directory, state)
    outside.mkdir()

    def work() -> None:
        mount("--bind", directory, outside)
        mount("-o", "ro,bind", directory, directory)
        with Index.open(directory) as reader:
            use(directory)
            with Index.open(outside, writable=True) as writer:
                writer.upsert([IndexedPassage("p2", "newer")], made.vectors(1))
            with pytest.raises(OSError, match="has changed since it was opened.*; open the index again"):
                reader.search(made.vectors(1), [SearchOptions()])
            with Index.open(directory) as again:
                assert again.search(made.vectors(1), [SearchOptions(k=1)])[0].hits[0].passage.text == "newer"

    in_mounts_of_its_own(work)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(tmp_path: Path, state: str) -> None:
    directory = tmp_path / "index"
    make(directory, state)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        use(directory)
        with pytest.raises(OSError, match="cannot be written"):
            Index.open(directory, writable=True)
    finally:
        for path in (directory, directory / "00001"):
            path.chmod(0o755)


@pytest.mark.parametrize("state", ["closed", "copied without -shm"])
def test_sqlite_that_cannot_make_its_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """The same wherever the tests run: no connection that would make a file is opened."""
    directory, connect = tmp_path / "index", sqlite3.connect
    make(directory, state)
    made_by_sqlite = set(directory.rglob("*"))

    def refusing(name: str, **options: Any) -> sqlite3.Connection:
        if "immutable=1" in name or "vfs=unix-none" in name:
            return connect(name, **options)
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(sqlite3, "connect", refusing)
    with pytest.raises(OSError, match=r"cannot be read \(unable to open database file\).*ulimit"):
        use(directory)  # the directory may be written, so the cause is another
    monkeypatch.setattr(os, "access", lambda *_: False)
    use(directory)
    assert set(directory.rglob("*")) == made_by_sqlite


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        (sqlite3.SQLITE_BUSY, OSError, "another process has locked it; try again"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, OSError, "another process has locked it; try again"),
        (sqlite3.SQLITE_READONLY, OSError, "whether the volume is read-only"),
        (sqlite3.SQLITE_CANTOPEN, OSError, "the limit on open files"),
        (sqlite3.SQLITE_IOERR_READ, OSError, "check the disk"),
        (sqlite3.SQLITE_FULL, OSError, "free some disk space"),
        (sqlite3.SQLITE_CORRUPT, DamagedIndexError, "is damaged .*restore the index, or rebuild it"),
        (sqlite3.SQLITE_NOTADB, DamagedIndexError, "is damaged .*restore the index, or rebuild it"),
        (sqlite3.SQLITE_ERROR, DamagedIndexError, "is damaged .*restore the index, or rebuild it"),
    ],
)
@pytest.mark.parametrize("what", ["read", "written"])
def test_errors_of_sqlite_are_told_apart(code: int, expected: type[Exception], message: str, what: str) -> None:
    error = sqlite3.OperationalError("SQLite's own words")
    error.sqlite_errorcode = code
    with pytest.raises(expected, match=message) as raised, explained(Path("passages.sqlite"), what):
        raise error
    if expected is OSError:
        assert f"passages.sqlite cannot be {what} (SQLite's own words)" in str(raised.value)
        assert "damaged" not in str(raised.value)
        assert ("nothing has changed" in str(raised.value)) == (what == "written")


def test_a_reader_never_writes(tmp_path: Path) -> None:
    make(tmp_path / "index", "closed")
    path = tmp_path / "index/00001/passages.sqlite"
    reader = database.Reader(path)
    with pytest.raises(OSError, match="attempt to write a readonly database"):
        reader.rows("DELETE FROM passages")
    reader.close()
