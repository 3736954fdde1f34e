"""Passages of an index and the history of their updates, in one SQLite file. No acknowledged update is lost.

Rows are numbered. The first rows come from the build, and their vectors are in separate files. Later rows were
upserted, and the database also stores their vectors. Rows are never overwritten: replacing a passage marks its row as
deleted and adds a new row. So a reader that started earlier keeps its view, and a compaction can tell which updates
happened while it ran.
"""

import hashlib
import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, UInt64

from jaxretr.index import quarantine
from jaxretr.index.database import Reader, explained, open_writer
from jaxretr.index.filters import KINDS, json_forms
from jaxretr.index.gate import SentinelGate, load_verdict
from jaxretr.index.quarantine import Mark
from jaxretr.index.types import IndexedPassage, MetadataValue, Quarantined, wanted_values

# The indexes find rows by number, by the id of a live passage, and by metadata. `deleted` is the revision that deleted
# a row. WITHOUT ROWID stores metadata values together with their row numbers.
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
# Rows are added in order of revision, so the last row has the highest revision.
_REVISION = """
SELECT max(coalesce((SELECT revision FROM passages ORDER BY row DESC LIMIT 1), 0),
  coalesce((SELECT max(deleted) FROM passages WHERE deleted IS NOT NULL), 0))
"""
# The first character of a JSON value tells its kind, so each test is one range lookup in the primary key.
_KINDS_OF_KEY = """
SELECT EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value >= '"' AND value < '#'),
  EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value >= '-' AND value < ':'),
  EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value IN ('true', 'false'))
"""
_VARIABLES = 30_000  # maximum per statement; SQLite's limit is 32,766


@dataclass(frozen=True)
class Change:
    """Result of an update.

    Attributes:
      added: numbers of the added rows, in the order of the passages given.
      deleted: numbers of the rows that were deleted or replaced.
      quarantined: numbers of the added rows that are quarantined.
    """

    added: range
    deleted: Int[np.ndarray, " rows"]
    quarantined: Int[np.ndarray, " quarantined"]


class State(NamedTuple):
    """Changes to a store since it was built, as of one moment.

    Attributes:
      revision: number of the last update.
      languages, keys, vectors: values of the upserted rows, in row order.
      deleted: numbers of all rows that were deleted or replaced.
      quarantined: numbers of all rows that are quarantined.
    """

    revision: int
    languages: list[str]
    keys: UInt64[np.ndarray, " rows"]
    vectors: Float32[np.ndarray, "rows dim"]
    deleted: Int[np.ndarray, " deleted"]
    quarantined: Int[np.ndarray, " quarantined"]


class LaterChanges(NamedTuple):
    """Updates of a store after a revision.

    Attributes:
      deleted: ids to delete.
      passages, vectors: passages to add, and their vectors.
      marks: marks of the added passages, by position.
      released: ids of earlier passages that are admitted, including passages that were released before.
    """

    deleted: list[str]
    passages: list[IndexedPassage]
    vectors: list[np.ndarray]
    marks: dict[int, Mark]
    released: list[str]


