"""The gate: right scores and thresholds, and a quarantine that no update, compaction or kill loses."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from jaxretr.index import Index, IndexedPassage, SearchOptions, build, layout
from jaxretr.index.build import BuildOptions, build_index
from jaxretr.index.corpus import read_sentinels
from jaxretr.index.gate import SentinelGate, calibrate, dump_verdict, load_verdict
from jaxretr.index.types import Verdict
from tests.index import made
from tests.index.test_power_cut import Stub, power_cuts

ALL = SearchOptions(k=10_000)
RATE = 0.05
SENTINELS = [f"sentinel {i}" for i in range(60)]
QUERIES = made.vectors(60, seed=1)
HUB = 10 * QUERIES.mean(0)
CLEAN = -HUB


def axes(*counts: int) -> np.ndarray:
    """Passages that score 0.5 for the first `count` of twenty sentinels, the unit vectors, and 0 for the others."""
    return np.where(np.arange(20) < np.asarray(counts)[:, None], 0.5, 0).astype(np.float32)


@pytest.fixture(scope="module")
def by_hand() -> tuple[SentinelGate, dict[int, Verdict]]:
    """200 English passages that answer one sentinel each, and five Thai passages for each count from 1 to 20."""
    english = np.repeat(np.eye(20, dtype=np.float32) / 2, 10, axis=0)
    thai = axes(*np.repeat(np.arange(1, 21), 5))
    languages = ["en"] * 200 + ["th"] * 100
    return calibrate(SENTINELS[:20], np.eye(20, dtype=np.float32), np.concatenate([english, thai]), languages, RATE)


def test_scores_and_thresholds_by_hand(by_hand: tuple[SentinelGate, dict[int, Verdict]]) -> None:
    gate, verdicts = by_hand
    np.testing.assert_array_equal(gate.kth, np.full(20, 0.5))

    def score(count: int) -> float:
        return count + 0.5 + np.arctan(np.float64(np.float32(count * 0.5 / 20))) / np.pi

    assert gate.thresholds == {"en": 2.0, "th": pytest.approx(score(19))}  # 5 of 100 Thai passages are above 19
    assert gate.pooled_threshold == pytest.approx(score(17))  # 15 of 300 passages are above 17
    assert sorted(verdicts) == [295, 296, 297, 298, 299]
    one = verdicts[295]
    assert one == Verdict(20, one.score, gate.thresholds["th"], "th", tuple(SENTINELS[:3]))
    assert one.score == pytest.approx(score(20))


@pytest.mark.parametrize(
    ("language", "admitted", "rejected"), [("en", 1, 2), ("th", 19, 20), ("el", 17, 18)], ids=["floor", "own", "pooled"]
)
def test_verdicts_by_hand(
    by_hand: tuple[SentinelGate, dict[int, Verdict]], language: str, admitted: int, rejected: int
) -> None:
    gate, _ = by_hand
    verdicts = gate.judge(axes(admitted, rejected, 0), [language] * 3)
    assert list(verdicts) == [1]
    assert (verdicts[1].count, verdicts[1].language) == (rejected, None if language == "el" else language)
    just_below = np.nextafter(axes(rejected), np.float32(0))
    assert gate.judge(just_below, [language]) == {}  # not among the ten best of any sentinel
    for one in verdicts.values():
        assert load_verdict(dump_verdict(one)) == one


def test_ties_are_broken_by_the_mean_similarity(by_hand: tuple[SentinelGate, dict[int, Verdict]]) -> None:
    gate, _ = by_hand
    nearer = axes(19)
    nearer[0, 19] = 0.25  # answers 19 sentinels, as the threshold does, and is closer to the twentieth
    assert list(gate.judge(np.concatenate([axes(19), nearer]), ["th", "th"])) == [1]


def test_a_gate_is_stored_exactly(by_hand: tuple[SentinelGate, dict[int, Verdict]]) -> None:
    gate, _ = by_hand
    again = SentinelGate.load(*gate.dump())
    assert again.describe() == gate.describe() and again.sentinels == gate.sentinels
    np.testing.assert_array_equal(again.vectors, gate.vectors)
    np.testing.assert_array_equal(again.kth, gate.kth)


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_the_false_positive_rate_is_near_the_wanted_rate(rate: float) -> None:
    rows = made.vectors(12_000, dim=32)
    languages = np.asarray(made.LANGUAGES)[np.arange(12_000) % 3]
    queries = made.vectors(12_000, seed=1, dim=32)[:300]
    gate, verdicts = calibrate([f"s{i}" for i in range(300)], queries, rows[:6_000], languages[:6_000].tolist(), rate)
    new = gate.judge(rows[6_000:], languages[6_000:].tolist())
    for language in made.LANGUAGES:
        own_rate, new_rate = (
            np.mean([row in rejected for row in range(6_000) if languages[row] == language])
            for rejected in (verdicts, new)
        )
        assert 0.9 * rate <= own_rate <= rate
        assert 0.5 * rate <= new_rate <= 1.6 * rate


def test_a_verdict_depends_on_the_passage_alone() -> None:
    """Neither on how the passages are batched, nor on what is added before."""
    gate, verdicts = calibrate(SENTINELS, QUERIES, made.vectors(500), ["en"] * 500, RATE)
    rows = made.vectors(500)
    assert gate.judge(rows, ["en"] * 500) == verdicts
    one_by_one = {i: gate.judge(rows[i : i + 1], ["en"]) for i in range(500)}
    assert {i: found[0] for i, found in one_by_one.items() if found} == verdicts


def test_what_is_refused(tmp_path: Path) -> None:
    rows = made.vectors(50)
    for sentinels, queries, rate, message in (
        ([], QUERIES[:0], RATE, "there is no sentinel query"),
        (SENTINELS, QUERIES, 0.0, "false-positive rate is 0.0; expected more than 0 and less than 1"),
        (SENTINELS, QUERIES, 1.0, "false-positive rate is 1.0"),
        (SENTINELS, QUERIES, float("nan"), "false-positive rate is nan"),
        (SENTINELS, QUERIES[:, :8], RATE, r"vectors of shape \(60, 8\) for 60 sentinel queries"),
        (SENTINELS, np.full_like(QUERIES, np.nan), RATE, "expected finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate(sentinels, queries, rows, ["en"] * 50, rate)
    made.build(tmp_path / "index", 50)
    with Index.open(tmp_path / "index", writable=True) as index:
        for use in (lambda: index.quarantine(1), lambda: index.release(["p1"])):
            with pytest.raises(ValueError, match="has no gate, so no passage is quarantined; add a gate with `jaxretr"):
                use()
        assert index.describe()["gate"] is None
        index.delete([f"p{i}" for i in range(50)])
        with pytest.raises(ValueError, match="no passage to set thresholds from"):
            index.set_gate(SENTINELS, QUERIES)
    with Index.open(tmp_path / "index") as index, pytest.raises(RuntimeError, match="opened for reading only"):
        index.set_gate(SENTINELS, QUERIES)


def test_sentinels_are_read_from_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("1\tfirst\n2\tsecond\n3\tfirst\n")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n{"_id": "2", "text": "second"}\n')
    assert read_sentinels(tmp_path / "a.tsv", RATE) == read_sentinels(tmp_path / "a.jsonl", RATE) == ["first", "second"]
    (tmp_path / "b.tsv").write_text("1\tfirst\tmore\n")
    with pytest.raises(ValueError, match=r"b.tsv, line 1: expected 2 columns, found 3"):
        read_sentinels(tmp_path / "b.tsv", RATE)
    (tmp_path / "c.tsv").write_text("")
    with pytest.raises(ValueError, match=r"c.tsv holds no query"):
        read_sentinels(tmp_path / "c.tsv", RATE)


# ---- In an index ----


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gated") / "index"
    made.build(directory, 300, segment_size=120)
    with Index.open(directory, writable=True) as index:
        index.set_gate(SENTINELS, QUERIES, RATE)
    return directory


@pytest.fixture
def directory(gated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gated, tmp_path / "index"))


class Expected:
    """What the index should serve and hold back: id -> text."""

    def __init__(self, index: Index):
        self.held = {one.passage.id: one.passage.text for one in index.quarantine(1000)}
        self.served = {p.id: p.text for p in made.passages(300) if p.id not in self.held}
        self.admitted: set[str] = set()

    def upsert(self, index: Index, *ids: str, text: str, hub: bool) -> None:
        rows = np.tile(HUB if hub else CLEAN, (len(ids), 1))
        held = [id for id in ids if hub and not (id in self.admitted and self.served[id] == text)]
        new = [IndexedPassage(id, text, language="en", metadata={"year": 1}) for id in ids]
        assert index.upsert(new, rows) == held
        for id in ids:
            if id in held or self.served.get(id) != text:
                self.admitted.discard(id)
            self.held.pop(id, None), self.served.pop(id, None)
            (self.held if id in held else self.served)[id] = text

    def delete(self, index: Index, *ids: str) -> None:
        assert index.delete(ids) == sum(id in self.held or id in self.served for id in ids)
        for id in ids:
            self.held.pop(id, None), self.served.pop(id, None)
            self.admitted.discard(id)

    def release(self, index: Index, *ids: str) -> None:
        assert index.release(ids) == sum(id in self.held for id in ids)
        for id in {*ids} & self.held.keys():
            self.served[id] = self.held.pop(id)
            self.admitted.add(id)

    def check(self, index: Index) -> None:
        (answer,) = index.search(QUERIES[:1], [ALL])
        assert {hit.passage.id: hit.passage.text for hit in answer.hits} == self.served
        assert {one.passage.id: one.passage.text for one in index.quarantine(1000)} == self.held
        about = index.describe()
        assert about["gate"]["quarantined"] == len(self.held)
        assert about["passages"] == len(index) == sum(index.languages.values()) == len(self.served)
        (calibrated,) = index.search(QUERIES[:1], [SearchOptions(k=3, calibrate=True)])
        sums = {name: total / count for name, (total, count) in index.language_sums.items() if count}
        assert len(calibrated.hits) == 3 and all(np.isfinite(mean).all() for mean in sums.values())


def test_the_own_passages_above_the_threshold_are_quarantined(directory: Path) -> None:
    with Index.open(directory) as index:
        expected = Expected(index)
        expected.check(index)
        about = index.describe()
        assert about["since_built"] == {"upserted": 0, "deleted": 0}
        assert 0 < len(expected.held) <= 300 * RATE
        gate, verdicts = calibrate(
            SENTINELS, QUERIES, made.vectors(300), [passage.language for passage in made.passages(300)], RATE
        )
        assert {one.passage.id: one.verdict for one in index.quarantine(1000)} == {
            f"p{row}": verdict for row, verdict in verdicts.items()
        }
        assert about["gate"] == gate.describe() | {"quarantined": len(verdicts)}
        assert [one.passage.id for one in index.quarantine(2, sorted(expected.held)[0])] == sorted(expected.held)[1:3]


def script(index: Index, expected: Expected) -> Iterator[None]:
    """Every kind of change, with a stop after each."""
    first = next(iter(expected.held))
    for change in (
        lambda: expected.upsert(index, "h1", "h2", "h3", "p5", text="hub", hub=True),
        lambda: expected.upsert(index, "c1", text="clean", hub=False),
        lambda: expected.release(index, "h1", "p5", "c1", "unknown", first),
        lambda: expected.upsert(index, "h1", "h2", text="hub", hub=True),  # h1 keeps its text, so it stays admitted
        lambda: expected.upsert(index, "h1", text="other", hub=True),
        lambda: expected.upsert(index, "p5", text="other", hub=False),
        lambda: expected.upsert(index, "h1", text="hub", hub=True),  # as before the change, but no longer admitted
        lambda: expected.upsert(index, "h2", text="better", hub=False),
        lambda: expected.delete(index, "h3", "c1", "p7"),
        lambda: expected.upsert(index, "h3", text="hub", hub=True),
        lambda: expected.release(index, "h3"),
        lambda: expected.delete(index, "h3"),
        lambda: expected.upsert(index, "h3", text="hub", hub=True),
    ):
        change()
        yield


def test_updates(directory: Path) -> None:
    with Index.open(directory, writable=True) as index:
        expected = Expected(index)
        for _ in script(index, expected):
            expected.check(index)
            with Index.open(directory) as reader:
                expected.check(reader)
    with Index.open(directory, writable=True) as index:
        expected.check(index)
        sums = index.language_sums
        index.compact()
        expected.check(index)
        for name, (total, count) in index.language_sums.items():
            assert count == sums[name][1]
            np.testing.assert_allclose(total, sums[name][0], atol=1e-4)
        assert index.describe()["since_built"] == {"upserted": 0, "deleted": 0}


def test_every_compaction_keeps_the_quarantine(directory: Path) -> None:
    with Index.open(directory, writable=True) as index:
        expected = Expected(index)
        for _ in script(index, expected):
            index.compact()
            expected.check(index)
    with Index.open(directory) as index:
        expected.check(index)


def test_changes_during_a_compaction(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_generation = build.write_generation
    with Index.open(directory, writable=True) as index:
        expected = Expected(index)
        expected.upsert(index, "h1", "h2", "h4", text="hub", hub=True)
        expected.release(index, "h4")

        def meanwhile(*arguments: object) -> object:
            for _ in script(index, expected):
                pass
            expected.upsert(index, "h4", text="other", hub=True)
            expected.upsert(index, "h4", text="hub", hub=True)  # the text that was admitted, but judged again
            return write_generation(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(build, "write_generation", meanwhile)
            index.compact()
        assert "h4" in expected.held
        expected.check(index)
    with Index.open(directory, writable=True) as index:
        expected.check(index)
        expected.release(index, "h4")
        expected.upsert(index, "h4", text="hub", hub=True)
        expected.check(index)


def test_a_new_gate_judges_all_but_released_passages(directory: Path) -> None:
    with Index.open(directory, writable=True) as index:
        expected = Expected(index)
        before = dict(expected.held)
        index.set_gate(SENTINELS, QUERIES, RATE)
        expected.check(index)  # the same gate, the same quarantine
        released = sorted(before)[0]
        expected.release(index, released)
        index.set_gate(SENTINELS, QUERIES, RATE)
        expected.check(index)
        index.set_gate(SENTINELS[:1], QUERIES[:1], RATE)  # no passage answers more than one sentinel
        assert index.quarantine(10) == [] and len(index) == 300
    with Index.open(directory) as index:
        assert index.describe()["gate"]["sentinels"] == 1 and len(index) == 300


WRITER = """
import sys, numpy as np
from pathlib import Path
from jaxretr.index import Index, IndexedPassage
from tests.index.test_gate import HUB
index = Index.open(Path(sys.argv[1]), writable=True)
for number in range(100_000):
    assert index.upsert([IndexedPassage(f"w{number}", f"text {number}", language="en")], HUB[None]) == [f"w{number}"]
    if number % 3 == 0:
        index.release([f"w{number}"])
    print(number, flush=True)
    if number % 40 == 39:
        index.compact()
