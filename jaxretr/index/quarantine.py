"""Tables of an index's store for its gate and for the rows that the gate holds back.

A mark belongs to a row of the table of passages. Rows are never overwritten, so replacing or deleting a passage ends
its quarantine. A released mark records that the passage is admitted. All functions take part in the transaction of the
caller: a connection that writes, or a function that returns the rows of a statement.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxretr.index.gate import SentinelGate
from jaxretr.index.types import IndexedPassage

Read = Callable[..., list[Any]]
"""Returns the rows of a statement with values."""

# Created with the first gate, so that a store without a gate needs no change of its format.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS gate (settings TEXT NOT NULL, vectors BLOB NOT NULL, kth BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS quarantine (row INTEGER PRIMARY KEY, verdict TEXT NOT NULL, released INTEGER NOT NULL)",
)
_LIVE = "quarantine JOIN passages USING (row) WHERE passages.deleted IS NULL"
_HELD = f"{_LIVE} AND NOT released"


class Mark(NamedTuple):
    """What the store records about a passage that the gate rejected.

    Attributes:
      verdict: the result of `gate.dump_verdict`.
      released: whether the passage is admitted nevertheless.
    """

    verdict: str
    released: bool


def exists(read: Read) -> bool:
    """Return whether the store has a gate."""
    return bool(read("SELECT 1 FROM sqlite_master WHERE name = 'gate'"))


def read_gate(read: Read) -> SentinelGate | None:
    """Return the gate, or None."""
    return SentinelGate.load(*read("SELECT settings, vectors, kth FROM gate")[0]) if exists(read) else None


def write_gate(connection: sqlite3.Connection, gate: SentinelGate, marks: Mapping[int, Mark]) -> None:
    """Replace the gate and the marks of all rows. Rows that were released stay admitted."""
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("DELETE FROM gate")
    connection.execute("INSERT INTO gate VALUES (?, ?, ?)", gate.dump())
    connection.execute("DELETE FROM quarantine WHERE NOT released")
    write_marks(connection, marks)


def write_marks(connection: sqlite3.Connection, marks: Mapping[int, Mark]) -> None:
    """Add marks to rows that have none."""
    rows = ((row, *mark) for row, mark in marks.items())
    connection.executemany("INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?)", rows)


def held_rows(read: Read) -> list[int]:
    """Return the rows of passages that are quarantined."""
    return [row for (row,) in read(f"SELECT row FROM {_HELD} ORDER BY row")] if exists(read) else []


def read_marks(read: Read) -> dict[int, Mark]:
    """Return the marks of all rows."""
    rows = read("SELECT row, verdict, released FROM quarantine") if exists(read) else []
    return {row: Mark(verdict, bool(released)) for row, verdict, released in rows}


def released_ids(read: Read, revision: int) -> list[str]:
    """Return the ids of admitted passages that were added at most at this revision."""
    return (
        [id for (id,) in read(f"SELECT id FROM {_LIVE} AND released AND revision <= ?", (revision,))]
        if exists(read)
        else []
    )


def page(read: Read, columns: str, limit: int, after: str) -> list[Any]:
    """Return the verdict and `columns` of quarantined passages, in order of id, from the first id above `after`."""
    return read(f"SELECT verdict, {columns} FROM {_HELD} AND id > ? ORDER BY id LIMIT ?", (after, limit))


def admitted(read: Read, passages: Sequence[IndexedPassage]) -> dict[int, Mark]:
    """Return the marks of released passages that keep their text, by position in `passages`."""
    if not exists(read) or not read("SELECT 1 FROM quarantine WHERE released LIMIT 1"):
        return {}
    found = {}
    for position, passage in enumerate(passages):
        for title, text, verdict in read(
            f"SELECT title, text, verdict FROM {_LIVE} AND released AND id = ?", (passage.id,)
        ):
            if (title, text) == (passage.title, passage.text):
                found[position] = Mark(verdict, True)
    return found


def release(connection: sqlite3.Connection, ids: Sequence[str]) -> list[int]:
    """Admit quarantined passages and return their rows; ids that are not quarantined are skipped."""
    rows: list[int] = []
    for id in ids:
        found = connection.execute(f"SELECT row FROM {_HELD} AND id = ?", (id,)).fetchall()
        rows += [row for (row,) in found]
        connection.executemany("UPDATE quarantine SET released = 1 WHERE row = ?", found)
    return rows
