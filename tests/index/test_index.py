"""Updates of an index, what survives, and what is refused."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions, build, layout
from tests.index import made

TOP = SearchOptions(k=25)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made.build(tmp_path / "index", 300, segment_size=120)
    return tmp_path / "index"


class Mirror:
    """What the index should hold, as a dictionary."""

    def __init__(self) -> None:
        rows = made.vectors(300)
        self.there = {passage.id: (passage, rows[number]) for number, passage in enumerate(made.passages(300))}

    def upsert(self, passages: list[IndexedPassage], vectors: np.ndarray) -> None:
        for passage, vector in zip(passages, vectors, strict=True):
            self.there[passage.id] = (passage, vector)

    def check(self, index: Index, options: SearchOptions = TOP, seed: int = 11) -> None:
        passages, rows = zip(*self.there.values(), strict=True)
        assert len(index) == len(passages)
        queries = made.vectors(5, seed=seed)
        for query, answer in zip(queries, index.search(queries, [options] * 5), strict=True):
            wanted = made.expected(query, passages, np.stack(rows), options)
            assert [hit.passage.id for hit in answer.hits] == [id for id, _ in wanted]
            np.testing.assert_allclose([hit.score for hit in answer.hits], [score for _, score in wanted], atol=1e-6)
            assert all(hit.passage == self.there[hit.passage.id][0] for hit in answer.hits)


def churn(index: Index, mirror: Mirror, seed: int = 0) -> None:
    """Adds, replaces and deletes."""
    rng = np.random.default_rng(seed)
    for turn in range(6):
        new = made.passages(30, prefix=f"new{seed}-{turn}-")
        old = [
            IndexedPassage(
                str(id), f"again {turn}", language=["ar", "fr"][turn % 2], metadata={"year": 9, "even": True}
            )
            for id in rng.choice(sorted(mirror.there), 20, replace=False)
        ]
        rows = made.vectors(50, seed=100 * seed + turn)
        index.upsert(new + old, rows)
        mirror.upsert(new + old, rows)
        gone = [str(id) for id in rng.choice(sorted(mirror.there), 15, replace=False)]
        assert index.delete([*gone, "never there"]) == 15
        for id in gone:
            del mirror.there[id]


@pytest.mark.parametrize(
    "options", [SearchOptions(k=25), SearchOptions(k=8, languages=("fr",)), SearchOptions(k=8, calibrate=True)], ids=str
)
def test_updates_are_found_now_after_opening_again_and_after_compaction(
    directory: Path, options: SearchOptions
) -> None:
    mirror = Mirror()
    with Index.open(directory, writable=True) as index:
        churn(index, mirror)
        mirror.check(index, options)
    with Index.open(directory, writable=True) as index:
        mirror.check(index, options)
        churn(index, mirror, seed=1)
        index.compact()
        mirror.check(index, options)
        assert index.describe()["since_built"] == {"upserted": 0, "deleted": 0}
        churn(index, mirror, seed=2)
        mirror.check(index, options)
    with Index.open(directory) as index:
        mirror.check(index, options)
    assert sorted(path.name for path in directory.iterdir()) == ["00002", "index.json", "lock"]


def test_updates_and_searches_during_compaction_are_neither_lost_nor_wrong(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, began, go_on = Mirror(), threading.Event(), threading.Event()
    write = build.write_generation

    def slowly(*args: object) -> object:
        began.set()
        assert go_on.wait(30)
        return write(*args)

    monkeypatch.setattr(build, "write_generation", slowly)
    with Index.open(directory, writable=True) as index:
        churn(index, mirror)
        compaction = threading.Thread(target=index.compact)
        compaction.start()
        assert began.wait(30)
        churn(index, mirror, seed=1)
        mirror.check(index)
        go_on.set()
        compaction.join()
        mirror.check(index)
    with Index.open(directory) as index:
        mirror.check(index)


def test_a_reader_sees_the_index_as_it_was_when_it_was_opened(directory: Path) -> None:
    mirror = Mirror()
    with Index.open(directory) as reader, Index.open(directory, writable=True) as writer:
        before = reader.search(made.vectors(5), [SearchOptions()] * 5)
        churn(writer, mirror)
        writer.compact()
        assert reader.search(made.vectors(5), [SearchOptions()] * 5) == before


def test_searches_from_many_threads_while_it_is_updated(directory: Path) -> None:
    mirror, wrong = Mirror(), []
    stop = threading.Event()

    def ask(index: Index) -> None:
        query = made.vectors(1, seed=3)
        while not stop.is_set():
            (answer,) = index.search(query, [SearchOptions(k=10)])
            scores = [hit.score for hit in answer.hits]
            ids = [hit.passage.id for hit in answer.hits]
            if len(set(ids)) != 10 or scores != sorted(scores, reverse=True):
                wrong.append(ids)

    with Index.open(directory, writable=True) as index:
        threads = [threading.Thread(target=ask, args=(index,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        churn(index, mirror)
        index.compact()
        churn(index, mirror, seed=1)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        mirror.check(index)


WRITER = """
import sys, numpy as np
from pathlib import Path
from jaxretr.index import Index, IndexedPassage
index = Index.open(Path(sys.argv[1]), writable=True)
for number in range(100_000):
    index.upsert([IndexedPassage(f"w{number}", f"text {number}")], np.full((1, 16), 0.25, np.float32))
    print(number, flush=True)
    if number % 40 == 39:
        index.compact()
