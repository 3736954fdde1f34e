"""The passages of an index and what became of them, in one SQLite file: nothing that was answered is ever lost.

Passages have row numbers. The first rows came with the index, and their vectors stand in files beside it; later rows
were upserted and bring their vectors along. A row is written once; replacing a passage marks its row as deleted and
adds another. So a reader that began before goes on with what it saw, and compaction can tell what happened meanwhile.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt64

from jaxretr.index.filters import KINDS, json_forms
from jaxretr.index.types import IndexedPassage, MetadataValue, wanted_values

# Rows are found by number, by the id of a passage that is there, and by metadata; `deleted` is the revision that took
# a row out. WITHOUT ROWID keeps the metadata's values and their rows together.
_SCHEMA = """
CREATE TABLE passages (
  row INTEGER PRIMARY KEY, id TEXT NOT NULL, language TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
  metadata TEXT NOT NULL, vector BLOB, revision INTEGER NOT NULL, deleted INTEGER);
CREATE UNIQUE INDEX live ON passages (id) WHERE deleted IS NULL;
CREATE INDEX dead ON passages (row) WHERE deleted IS NOT NULL;
CREATE TABLE metadata (key TEXT, value TEXT, row INTEGER, PRIMARY KEY (key, value, row)) WITHOUT ROWID;
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO state VALUES ('read', 0);
"""
_COLUMNS = "id, text, title, language, metadata"
# JSON tells the kind of a value by its first character; every range is one look into the table's primary key.
_KINDS_OF_KEY = """
SELECT EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value >= '"' AND value < '#'),
  EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value >= '-' AND value < ':'),
  EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value IN ('true', 'false'))
