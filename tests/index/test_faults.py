"""Whatever fails while an index is compacted, updated or opened: nothing that was answered is gone."""

import gc
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions, build, database, generation, layout
from jaxretr.index import index as index_module
from jaxretr.index.shards import open_shards
from jaxretr.index.store import Store
from jaxretr.index.types import DamagedIndexError
from tests.index import made

ALL = SearchOptions(k=1000)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built") / "index"
    made.build(directory, 40)
    with Index.open(directory, writable=True) as index:
        upsert(index, "old")
    return directory


@pytest.fixture
def directory(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def upsert(index: Index, *ids: str) -> None:
    index.upsert([IndexedPassage(id, f"text of {id}", language="fr") for id in ids], made.vectors(len(ids), seed=5))


def held(index: Index) -> set[str]:
    """Ids, each of which must come with its own text."""
    (answer,) = index.search(made.vectors(1), [ALL])
    texts = {hit.passage.id: hit.passage.text for hit in answer.hits}
    assert all(text in (f"text of {id}", f"text {id[1:]}") for id, text in texts.items())
    assert len(texts) == len(index) == sum(index.languages.values())
    return set(texts)


BUILT = {f"p{i}" for i in range(40)} | {"old"}


def fail(patch: pytest.MonkeyPatch, calls: list[str], number: int, *, after: bool, stays: bool) -> None:
    """Make one of the system calls that `compact` needs fail, counted from 0.

    Args:
      calls: takes the names of all calls.
      after: the call does its work first.
      stays: all later calls fail, too.
    """

    def failing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            bad = len(calls) > number if stays else len(calls) == number + 1
            if bad and not after:
                raise OSError(5, f"{name} was made to fail")
            done = function(*arguments, **options)
            if bad:
                raise OSError(5, f"{name} was made to fail")
            return done

        return call

    for name in ("fsync", "rename", "replace", "mkdir"):
        patch.setattr(os, name, failing(name, getattr(os, name)))


@pytest.mark.parametrize(
    ("after", "stays"), [(False, False), (True, False), (False, True)], ids=["before", "after", "from then on"]
)
def test_a_system_call_fails_in_compaction(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, stays: bool
) -> None:
    """From the moment that the new generation has been written."""
    number, reached, place = 0, True, layout.place
    while reached:
        directory = Path(shutil.copytree(built, tmp_path / str(number)))
        with Index.open(directory, writable=True) as index:
            answered = BUILT | {"before"}
            upsert(index, "before")
            calls: list[str] = []
            with monkeypatch.context() as patch:

                def then_fail(
                    *arguments: Any, patch: pytest.MonkeyPatch = patch, calls: list[str] = calls, number: int = number
                ) -> Any:
                    fail(patch, calls, number, after=after, stays=stays)
                    return place(*arguments)

                patch.setattr(layout, "place", then_fail)
                with suppress(OSError):  # some calls are not needed
                    index.compact()
                reached = len(calls) > number
                for id in ("while it fails", "and once more"):
                    try:
                        upsert(index, id)
                    except OSError:
                        assert stays
                    else:
                        answered |= {id}
            with Index.open(directory) as reader:  # as after a kill
                assert held(reader) == answered
            upsert(index, "later")
            assert index.delete(["p0", "before"]) == 2
            answered = answered - {"p0", "before"} | {"later"}
            assert held(index) == answered
        with Index.open(directory, writable=True) as index:
            assert held(index) == answered
            index.compact()
            upsert(index, "last")
            assert held(index) == answered | {"last"}
        with Index.open(directory) as index:
            assert held(index) == answered | {"last"}
        assert len(list(directory.iterdir())) == 3
        number += 1
    assert number > 10


def test_too_many_open_files_in_compaction(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int = 0
) -> None:
    """From the moment that the new generation is there to be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    place, failed, spare = layout.place, 0, 0
    while failed == spare:
        directory = Path(shutil.copytree(built, tmp_path / str(spare)))

        def then_no_more(*arguments: Any, spare: int = spare) -> Any:
            about = place(*arguments)
            highest = os.dup(0)
            os.close(highest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
            return about

        with Index.open(directory, writable=True) as index, monkeypatch.context() as patch:
            patch.setattr(layout, "place", then_no_more)
            try:
                index.compact()
            except OSError as error:
                assert "damaged" not in str(error)
                failed += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            upsert(index, "later")
        with Index.open(directory) as index:
            assert held(index) == BUILT | {"later"}
        spare += 1
    assert failed > 3


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, OSError(24, "Too many open files")])
@pytest.mark.parametrize("where", [(index_module, "Generation"), (layout, "switch"), (layout, "place")], ids=str)
def test_compaction_is_interrupted(
    directory: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], error: Any
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise error

    with Index.open(directory, writable=True) as index:
        with monkeypatch.context() as patch, pytest.raises(error if isinstance(error, type) else type(error)):
            patch.setattr(*where, interrupt)
            index.compact()
        assert len(list(directory.iterdir())) == 3, "leftovers stay"
        upsert(index, "later")
    with Index.open(directory) as index:
        assert held(index) == BUILT | {"later"}


@pytest.mark.parametrize("where", ["_without", "keys", "Snapshot", "commit", "after commit"])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_update_is_interrupted(
    directory: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: type[BaseException]
) -> None:
    """It happens or not; memory and disk agree at the next update, which finds the right rows."""

    def interrupt(*_: object, **__: object) -> None:
        raise error

    update = Store.update

    @contextmanager
    def interrupted(*arguments: Any) -> Iterator[Any]:
        with update(*arguments) as change:
            yield change
            if where == "commit":
                raise error
        raise error

    with Index.open(directory, writable=True) as index:
        for change in (lambda: upsert(index, "x", "p1"), lambda: index.delete(["p2", "old"])):
            with monkeypatch.context() as patch, pytest.raises(error):
                if "commit" in where:
                    patch.setattr(Store, "update", interrupted)
                else:
                    patch.setattr(generation, where, interrupt)
                change()
                raise error  # a deletion needs no keys
        upsert(index, "later")
        with Index.open(directory) as reader:
            assert held(reader) == held(index)
        assert held(index) >= BUILT - {"p2", "old"} | {"later"}
        assert index.delete(["p2", "old", "x"]) in (0, 1, 2, 3)
        assert held(index) == BUILT - {"p2", "old"} | {"later"}


def test_a_reader_opens_while_another_process_updates(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it reads is of one moment, at which other updates happen between its statements."""
    snapshot, turn = database.Reader.snapshot, 0

    @contextmanager
    def slow(reader: database.Reader) -> Iterator[Callable[..., Any]]:
        def rows(*arguments: Any) -> Any:
            nonlocal turn
            turn += 1
            found = read(*arguments)
            upsert(writer, f"turn{turn}", "p3")
            writer.delete([f"p{turn + 10}", f"turn{turn - 1}"])
            return found

        with snapshot(reader) as read:
            yield rows

    with Index.open(directory, writable=True) as writer:
        upsert(writer, "before")
        with monkeypatch.context() as patch:
            patch.setattr(database.Reader, "snapshot", slow)
            reader = Index.open(directory)
        with reader:
            assert turn >= 3
            assert held(reader) in (BUILT | {"before"}, BUILT - {"p11"} | {"before", "turn1"})
            assert reader.describe()["passages"] == len(held(reader))
            assert "text of p3" not in {h.passage.text for h in reader.search(made.vectors(1), [ALL])[0].hits}
        assert held(writer) == held(Index.open(directory))


@pytest.mark.parametrize("place", [(layout, "check_files"), (generation, "Vectors"), (generation, "Store")], ids=str)
@pytest.mark.parametrize("gone", [True, False], ids=["old one gone", "old one half gone"])
def test_another_process_compacts_while_it_is_opened(
    directory: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], gone: bool
) -> None:
    original = getattr(*place)
    with Index.open(directory, writable=True) as writer:
        upsert(writer, "before")

        def compact_first(*arguments: Any, **options: Any) -> Any:
            monkeypatch.undo()
            old = directory / writer.about["generation"]
            if gone:
                writer.compact()
            else:  # removed no further than the log
                shutil.copytree(old, directory.parent / "old")
                writer.compact()
                (directory.parent / "old").rename(old)
                for name in ("passages.sqlite-wal", "passages.sqlite-shm"):
                    (old / name).unlink()
            upsert(writer, "after")
            return original(*arguments, **options)

        monkeypatch.setattr(*place, compact_first)
        with Index.open(directory) as reader:
            assert held(reader) == BUILT | {"before", "after"}