class Store:
    """Passages on disk. Thread-safe.

    Args:
      path: path of the SQLite file.
      create: open the file for writing, and create it if it is absent. Otherwise the file must exist.
      writable: open the file for updates; only one process at a time may do so. A store that is only read is never
        written to, so it may be on a read-only volume.
      durable: sync each update before it returns, so that a power cut does not lose it. Otherwise a power cut may lose
        the last updates, but leaves the file consistent.

    Raises:
      FileNotFoundError: the file is missing.
      DamagedIndexError: the file is damaged, or is not an SQLite file.
      OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, create: bool = False, writable: bool = False, durable: bool = True):
        self.path = path
        if not create and not path.is_file():
            raise FileNotFoundError(f"{path} is missing; restore the index, or rebuild it")
        self._writer: sqlite3.Connection | None = None
        with ExitStack() as opened:
            if create or writable:
                self._writer = opened.enter_context(closing(open_writer(path, durable=durable)))
                with self._writing() as connection:
                    if create and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                        connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            # The reader closes before the writer: the last connection to close moves the log into the file, so that
            # connection must be able to write.
            self._reader = opened.enter_context(closing(Reader(path)))
            self.revision: int = self._read(_REVISION)[0][0]
            self._close = weakref.finalize(self, opened.pop_all().close)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._close()

    def __len__(self) -> int:
        """Return the number of rows, including deleted rows."""
        return self._read("SELECT coalesce(max(row) + 1, 0) FROM passages")[0][0]

    # Building.

    @property
    def read(self) -> int:
        """Number of corpus passages read so far, including passages of other shards, which are not stored."""
        return self._read("SELECT value FROM state WHERE name = 'read'")[0][0]

    def append(self, passages: Sequence[IndexedPassage], read: int) -> None:
        """Add rows whose vectors are stored elsewhere, and record how far the corpus has been read.

        Args:
          passages: passages of the new rows.
          read: number of corpus passages read so far.

        Raises:
          ValueError: an id already exists or occurs twice.
        """
        with self._transaction() as connection:
            start = connection.execute("SELECT coalesce(max(row) + 1, 0) FROM passages").fetchone()[0]
            try:
                _insert(connection, start, passages, [None] * len(passages), revision=0)
            except sqlite3.IntegrityError as error:
                twice = _twice(connection, [passage.id for passage in passages], start)
                raise ValueError(f"the id {twice!r} occurs twice in the corpus; ids must be unique") from error
            connection.execute("UPDATE state SET value = ? WHERE name = 'read'", (read,))

    # Reading.

    def take(self, rows: Iterable[int]) -> dict[int, IndexedPassage]:
        """Return the passages of the given rows, including deleted rows, by row number."""
        passages: dict[int, IndexedPassage] = {}
        numbers = [int(row) for row in rows]
        for start in range(0, len(numbers), _VARIABLES):
            block = numbers[start : start + _VARIABLES]
            marks = ",".join("?" * len(block))
            for row, *columns in self._read(f"SELECT row, {_COLUMNS} FROM passages WHERE row IN ({marks})", block):
                passages[row] = _passage(columns)
        return passages

    def full_texts(self, start: int, stop: int) -> list[str]:
        """Return the texts that the encoder reads, for rows `start` to `stop`, exclusive."""
        rows = self._read("SELECT title, text FROM passages WHERE row >= ? AND row < ? ORDER BY row", (start, stop))
        return [f"{title} {text}" if title else text for title, text in rows]

    def labels(self, start: int, stop: int) -> tuple[list[str], UInt64[np.ndarray, " rows"]]:
        """Return the language and key of each row from `start` to `stop`, exclusive."""
        rows = self._read("SELECT language, id FROM passages WHERE row >= ? AND row < ? ORDER BY row", (start, stop))
        return [language for language, _ in rows], keys(id for _, id in rows)

    def state(self, start: int, dim: int) -> State:
        """Return the changes since the store was built with `start` rows, in one read transaction.

        Also set `self.revision`; the next update gets the number after it.
        """
        with self._reader.snapshot() as rows:
            added = rows("SELECT language, id, vector FROM passages WHERE row >= ? ORDER BY row", (start,))
            deleted = rows("SELECT row FROM passages WHERE deleted IS NOT NULL")
            held = quarantine.held_rows(rows)
            self.revision = rows(_REVISION)[0][0]
        vectors = np.frombuffer(b"".join(vector for *_, vector in added), np.float32).reshape(len(added), dim)
        languages = [language for language, *_ in added]
        deleted_rows = np.asarray(deleted, np.int64).reshape(-1)
        row_keys = keys(id for _, id, _ in added)
        return State(self.revision, languages, row_keys, vectors, deleted_rows, np.asarray(held, np.int64))

    def matching(self, where: Mapping[str, MetadataValue | Sequence[MetadataValue]]) -> Int[np.ndarray, " rows"]:
        """Return the rows whose metadata has, under every key of `where`, the value or one of the values given."""
        matching: np.ndarray | None = None
        for key, wanted in where.items():
            values = sorted({form for value in wanted_values(wanted) for form in json_forms(value)})
            rows: list[Any] = []
            for start in range(0, len(values), _VARIABLES):
                block = values[start : start + _VARIABLES]
                marks = ",".join("?" * len(block))
                rows += self._read(f"SELECT row FROM metadata WHERE key = ? AND value IN ({marks})", (key, *block))
            key_rows = np.asarray(rows, np.int64).reshape(-1)
            matching = key_rows if matching is None else np.intersect1d(matching, key_rows)
        return np.empty(0, np.int64) if matching is None else matching

    def metadata_keys(self) -> list[str]:
        """Return every metadata key, including keys that only deleted rows have."""
        keys: list[str] = []
        row = self._read("SELECT min(key) FROM metadata")[0][0]
        while row is not None:
            keys.append(row)  # jump from key to key, without reading the rows of a key
            row = self._read("SELECT min(key) FROM metadata WHERE key > ?", (row,))[0][0]
        return keys

    def metadata_kinds(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the `filters.KINDS` of values under each key, including deleted rows; omit keys without values."""
        kinds = {}
        for key in keys:
            present = self._read(_KINDS_OF_KEY, (key,) * len(KINDS))[0]
            if any(present):
                kinds[key] = [kind for kind, has in zip(KINDS, present, strict=True) if has]
        return kinds

    # Updating.

    @contextmanager
    def update(
        self,
        passages: Sequence[IndexedPassage],
        vectors: Float32[np.ndarray, "passages dim"],
        deleted: Sequence[str],
        marks: Mapping[int, Mark],
    ) -> Iterator[Change]:
        """Delete passages by id, then add or replace passages, in one transaction.

        The transaction commits when the block ends, and rolls back if the block raises.

        Args:
          passages, vectors: passages to add, and their vectors.
          deleted: ids to delete.
          marks: marks of the added passages, by position.

        Raises:
          OSError: the store cannot be written, for example because the disk is full.
        """
        revision = self.revision + 1
        with self._transaction() as connection:
            deleted_rows: list[int] = []
            for id in (*deleted, *(passage.id for passage in passages)):
                deleted_rows += [
                    row
                    for (row,) in connection.execute(
                        "UPDATE passages SET deleted = ? WHERE id = ? AND deleted IS NULL RETURNING row", (revision, id)
                    ).fetchall()
                ]
            start = connection.execute("SELECT coalesce(max(row) + 1, 0) FROM passages").fetchone()[0]
            _insert(connection, start, passages, [vector.tobytes() for vector in vectors], revision)
            if marks:
                quarantine.write_marks(connection, {start + position: mark for position, mark in marks.items()})
            held = [start + position for position, mark in sorted(marks.items()) if not mark.released]
            added = range(start, start + len(passages))
            yield Change(added, np.asarray(deleted_rows, np.int64), np.asarray(held, np.int64))
        self.revision = revision

    def changes_since(self, revision: int) -> LaterChanges:
        """Return the updates after `revision`."""
        with self._reader.snapshot() as rows:
            deleted = rows("SELECT DISTINCT id FROM passages WHERE deleted > ? AND revision <= ?", (revision, revision))
            added = rows(
                f"SELECT row, vector, {_COLUMNS} FROM passages WHERE revision > ? AND deleted IS NULL ORDER BY row",
                (revision,),
            )
            all_marks, released = quarantine.read_marks(rows), quarantine.released_ids(rows, revision)
        return LaterChanges(
            [id for (id,) in deleted],
            [_passage(columns) for _, _, *columns in added],
            [np.frombuffer(vector, np.float32) for _, vector, *_ in added],
            {position: all_marks[row] for position, (row, *_) in enumerate(added) if row in all_marks},
            released,
        )

    def live(self, revision: int) -> Iterator[list[tuple[int, IndexedPassage]]]:
        """Yield rows and passages that were live after `revision`, in row order, up to 4,096 at a time."""
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

    # The gate.

    def gate(self) -> SentinelGate | None:
        """Return the gate, or None if the store has none."""
        return quarantine.read_gate(self._read)

    def set_gate(self, gate: SentinelGate, marks: Mapping[int, Mark]) -> None:
        """Replace the gate, and the marks of all rows that are not released.

        Args:
          gate: the new gate.
          marks: row -> mark.
        """
        with self._transaction() as connection:
            quarantine.write_gate(connection, gate, marks)

    def marks(self) -> dict[int, Mark]:
        """Return the marks of all rows, including deleted rows."""
        return quarantine.read_marks(self._read)

    def admitted(self, passages: Sequence[IndexedPassage]) -> dict[int, Mark]:
        """Return the marks of released passages whose title and text equal those in `passages`, by position."""
        return quarantine.admitted(self._read, passages)

    def quarantined(self, limit: int, after: str) -> list[Quarantined]:
        """Return quarantined passages in order of id, from the first id above `after`; the store must have a gate."""
        rows = quarantine.page(self._read, _COLUMNS, limit, after)
        return [Quarantined(_passage(columns), load_verdict(verdict)) for verdict, *columns in rows]

    @contextmanager
    def release(self, ids: Sequence[str]) -> Iterator[Int[np.ndarray, " rows"]]:
        """Admit quarantined passages by id, and yield their rows; other ids are skipped. The store must have a gate.

        The transaction commits when the block ends, and rolls back if the block raises.
        """
        with self._transaction() as connection:
            yield np.asarray(quarantine.release(connection, ids), np.int64)

    def checkpoint(self) -> None:
        """Move everything from the write-ahead log into the file.

        Raises:
          OSError: another connection blocks the checkpoint, or the file cannot be written.
        """
        with self._writing() as connection:
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise OSError(f"{self.path} cannot be written: another process reads it; try again")

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._reader.rows(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the block's error is raised instead
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self._writer is None:
            raise RuntimeError(f"{self.path} was opened for reading only; open the index with writable=True")
        with explained(self.path, "written"):
            yield self._writer


def keys(ids: Iterable[str]) -> UInt64[np.ndarray, " ids"]:
    """Return a number for each id, the same on every machine. It breaks ties, and determines the shard of a passage."""
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
    """Return the first id that occurs earlier in `ids`, or in a live row before `start`."""
    seen: set[str] = set()
    for id in ids:
        earlier = connection.execute("SELECT 1 FROM passages WHERE id = ? AND deleted IS NULL AND row < ?", (id, start))
        if id in seen or earlier.fetchone():
            return id
        seen.add(id)
    raise AssertionError("SQLite rejected ids that are unique")


def _passage(columns: Sequence[Any]) -> IndexedPassage:
    id, text, title, language, metadata = columns
    return IndexedPassage(id, text, title, language, {} if metadata == "{}" else json.loads(metadata))