"""
_VARIABLES = 30_000  # of one statement; SQLite's limit is 32,766
_WAIT = 30.0  # seconds for another connection's lock


@dataclass(frozen=True)
class Change:
    """What an update did: rows that were added, with the vectors and keys given, and rows that were taken out."""

    added: range
    deleted: Int[np.ndarray, " rows"]


class Store:
    """Passages on disk; may be used from several threads.

    Args:
      path: the file.
      create: make it; else it must be there.
      durable: an update is on the disk when it returns, so that not even a power cut loses it; without, a killed
        process loses nothing, a power cut may.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is no such file, or damaged.
    """

    def __init__(self, path: Path, *, create: bool = False, durable: bool = True):
        self.path = path
        if not create and not path.is_file():
            raise FileNotFoundError(f"{path} is missing; restore the index, or build it anew")
        # One connection to write and one to read: a reader never waits for a writer.
        self._writer, self._reader = (
            sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None) for _ in range(2)
        )
        self._lock = threading.Lock()  # of the reader
        with self._readable():
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
            if create and not self._writer.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._writer.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            self.revision: int = self._writer.execute(
                "SELECT max(coalesce(max(revision), 0), coalesce(max(deleted), 0)) FROM passages"
            ).fetchone()[0]

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()
        with self._lock:
            self._reader.close()

    def __len__(self) -> int:
        """Rows, deleted ones included."""
        return self._read("SELECT coalesce(max(row) + 1, 0) FROM passages")[0][0]

    # Building.

    @property
    def read(self) -> int:
        """How many passages of the corpus have been looked at; those of other shards are not stored."""
        return self._read("SELECT value FROM state WHERE name = 'read'")[0][0]

    def append(self, passages: Sequence[IndexedPassage], read: int) -> None:
        """Adds rows whose vectors are elsewhere, and records how far the corpus has been read.

        Raises:
          ValueError: for an id that is there already.
        """
        with self._transaction() as connection:
            start = connection.execute("SELECT coalesce(max(row) + 1, 0) FROM passages").fetchone()[0]
            try:
                _insert(connection, start, passages, [None] * len(passages), revision=0)
            except sqlite3.IntegrityError as error:
                twice = _twice(connection, [passage.id for passage in passages], start)
                raise ValueError(f"the id {twice!r} stands twice in the corpus; give every passage its own") from error
            connection.execute("UPDATE state SET value = ? WHERE name = 'read'", (read,))

    # Reading.

    def take(self, rows: Iterable[int]) -> dict[int, IndexedPassage]:
        """The passages of rows, deleted ones included."""
        found: dict[int, IndexedPassage] = {}
        wanted = [int(row) for row in rows]
        for start in range(0, len(wanted), _VARIABLES):
            part = wanted[start : start + _VARIABLES]
            marks = ",".join("?" * len(part))
            for row, *columns in self._read(f"SELECT row, {_COLUMNS} FROM passages WHERE row IN ({marks})", part):
                found[row] = _passage(columns)
        return found

    def full_texts(self, start: int, stop: int) -> list[str]:
        """What the encoder reads, of rows `start` to `stop`."""
        rows = self._read("SELECT title, text FROM passages WHERE row >= ? AND row < ? ORDER BY row", (start, stop))
        return [f"{title} {text}" if title else text for title, text in rows]

    def labels(self, start: int, stop: int) -> tuple[list[str], UInt64[np.ndarray, " rows"]]:
        """Language and key of each row from `start` to `stop`."""
        rows = self._read("SELECT language, id FROM passages WHERE row >= ? AND row < ? ORDER BY row", (start, stop))
        return [language for language, _ in rows], keys(id for _, id in rows)

    def deleted(self) -> Int[np.ndarray, " rows"]:
        """The rows that were taken out."""
        return np.asarray(self._read("SELECT row FROM passages WHERE deleted IS NOT NULL"), np.int64).reshape(-1)

    def vectors(self, start: int, dim: int) -> Float32[np.ndarray, "rows dim"]:
        """The vectors of the rows from `start`, all of which were upserted."""
        rows = self._read("SELECT vector FROM passages WHERE row >= ? ORDER BY row", (start,))
        return np.frombuffer(b"".join(vector for (vector,) in rows), np.float32).reshape(-1, dim)

    def matching(self, where: Mapping[str, MetadataValue | Sequence[MetadataValue]]) -> Int[np.ndarray, " rows"]:
        """The rows whose metadata has, under every key, the value (one of the values) given."""
        found: np.ndarray | None = None
        for key, wanted in where.items():
            values = sorted({form for value in wanted_values(wanted) for form in json_forms(value)})
            rows: list[Any] = []
            for start in range(0, len(values), _VARIABLES):
                part = values[start : start + _VARIABLES]
                marks = ",".join("?" * len(part))
                rows += self._read(f"SELECT row FROM metadata WHERE key = ? AND value IN ({marks})", (key, *part))
            of_key = np.asarray(rows, np.int64).reshape(-1)
            found = of_key if found is None else np.intersect1d(found, of_key)
        return np.empty(0, np.int64) if found is None else found

    def metadata_keys(self) -> list[str]:
        """Every key that metadata has or had."""
        found: list[str] = []
        row = self._read("SELECT min(key) FROM metadata")[0][0]
        while row is not None:
            found.append(row)  # from one key to the next, without reading the rows of a key
            row = self._read("SELECT min(key) FROM metadata WHERE key > ?", (row,))[0][0]
        return found

    def metadata_kinds(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Which `filters.KINDS` of values metadata has or had under each key; a key without values is left out."""
        found = {}
        for key in keys:
            there = self._read(_KINDS_OF_KEY, (key,) * len(KINDS))[0]
            if any(there):
                found[key] = [kind for kind, has in zip(KINDS, there, strict=True) if has]
        return found

    # Updating.

    def update(
        self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"], deleted: Sequence[str]
    ) -> Change:
        """Takes out the passages of some ids, then adds or replaces passages. All on disk when it returns, or nothing.

        Raises:
          OSError: it cannot be written, because the disk is full, say.
        """
        revision = self.revision + 1
        with self._transaction() as connection:
            gone: list[int] = []
            for id in (*deleted, *(passage.id for passage in passages)):
                gone += [
                    row
                    for (row,) in connection.execute(
                        "UPDATE passages SET deleted = ? WHERE id = ? AND deleted IS NULL RETURNING row", (revision, id)
                    ).fetchall()
                ]
            start = connection.execute("SELECT coalesce(max(row) + 1, 0) FROM passages").fetchone()[0]
            _insert(connection, start, passages, [vector.tobytes() for vector in vectors], revision)
        self.revision = revision
        return Change(range(start, start + len(passages)), np.asarray(gone, np.int64))

    def changes_since(self, revision: int) -> tuple[list[str], list[tuple[IndexedPassage, np.ndarray]]]:
        """What leads from the state after `revision` to the present one: ids to take out, then passages to add."""
        deleted = self._read(
            "SELECT DISTINCT id FROM passages WHERE deleted > ? AND revision <= ?", (revision, revision)
        )
        rows = self._read(
            f"SELECT vector, {_COLUMNS} FROM passages WHERE revision > ? AND deleted IS NULL ORDER BY row", (revision,)
        )
        return [id for (id,) in deleted], [(_passage(row), np.frombuffer(vector, np.float32)) for vector, *row in rows]

    def live(self, revision: int) -> Iterator[list[tuple[int, IndexedPassage]]]:
        """Rows and passages as they were after `revision`, in their order, some thousands at a time."""
        last = -1
        while True:
            rows = self._read(
                f"SELECT row, {_COLUMNS} FROM passages WHERE row > ? AND revision <= ? "
                "AND (deleted IS NULL OR deleted > ?) ORDER BY row LIMIT 4096",
                (last, revision, revision),
            )
            if not rows:
                return
            yield [(row, _passage(columns)) for row, *columns in rows]
            last = rows[-1][0]

    def checkpoint(self) -> None:
        """Moves everything into the one file, so that it can be measured and moved."""
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._readable():
            return self._reader.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(f"{self.path} cannot be written ({error}); nothing has changed") from error
            raise

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is damaged ({error}); restore the index, or build it anew") from error