"""


@pytest.mark.slow
def test_the_quarantine_survives_kill_9(directory: Path) -> None:
    for moment in (5, 41, 60):  # in the middle of a compaction too
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE, text=True, env=os.environ
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= moment:
                    break
            writer.send_signal(signal.SIGKILL)
            confirmed = max([moment, *(int(line) for line in writer.stdout.read().split())])
        with Index.open(directory, writable=True) as index:
            (answer,) = index.search(QUERIES[:1], [ALL])
            served = {hit.passage.id for hit in answer.hits if hit.passage.id[0] == "w"}
            held = {one.passage.id for one in index.quarantine(1000) if one.passage.id[0] == "w"}
            assert {f"w{number}" for number in range(0, confirmed + 1, 3)} <= served
            assert {f"w{number}" for number in range(confirmed + 1) if number % 3} <= held
            assert not served & held and all(int(id[1:]) % 3 == 0 for id in served)
            index.delete([*served, *held])


def test_the_quarantine_survives_power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk"
    made.build(root / "index", 60, segment_size=25)
    may_serve: set[str] = set()
    must_serve: set[str] = set()
    gated = False

    def check(left: Path) -> None:
        with Index.open(left / "index") as index:
            (answer,) = index.search(QUERIES[:1], [ALL])
            served = {hit.passage.id for hit in answer.hits if hit.passage.id[0] == "h"}
            assert must_serve <= served <= may_serve
            assert not gated or index.describe()["gate"] is not None

    with (
        power_cuts(root, monkeypatch, tmp_path / "left", check),
        Index.open(root / "index", writable=True) as index,
    ):
        index.set_gate(SENTINELS, QUERIES, RATE)
        gated = True
        hubs = [IndexedPassage(f"h{i}", "hub") for i in range(4)]
        assert index.upsert(hubs, np.tile(HUB, (4, 1))) == ["h0", "h1", "h2", "h3"]
        may_serve.add("h1")
        index.release(["h1"])
        must_serve.add("h1")
        index.compact()
        may_serve.add("h2")
        index.release(["h2"])
        must_serve.add("h2")


def test_a_build_with_sentinels(tmp_path: Path) -> None:
    def make(sentinels: Sequence[str], rate: float = RATE, **more: bool) -> dict:
        return build_index(
            tmp_path / "index",
            lambda: made.passages(60),
            Stub(),
            source="made",
            model="stub",
            sentinels=sentinels,
            false_positive_rate=rate,
            options=BuildOptions(segment_size=25, storage="int8"),
            **more,
        )

    with pytest.raises(ValueError, match="false-positive rate is 1.5"):
        make(["a"], 1.5)
    assert not (tmp_path / "index" / layout.INDEX).exists()
    built = make(["a", "bb", "ccc"])
    assert make(["a", "bb", "ccc"]) == built  # it exists already
    with Index.open(tmp_path / "index") as index:
        gate = index.describe()["gate"]
        assert (gate["sentinels"], gate["false_positive_rate"]) == (3, RATE)
        assert len(index) == 60 - gate["quarantined"]
    for sentinels, rate in ((["a", "bb"], RATE), (["a", "bb", "ccc"], 0.5), ([], RATE)):
        with pytest.raises(FileExistsError, match="holds a different index .*gate"):
            make(sentinels, rate)
    make([], overwrite=True)
    with Index.open(tmp_path / "index") as index:
        assert index.describe()["gate"] is None
    assert "gate" not in layout.read_about(tmp_path / "index")["made_from"]  # as builds without a gate always were
