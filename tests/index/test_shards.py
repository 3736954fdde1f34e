"""Shards that are searched together find what one index finds, with one of them missing too."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions
from jaxretr.index.shards import ShardedIndex, open_shards
from jaxretr.index.store import keys
from jaxretr.index.types import Answer, Quarantined, TermStatistics
from tests.index import made

OPTIONS = [
    SearchOptions(),
    SearchOptions(k=1),
    SearchOptions(k=500),
    SearchOptions(languages=("ar", "zh")),
    SearchOptions(where={"year": (1, 3), "even": True}),
    SearchOptions(k=12, per_language=4),
    SearchOptions(calibrate=True),
    SearchOptions(k=30, per_language=11, languages=("en", "ar"), where={"year": 2}, calibrate=True),
]


class Unsteady:
    """A shard that may fail, as one in another process would: `trouble` is raised by every method.

    With `after`, the method does its work before that.
    """

    def __init__(self, index: Index):
        self.index = index
        self.trouble: Exception | None = None
        self.after = False

    def search_shard(self, *arguments: Any) -> list[Answer]:
        return self._do(lambda: self.index.search_shard(*arguments))

    def term_statistics(self, *arguments: Any) -> list[TermStatistics]:
        return self._do(lambda: self.index.term_statistics(*arguments))

    def upsert(self, *arguments: Any) -> list[str]:
        return self._do(lambda: self.index.upsert(*arguments))

    def delete(self, ids: Sequence[str]) -> int:
        return self._do(lambda: self.index.delete(ids))

    def quarantine(self, *arguments: Any) -> list[Quarantined]:
        return self._do(lambda: self.index.quarantine(*arguments))

    def release(self, ids: Sequence[str]) -> int:
        return self._do(lambda: self.index.release(ids))

    def compact(self) -> None:
        self._do(self.index.compact)

    def close(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return self._do(self.index.describe)

    @property
    def language_sums(self) -> dict[str, Any]:
        return self._do(lambda: self.index.language_sums)

    def _do(self, work: Callable[[], Any]) -> Any:
        if self.trouble and not self.after:
            raise self.trouble
        done = work()
        if self.trouble:
            raise self.trouble
        return done


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Index]:
    made.build(tmp_path / "one", 400)
    with Index.open(tmp_path / "one", writable=True) as index:
        yield index


@pytest.fixture
def directories(tmp_path: Path) -> list[Path]:
    for shard in range(3):
        made.build(tmp_path / f"shard-{shard}", 400, shard=shard, num_shards=3)
    return [tmp_path / f"shard-{shard}" for shard in (1, 0, 2)]


@pytest.fixture
def shards(directories: Sequence[Path]) -> Iterator[list[Unsteady]]:
    """In their order."""
    opened = [Index.open(directory, writable=True) for directory in sorted(directories)]
    yield [Unsteady(index) for index in opened]
    for index in opened:
        index.close()


def search(index: Any, options: SearchOptions, count: int = 20) -> list[Answer]:
    return index.search(made.vectors(count, seed=7), [options] * count)


def change(indexes: Sequence[Any]) -> None:
    """The same to all: replaced, new and deleted passages, in a new language too, in several steps."""
    for turn in range(4):
        passages = [replace(p, text=f"turn {turn}") for p in made.passages(400)[turn * 10 : turn * 10 + 30]]
        passages += [IndexedPassage(f"new{turn}-{i}", "new", language="fr", metadata={"of": turn}) for i in range(20)]
        gone = [f"p{i}" for i in range(100 + turn * 20, 130 + turn * 20)]
        deleted = set()
        for index in indexes:
            index.upsert(passages, made.vectors(50, seed=turn))
            deleted.add(index.delete([*gone, "never there"]))
        assert len(deleted) == 1


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_shards_in_any_order_find_what_one_index_finds(
    one: Index, directories: Sequence[Path], options: SearchOptions
) -> None:
    together = open_shards(directories)
    assert search(together, options) == search(one, options)
    assert [hit.score for hit in search(one, options)[0].hits], "nothing was compared"
    assert (len(together), dict(together.languages)) == (len(one), one.languages)
    together.close()


@pytest.mark.parametrize("options", [*OPTIONS, SearchOptions(k=60, languages=("fr",), where={"of": (1, 2)})], ids=str)
def test_updates_go_to_their_shards_and_are_found(
    one: Index, shards: Sequence[Unsteady], options: SearchOptions
) -> None:
    together = ShardedIndex(shards)
    change([one, together])
    assert search(together, options) == search(one, options)
    together.compact()
    assert search(together, options) == search(one, options)
    assert together.describe()["since_built"] == {"upserted": 0, "deleted": 0}
    for number, shard in enumerate(shards):
        ids = [hit.passage.id for hit in shard.index.search(made.vectors(1), [SearchOptions(k=10_000)])[0].hits]
        assert len(ids) == len(shard.index) and set(keys(ids) % 3) == {number}


def test_what_another_process_updated_is_known(one: Index, shards: Sequence[Unsteady]) -> None:
    ours, theirs = ShardedIndex(shards), ShardedIndex(shards)
    change([one, theirs])
    calibrated = SearchOptions(k=40, calibrate=True)
    assert search(ours, calibrated) == search(one, calibrated)
    other = ShardedIndex(shards)
    change_of_language = [IndexedPassage(f"x{i}", "x", language="el", metadata={"z": 1}) for i in range(9)]
    for index in (one, other):
        index.upsert(change_of_language, made.vectors(9, seed=9))
    in_greek = SearchOptions(languages=("el",), where={"z": 1})
    assert search(ours, in_greek) == search(one, in_greek)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("trouble", [TimeoutError("slow"), ValueError("the store is damaged")], ids=str)
def test_without_a_shard_answers_are_the_best_of_the_others_and_say_so(
    one: Index, shards: Sequence[Unsteady], options: SearchOptions, trouble: Exception
) -> None:
    together = ShardedIndex(shards)
    shards[1].trouble = trouble
    for whole, answer in zip(
        search(one, replace(options, k=400, per_language=None)), search(together, options), strict=True
    ):
        left = [hit for hit in whole.hits if keys([hit.passage.id])[0] % 3 != 1]
        seen: dict[str, int] = {}
        expected = []
        for hit in left:
            seen[hit.passage.language] = seen.get(hit.passage.language, 0) + 1
            if seen[hit.passage.language] <= (options.per_language or 400):
                expected.append(hit)
        assert list(answer.hits) == expected[: options.k] and answer.missing_shards == (1,)
    shards[1].trouble = None
    assert search(together, options) == search(one, options)


def test_when_no_shard_answers_there_is_no_answer(shards: Sequence[Unsteady]) -> None:
    together = ShardedIndex(shards)
    for shard in shards:
        shard.trouble = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="none of the 3 shards answers"):
        search(together, SearchOptions())


@pytest.mark.parametrize("after", [False, True], ids=["before it wrote", "after it wrote"])
@pytest.mark.parametrize(
    "write",
    [lambda index: change([index]), lambda index: index.delete([f"p{i}" for i in range(50)])],
    ids=["upsert", "delete"],
)
def test_a_write_that_a_shard_did_not_confirm_fails_and_can_be_repeated(
    one: Index, shards: Sequence[Unsteady], after: bool, write: Callable[[Any], Any]
) -> None:
    together = ShardedIndex(shards)
    shards[2].trouble, shards[2].after = ConnectionResetError("killed"), after
    with pytest.raises(ConnectionError, match="shard 2 did not do its part .killed.; repeat the whole request"):
        write(together)
    shards[2].trouble = None
    write(together)
    write(one)
    for options in OPTIONS:
        assert search(together, options) == search(one, options)
    assert dict(together.languages) == one.languages


def test_what_is_refused_is_refused_before_anything_is_written(shards: Sequence[Unsteady], as_users_run: None) -> None:
    together = ShardedIndex(shards)
    new = [IndexedPassage(f"new{i}", "text") for i in range(30)]
    vectors = made.vectors(31)
    with pytest.raises(ValueError, match="the id 'new3' occurs twice"):
        together.upsert([*new, new[3]], vectors)
    with pytest.raises(ValueError, match="finite"):
        together.upsert(new, np.where(np.arange(30)[:, None] == 29, np.nan, vectors[:30]))
    with pytest.raises(ValueError, match=r"expected \[1, 16\]"):
        together.search(np.zeros((1, 8), np.float32), [SearchOptions()])
    with pytest.raises(ValueError, match="no passage has language xx; the index has ar, en, zh"):
        search(together, SearchOptions(languages=("xx",)))
    with pytest.raises(ValueError, match="no passage has metadata colour"):
        search(together, SearchOptions(where={"colour": 1}))
    assert len(together) == sum(len(shard.index) for shard in shards) == 400


def test_shards_that_are_not_all_of_one_index_are_refused(directories: Sequence[Path], tmp_path: Path) -> None:
    for wrong in (directories[:2], [*directories, directories[0]], [directories[0]] * 3, directories[:1]):
        with pytest.raises(ValueError, match="expected all shards of one index"):
            open_shards(wrong)
    made.build(tmp_path / "half", 400, shard=1, num_shards=2)
    with pytest.raises(ValueError, match="got shards 1 of 2, 0 of 3, 2 of 3"):
        open_shards([tmp_path / "half", *directories[1:]])


def test_a_gate_over_shards(directories: Sequence[Path], shards: Sequence[Unsteady]) -> None:
    """Each shard judges its own passages; the answers of all shards form one list."""
    sentinels, vectors = [f"s{i}" for i in range(60)], made.vectors(60, seed=1)
    with pytest.raises(ValueError, match="the index has no gate, so no passage is quarantined; add a gate with"):
        ShardedIndex(shards).quarantine(10)
    for number, shard in enumerate(shards):
        shard.index.set_gate(sentinels, vectors, 0.05)
        if number == 0:
            with pytest.raises(ValueError, match="the shards have different gates"):
                ShardedIndex(shards)
    together = ShardedIndex(shards)
    held = [one.passage.id for one in together.quarantine(1000)]
    assert held == sorted(one.passage.id for shard in shards for one in shard.index.quarantine(1000)) and held
    assert together.describe()["gate"]["quarantined"] == len(held) == 400 - len(together)
    hubs = [IndexedPassage(f"hub{i}", "text", language="en") for i in range(12)]
    rows = np.tile(10 * vectors.mean(0), (12, 1))
    assert together.upsert(hubs, rows) == [passage.id for passage in hubs]
    pages, after = [], ""
    while page := together.quarantine(5, after):
        pages += page
        after = page[-1].passage.id
    assert [one.passage.id for one in pages] == sorted([*held, *(passage.id for passage in hubs)])
    assert together.release(["hub3", "hub4", "unknown"]) == 2
    assert {"hub3", "hub4"} <= {hit.passage.id for hit in search(together, SearchOptions(k=1000))[0].hits}
    assert together.delete(["hub3", "hub5"]) == 2 and len(together.quarantine(1000)) == len(held) + 9
    shards[1].trouble = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="shard 1 does not answer"):
        together.quarantine(5)