def keys(ids: Iterable[str]) -> UInt64[np.ndarray, " ids"]:
    """A number for every id that is the same everywhere: it breaks ties, and says which shard a passage belongs to."""
    digests = (hashlib.blake2b(id.encode(), digest_size=8).digest() for id in ids)
    return np.frombuffer(b"".join(digests), np.uint64)


def _insert(
    connection: sqlite3.Connection,
    start: int,
    passages: Sequence[IndexedPassage],
    vectors: Sequence[bytes | None],
    revision: int,
) -> None:
    connection.executemany(
        "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            (row, p.id, p.language, p.title, p.text, json.dumps(dict(p.metadata), ensure_ascii=False), vector, revision)
            for row, (p, vector) in enumerate(zip(passages, vectors, strict=True), start)
        ),
    )
    connection.executemany(
        "INSERT INTO metadata VALUES (?, ?, ?)",
        (
            (key, json.dumps(value, ensure_ascii=False), row)
            for row, passage in enumerate(passages, start)
            for key, value in passage.metadata.items()
        ),
    )


def _twice(connection: sqlite3.Connection, ids: Sequence[str], start: int) -> str:
    """The first of the ids that stands among them before, or in a row before `start`."""
    seen: set[str] = set()
    for id in ids:
        there = connection.execute("SELECT 1 FROM passages WHERE id = ? AND deleted IS NULL AND row < ?", (id, start))
        if id in seen or there.fetchone():
            return id
        seen.add(id)
    raise AssertionError("SQLite refused ids that are unique")


def _passage(columns: Sequence[Any]) -> IndexedPassage:
    id, text, title, language, metadata = columns
    return IndexedPassage(id, text, title, language, {} if metadata == "{}" else json.loads(metadata))
