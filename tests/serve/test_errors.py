"""What clients are told of errors of the index."""

import sqlite3
from pathlib import Path

import pytest

from jaxretr.serve.errors import index_error
from tests.serve.fakes import damaged


def of_sqlite(path: Path, statements: str) -> OSError:
    """What SQLite raises, as an index passes it on: with the file, and SQLite's error as the cause."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        with pytest.raises(sqlite3.Error) as raised:
            for statement in statements.split(";"):
                connection.execute(statement)
    finally:
        connection.close()
    error = OSError(f"{path} cannot be written ({raised.value})")
    error.__cause__ = raised.value
    return error


FULL = "PRAGMA max_page_count = 3; CREATE TABLE t (v); INSERT INTO t VALUES (zeroblob(100000))"
READ_ONLY = "PRAGMA query_only = ON; CREATE TABLE t (v)"


@pytest.mark.parametrize(
    ("error", "reading", "writing"),
    [
        (ValueError("no passage has language xx"), 422, 422),
        (damaged(), 500, 500),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "/srv/index"), 500, 500),
        (sqlite3.DatabaseError("/srv/index is malformed"), 500, 500),
        (OSError(28, "no space for /srv/index"), 503, 507),
        (OSError(122, "no quota for /srv/index"), 503, 507),
        (OSError(24, "Too many open files", "/srv/index"), 503, 503),
        (OSError("/srv/index"), 503, 503),
        (TimeoutError("/srv/index"), 503, 503),
        (sqlite3.OperationalError("/srv/index is locked"), 503, 503),
        (ConnectionResetError(104, "/srv/index"), 503, 503),
        (RuntimeError("/srv/index was closed"), 500, 500),
        (KeyError("/srv/index"), 500, 500),
        (MemoryError("/srv/index"), 500, 500),
    ],
)
def test_the_status_says_whose_fault_it_is_and_the_message_names_no_path(
    error: Exception, reading: int, writing: int
) -> None:
    answers = {status: index_error(error, writing=write) for write, status in ((False, reading), (True, writing))}
    for status, answer in answers.items():
        assert answer.status == status and "/srv" not in answer.message and "sqlite" not in answer.message
        assert (answer.fault is error) == (status >= 500)
        assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_full_disk_and_a_read_only_one_by_what_sqlite_says(tmp_path: Path) -> None:
    for statements, status in ((FULL, 507), (READ_ONLY, 503)):
        answer = index_error(of_sqlite(tmp_path / "passages.sqlite", statements), writing=True)
        assert answer.status == status and "nothing was changed" in answer.message
        assert str(tmp_path) not in answer.message


def test_only_the_message_for_clients_is_passed_on_of_a_shard() -> None:
    error = ConnectionError("shard 1 did not do its part (/srv/index is full); repeat the whole request")
    error.__cause__ = OSError("/srv/index is full")
    answer = index_error(error, writing=True)
    assert answer.status == 503 and answer.message == "shard 1 did not do its part; repeat the whole request"
    assert answer.fault is error