def test_another_process_compacts_before_the_lock_is_taken(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = layout.lock

    def compact_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        with Index.open(directory, writable=True) as other:
            upsert(other, "before")
            other.compact()
        return lock(*arguments)

    monkeypatch.setattr(layout, "lock", compact_first)
    with Index.open(directory, writable=True) as index:
        upsert(index, "later")
    with Index.open(directory) as index:
        assert held(index) == BUILT | {"before", "later"}


def test_closing_ends_a_compaction(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, raised = build.write_generation, []
    index = Index.open(directory, writable=True)

    def slowly(*arguments: Any) -> Any:
        closing.start()
        closing.join(0.2)
        assert closing.is_alive(), "close() has left the compaction running"
        return write(*arguments)

    def compact() -> None:
        try:
            index.compact()
        except RuntimeError as error:
            raised.append(str(error))

    monkeypatch.setattr(build, "write_generation", slowly)
    compaction, closing = threading.Thread(target=compact), threading.Thread(target=index.close)
    compaction.start()
    compaction.join(30)
    closing.join(30)
    assert raised == [f"{directory} was closed; open it again"]
    assert len(list(directory.iterdir())) == 3
    with Index.open(directory, writable=True) as other:
        assert held(other) == BUILT


def test_a_closed_index_says_so(directory: Path) -> None:
    index = Index.open(directory, writable=True)
    index.close()
    index.close()
    for use in (lambda: upsert(index, "a"), index.compact, lambda: held(index), index.describe):
        with pytest.raises(RuntimeError, match="closed; open it again"):
            use()


def files() -> list[str]:
    """Names of all files that are open."""
    gc.collect()
    return [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["sums.npy", "passages.sqlite"])
def test_what_fails_to_open_leaves_nothing_open(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also while the error is held, whose traceback holds all that was opened."""
    errors = []

    def nothing_is_open() -> bool:
        return not [file for file in files() if str(tmp_path) in file and file.endswith(("sqlite", "-wal", "lock"))]

    path = directory / "00001" / name
    good = path.read_bytes()
    path.write_bytes(b"?" * len(good))
    for writable in (False, True):
        with pytest.raises(DamagedIndexError, match="damaged") as raised:
            Index.open(directory, writable=writable)
        errors.append(raised)
        assert nothing_is_open()
    path.write_bytes(good)
    with pytest.raises(FileNotFoundError) as raised:
        open_shards([directory, tmp_path / "none"], writable=True)
    errors.append(raised)
    assert nothing_is_open() and not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="expected all shards of one index") as raised_too:
        open_shards([directory, Path(shutil.copytree(directory, tmp_path / "copy"))], writable=True)
    assert nothing_is_open() and raised_too
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError) as raised_last:
        patch.setattr(generation, "_without", lambda *_: 1 / 0)
        Index.open(directory, writable=True)
    assert nothing_is_open() and raised_last
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard")]
    Index.open(directory, writable=True).close()


def test_compaction_leaves_nothing_open(directory: Path) -> None:
    with Index.open(directory, writable=True) as index:
        before = len(files())
        for _ in range(3):
            upsert(index, "x")
            index.compact()
        assert len(files()) == before
    del index
    assert not [file for file in files() if str(directory) in file]