"""


def test_what_was_answered_survives_kill_9(directory: Path) -> None:
    confirmed = -1
    for moment in (5, 41, 60):  # in the middle of a compaction too
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE, text=True, env=os.environ
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= moment:
                    break
            writer.send_signal(signal.SIGKILL)
            rest = [int(line) for line in writer.stdout.read().split()]
        confirmed = max([confirmed, moment, *rest])
        with Index.open(directory) as index:
            (answer,) = index.search(np.full((1, 16), 0.25, np.float32), [SearchOptions(k=500)])
            found = {hit.passage.id for hit in answer.hits}
        assert {f"w{number}" for number in range(confirmed + 1)} <= found
        assert 300 + confirmed + 1 <= len(index) <= 300 + confirmed + 2


def test_a_full_disk_changes_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, connections, connect = Mirror(), [], sqlite3.connect

    def recorded(*arguments: object, **options: object) -> sqlite3.Connection:
        connections.append(connect(*arguments, **options))  # type: ignore[call-overload]
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    with Index.open(directory, writable=True) as index:
        for connection in connections:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match=r"cannot be written \(database or disk is full\); nothing has changed"):
            index.upsert([IndexedPassage(f"n{i}", "x" * 10_000) for i in range(50)], made.vectors(50))
        mirror.check(index)
        for connection in connections:
            connection.execute("PRAGMA max_page_count = 1000000")
        churn(index, mirror)
        mirror.check(index)


def test_one_process_updates(directory: Path) -> None:
    with Index.open(directory, writable=True), pytest.raises(RuntimeError, match="another process updates"):
        Index.open(directory, writable=True)
    with Index.open(directory) as index, pytest.raises(RuntimeError, match="opened for reading only"):
        index.delete(["p0"])


def test_what_is_refused(directory: Path) -> None:
    with Index.open(directory, writable=True) as index:
        twice = [IndexedPassage("a", "x"), IndexedPassage("a", "y")]
        with pytest.raises(ValueError, match="the id 'a' occurs twice"):
            index.upsert(twice, made.vectors(2))
        with pytest.raises(ValueError, match=r"vectors of shape \(2, 8\) for 1 passages"):
            index.upsert(twice[:1], made.vectors(2, dim=8))
        with pytest.raises(ValueError, match="expected finite numbers"):
            index.upsert(twice[:1], np.full((1, 16), np.nan, np.float32))
        Mirror().check(index)


@pytest.mark.parametrize("name", ["vectors-00001.npy", "languages.npy", "keys.npy", "sums.npy", "passages.sqlite"])
@pytest.mark.parametrize("how", ["cut", "gone", "garbage"])
def test_damage_is_told(directory: Path, name: str, how: str) -> None:
    path = directory / "00001" / name
    if how == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if how == "cut" else b"?" * len(data))
    with pytest.raises((ValueError, FileNotFoundError), match="rebuild it|damaged"):
        index = Index.open(directory)
        index.search(made.vectors(1), [SearchOptions(k=300)])


def test_another_version_and_half_an_index_are_told(directory: Path, tmp_path: Path) -> None:
    about = json.loads((directory / layout.INDEX).read_text())
    (directory / layout.INDEX).write_text(json.dumps(about | {"version": 2}))
    with pytest.raises(ValueError, match="has format jaxretr-index, version 2; expected jaxretr-index, version 1"):
        Index.open(directory)
    (directory / layout.INDEX).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Index.open(directory)
    (directory / layout.INDEX).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no index \(no index.json\)"):
        Index.open(directory)
    (directory / layout.BUILD).mkdir()
    with pytest.raises(FileNotFoundError, match="is unfinished; run the same build command to resume it"):
        Index.open(directory)


def test_it_may_be_moved(directory: Path, tmp_path: Path) -> None:
    shutil.move(directory, tmp_path / "elsewhere")
    with Index.open(tmp_path / "elsewhere") as index:
        Mirror().check(index)
