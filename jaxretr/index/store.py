"""The passages of an index and what became of them, in one SQLite file: nothing that was answered is ever lost.

Passages have row numbers. The first rows came with the index, and their vectors stand in files beside it; later rows
were upserted and bring their vectors along. A row is written once; replacing a passage marks its row as deleted and
adds another. So a reader that began before goes on with what it saw, and compaction can tell what happened meanwhile.
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

from jaxretr.index.database import Reader, explained, open_writer
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
# Rows are added in the order of the revisions, so the last one has the highest.
_REVISION = """
SELECT max(coalesce((SELECT revision FROM passages ORDER BY row DESC LIMIT 1), 0),
  coalesce((SELECT max(deleted) FROM passages WHERE deleted IS NOT NULL), 0))
"""
# JSON tells the kind of a value by its first character; every range is one look into the table's primary key.
_KINDS_OF_KEY = """
SELECT EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value >= '"' AND value < '#'),
  EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value >= '-' AND value < ':'),
  EXISTS (SELECT 1 FROM metadata WHERE key = ? AND value IN ('true', 'false'))
"""
_VARIABLES = 30_000  # of one statement; SQLite's limit is 32,766


@dataclass(frozen=True)
class Change:
    """What an update did: rows that were added, with the vectors and keys given, and rows that were taken out."""

    added: range
    deleted: Int[np.ndarray, " rows"]


class State(NamedTuple):
    """What became of a store since it was built, as of one moment.

    Attributes:
      revision: number of the last update.
      languages, keys, vectors: of the rows that were upserted, in their order.
      deleted: numbers of all rows that were taken out.
    """

    revision: int
    languages: list[str]
    keys: UInt64[np.ndarray, " rows"]
    vectors: Float32[np.ndarray, "rows dim"]
    deleted: Int[np.ndarray, " deleted"]


class Store:
    """Passages on disk; may be used from several threads.

    Args:
      path: the file.
      create: make it, to be written; else it must be there.
      writable: open it to be updated, which one process at a time may do. A store that is only read is never written
        to, so it may lie on a read-only volume.
      durable: an update is on the disk when it returns, so that a power cut does not lose it. Without, a power cut may
        lose the last updates, but leaves a whole file.

    Raises:
      FileNotFoundError: the file is missing.
      DamagedIndexError: it is no such file, or damaged.
      OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, create: bool = False, writable: bool = False, durable: bool = True):
        self.path = path
        if not create and not path.is_file():
            raise FileNotFoundError(f"{path} is missing; restore the index, or build it anew")
        self._writer: sqlite3.Connection | None = None
        with ExitStack() as opened:
            if create or writable:
                self._writer = opened.enter_context(closing(open_writer(path, durable=durable)))
                with self._writing() as connection:
                    if create and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                        connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            # Closed before the writer: the last connection moves the log into the file, which only the writer can do.
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

    def state(self, start: int, dim: int) -> State:
        """What became of the store since it was built with rows up to `start`, in one read transaction.

        The next update has the revision that follows.
        """
        with self._reader.snapshot() as rows:
            added = rows("SELECT language, id, vector FROM passages WHERE row >= ? ORDER BY row", (start,))
            deleted = rows("SELECT row FROM passages WHERE deleted IS NOT NULL")
            self.revision = rows(_REVISION)[0][0]
        vectors = np.frombuffer(b"".join(vector for *_, vector in added), np.float32).reshape(len(added), dim)
        languages = [language for language, *_ in added]
        gone = np.asarray(deleted, np.int64).reshape(-1)
        return State(self.revision, languages, keys(id for _, id, _ in added), vectors, gone)

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

    @contextmanager
    def update(
        self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"], deleted: Sequence[str]
    ) -> Iterator[Change]:
        """Take out the passages of some ids, then add or replace passages: when the block ends, unless it raises.

        All of it is then on the disk, or nothing.

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
            yield Change(range(start, start + len(passages)), np.asarray(gone, np.int64))
        self.revision = revision

    def changes_since(self, revision: int) -> tuple[list[str], list[tuple[IndexedPassage, np.ndarray]]]:
        """What leads from the state after `revision` to the present one: ids to take out, then passages to add."""
        with self._reader.snapshot() as rows:
            deleted = rows("SELECT DISTINCT id FROM passages WHERE deleted > ? AND revision <= ?", (revision, revision))
            added = rows(
                f"SELECT vector, {_COLUMNS} FROM passages WHERE revision > ? AND deleted IS NULL ORDER BY row",
                (revision,),
            )
        return [id for (id,) in deleted], [(_passage(row), np.frombuffer(vector, np.float32)) for vector, *row in added]

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
        """Move everything from the log into the file.

        Raises:
          OSError: another connection is in the way, or the file cannot be written.
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
                with suppress(sqlite3.Error):  # that of the block is raised
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self._writer is None:
            raise RuntimeError(f"{self.path} was opened to be read; open the index to be written")
        with explained(self.path, "written"):
            yield self._writer


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
