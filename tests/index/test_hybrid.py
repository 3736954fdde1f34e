"""Answers to queries with a lexical part, against scoring everything: updates, filters, shards, crashes, the gate."""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxretr.index import Index, IndexedPassage, SearchOptions, build, fusion, layout
from jaxretr.index import index as index_module
from jaxretr.index.shards import ShardedIndex, open_shards
from jaxretr.index.store import keys
from jaxretr.index.types import LexicalQuery
from tests.index import made
from tests.index.test_power_cut import power_cuts

WORDS = [f"w{number}" for number in range(30)]


def passages(count: int, prefix: str = "p", seed: int = 0) -> list[IndexedPassage]:
    """With made-up words, some of them frequent."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 31)
    drawn = [rng.choice(WORDS, rng.integers(1, 12), p=weights / weights.sum()) for _ in range(count)]
    return [
        replace(passage, text=" ".join(words))
        for passage, words in zip(made.passages(count, prefix), drawn, strict=True)
    ]


def bm25(query: LexicalQuery, there: Sequence[IndexedPassage]) -> dict[str, float]:
    """Scores above 0 by id, one passage after the other."""
    documents = {p.id: Counter(p.full_text.split()) for p in there if p.language == query.language}
    mean = sum(one.total() for one in documents.values()) / max(1, len(documents))
    scores: dict[str, float] = {}
    for term in dict.fromkeys(query.text.split()):
        holders = sum(term in one for one in documents.values())
        idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
        for id, one in documents.items():
            if one[term]:
                norm = 1.2 * (0.25 + 0.75 * one.total() / mean)
                scores[id] = scores.get(id, 0) + idf * one[term] / (one[term] + norm)
    return {id: float(np.float32(score)) for id, score in scores.items()}


def expected(
    vector: np.ndarray, there: Sequence[IndexedPassage], rows: np.ndarray, options: SearchOptions
) -> list[tuple[str, float]]:
    """Ids and fused scores, from the two lists of everything."""
    query, depth = options.lexical, max(100, options.k)
    assert query is not None
    everything = made.expected(vector, there, rows, replace(options, k=10**6, per_language=None))
    by_vectors = [id for id, _ in everything[:depth]]
    by_vectors += [id for id, _ in made.expected(vector, there, rows, options) if id not in by_vectors]
    vectors, words = dict(everything), bm25(query, there)
    by_words = sorted((id for id in words if id in vectors), key=lambda id: (-words[id], keys([id])[0]))[:depth]
    candidates = {*by_vectors, *by_words}
    if query.fusion == "rrf":
        scores = dict.fromkeys(candidates, 0.0)
        for ranking in (by_vectors, by_words):
            for rank, id in enumerate(ranking, start=1):
                scores[id] += 1 / (60 + rank)
    else:
        weight = 0.5 if query.weight is None else query.weight
        scaled = []
        for values in (vectors, words):
            raw = [values.get(id, 0.0) for id in candidates]
            width = max(raw) - min(raw) or math.inf
            scaled.append({id: (value - min(raw)) / width for id, value in zip(candidates, raw, strict=True)})
        scores = {id: (1 - weight) * scaled[0][id] + weight * scaled[1][id] for id in candidates}
    found, seen = [], Counter[str]()
    language = {p.id: p.language for p in there}
    for id in sorted(candidates, key=lambda id: (-scores[id], -vectors[id], keys([id])[0])):
        seen[language[id]] += 1
        if options.per_language is None or seen[language[id]] <= options.per_language:
            found.append((id, scores[id]))
    return found[: options.k]


def check(
    index: Index | ShardedIndex,
    there: Sequence[IndexedPassage],
    rows: np.ndarray,
    options: SearchOptions,
    seed: int = 0,
) -> None:
    query = made.vectors(1, seed=seed)
    (answer,) = index.search(query, [options])
    wanted = expected(query[0], there, rows, options)
    np.testing.assert_allclose([hit.score for hit in answer.hits], [score for _, score in wanted], atol=2e-6)
    if options.lexical is not None and options.lexical.fusion == "rrf":
        assert [hit.passage.id for hit in answer.hits] == [id for id, _ in wanted]
    stored = {passage.id: passage for passage in there}
    assert all(hit.passage == stored[hit.passage.id] for hit in answer.hits)


def lexical(text: str = "w3 w9 w1", language: str = "en", **options: object) -> SearchOptions:
    fusion_options = {name: options.pop(name) for name in ("fusion", "weight") if name in options}
    return SearchOptions(lexical=LexicalQuery(text, language, **fusion_options), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[IndexedPassage], np.ndarray]:
    directory = tmp_path_factory.mktemp("built") / "index"
    there, rows = passages(700), made.vectors(700)
    options = build.BuildOptions(segment_size=300)
    build.build_from_vectors(directory, there, rows, made.vectors(9), made.ENCODER, options, lexical=True)
    return directory, there, rows


@pytest.fixture(scope="module")
def opened(built: tuple) -> tuple:
    directory, there, rows = built
    return Index.open(directory), there, rows


@given(
    text=st.lists(st.sampled_from([*WORDS, "never"]), max_size=5).map(" ".join),
    language=st.sampled_from([*made.LANGUAGES, "xx"]),
    fusion=st.sampled_from(["rrf", "convex"]),
    weight=st.none() | st.floats(0, 1),
    k=st.integers(1, 60),
    languages=st.sets(st.sampled_from(made.LANGUAGES)),
    year=st.sets(st.integers(0, 4), max_size=3),
    per_language=st.none() | st.integers(1, 8),
    calibrate=st.booleans(),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_options(
    opened: tuple,
    text: str,
    language: str,
    fusion: str,
    weight: float | None,
    k: int,
    languages: set,
    year: set,
    per_language: int | None,
    calibrate: bool,
    seed: int,
) -> None:
    index, there, rows = opened
    where = {"year": tuple(sorted(year))} if year else {}
    options = SearchOptions(k, tuple(sorted(languages)), where, per_language, calibrate)
    query = LexicalQuery(text, language, fusion, weight if fusion == "convex" else None)  # type: ignore[arg-type]
    check(index, there, rows, replace(options, lexical=query), seed)


def test_more_than_a_hundred_and_batches_with_and_without_words(opened: tuple) -> None:
    index, there, rows = opened
    check(index, there, rows, lexical(k=250))
    mixed = [lexical(), SearchOptions(), lexical("w2", "ar", fusion="convex", weight=0.2), SearchOptions(k=3)]
    queries = made.vectors(4, seed=3)
    for query, options, answer in zip(queries, mixed, index.search(queries, mixed), strict=True):
        assert answer == index.search(query[None], [options])[0]
        if options.lexical is None:
            assert [hit.passage.id for hit in answer.hits] == [i for i, _ in made.expected(query, there, rows, options)]


def test_without_a_common_word_the_vectors_decide(opened: tuple) -> None:
    index, _, _ = opened
    query = made.vectors(1, seed=8)
    (plain,) = index.search(query, [SearchOptions()])
    for options in (lexical("never"), lexical(language="xx"), lexical("", fusion="convex")):
        assert [hit.passage for hit in index.search(query, [options])[0].hits] == [hit.passage for hit in plain.hits]


class Mirror:
    """What the index should hold."""

    def __init__(self, there: Sequence[IndexedPassage], rows: np.ndarray):
        self.there = {passage.id: (passage, row) for passage, row in zip(there, rows, strict=True)}

    def churn(self, index: Index, seed: int) -> None:
        rng = np.random.default_rng(seed)
        new, rows = passages(25, f"new{seed}-", seed), made.vectors(25, seed=seed)
        old = rng.choice(sorted(self.there), 12, replace=False).tolist()
        new = [replace(p, id=id) for p, id in zip(new, old, strict=False)] + new[len(old) :]
        index.upsert(new, rows)
        self.there |= {passage.id: (passage, row) for passage, row in zip(new, rows, strict=True)}
        gone = rng.choice(sorted(self.there), 10, replace=False).tolist()
        index.delete(gone)
        for id in gone:
            del self.there[id]

    def check(self, index: Index) -> None:
        there, rows = zip(*self.there.values(), strict=True)
        for number, options in enumerate([lexical(), lexical("w1 w2 w7", "ar", k=30, per_language=9, calibrate=True)]):
            check(index, there, np.stack(rows), options, seed=number)


def test_updates_count_now_after_opening_again_and_after_compaction(built: tuple, tmp_path: Path) -> None:
    directory, there, rows = built
    directory, mirror = Path(shutil.copytree(directory, tmp_path / "index")), Mirror(there, rows)
    with Index.open(directory, writable=True) as index:
        for seed in range(4):
            mirror.churn(index, seed)
            mirror.check(index)
    with Index.open(directory, writable=True) as index:
        mirror.check(index)
        mirror.churn(index, 5)
        index.compact()
        mirror.check(index)
        mirror.churn(index, 6)
        mirror.check(index)
    with Index.open(directory) as index:
        mirror.check(index)


def test_a_reader_keeps_its_answers_while_another_process_writes(built: tuple, tmp_path: Path) -> None:
    directory, there, rows = built
    directory = Path(shutil.copytree(directory, tmp_path / "index"))
    with Index.open(directory) as reader, Index.open(directory, writable=True) as writer:
        before = reader.search(made.vectors(1), [lexical()])
        Mirror(there, rows).churn(writer, 1)
        assert writer.search(made.vectors(1), [lexical()]) != before
        assert reader.search(made.vectors(1), [lexical()]) == before


def test_a_lexical_part_is_added_without_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, there, rows = tmp_path / "index", passages(80), made.vectors(80)
    build.build_from_vectors(directory, there, rows, made.vectors(4), made.ENCODER, build.BuildOptions(segment_size=30))
    mirror = Mirror(there, rows)
    with Index.open(directory, writable=True) as index:
        mirror.churn(index, 1)
        with pytest.raises(ValueError, match="no lexical part.*jaxretr build-index --index DIR --lexical"):
            index.search(made.vectors(1), [lexical()])
        with monkeypatch.context() as patch:
            patch.setattr(index_module.layout, "switch", _raise)
            with pytest.raises(OSError, match="made to fail"):
                index.add_lexical()
        assert not index.has_lexical
        mirror.churn(index, 2)
        index.add_lexical()
        assert index.has_lexical and index.describe()["lexical"]
        index.add_lexical()
        mirror.check(index)
    with Index.open(directory) as index:
        mirror.check(index)


def _raise(*_: object) -> None:
    raise OSError("made to fail")


def test_quarantined_passages_are_neither_found_nor_counted(tmp_path: Path) -> None:
    there, rows = passages(200), made.vectors(200)
    build.build_from_vectors(tmp_path / "index", there, rows, made.vectors(4), made.ENCODER, lexical=True)
    with Index.open(tmp_path / "index", writable=True) as index:
        sentinels = made.vectors(60, seed=1)
        index.set_gate([f"s{i}" for i in range(60)], sentinels, 0.05)
        hubs = [IndexedPassage(f"hub{i}", "w3 w9 w29", language="en") for i in range(3)]
        assert index.upsert(hubs, np.tile(10 * sentinels.mean(0), (3, 1))) == ["hub0", "hub1", "hub2"]
        held = {one.passage.id for one in index.quarantine(1000)}
        served = [number for number, passage in enumerate(there) if passage.id not in held]
        live, live_rows = [there[number] for number in served], rows[served]
        check(index, live, live_rows, lexical("w3 w29", k=40))
        index.release(["hub1"])
        live, live_rows = [*live, hubs[1]], np.concatenate([live_rows, 10 * sentinels.mean(0)[None]])
        check(index, live, live_rows, lexical("w3 w29", k=40))
        (answer,) = index.search(made.vectors(1), [lexical("w29", k=40)])
        assert {"hub1"} == {hit.passage.id for hit in answer.hits if hit.passage.id.startswith("hub")}


SHARDED = [
    lexical(),
    lexical("w2 w5", "zh", fusion="convex", k=300),
    lexical(k=12, per_language=4, calibrate=True),
    lexical("w1", "ar", languages=("ar", "en"), where={"year": (1, 3)}),
    SearchOptions(k=7),
]


def test_shards_find_what_one_index_finds(tmp_path: Path) -> None:
    there, rows = passages(400), made.vectors(400)
    shard_of = keys(passage.id for passage in there) % 3

    def built(name: str, mine: np.ndarray, *, words: bool = True, **options: int) -> Path:
        arguments = (there, rows[mine], made.vectors(4), made.ENCODER, build.BuildOptions(**options))
        build.build_from_vectors(tmp_path / name, *arguments, lexical=words)
        return tmp_path / name

    directories = [built(f"s{n}", shard_of == n, words=n > 0, shard=n, num_shards=3) for n in range(3)]
    queries = made.vectors(len(SHARDED), seed=4)
    with Index.open(built("one", shard_of >= 0), writable=True) as one:
        together = open_shards(directories, writable=True)
        assert isinstance(together, ShardedIndex)
        with pytest.raises(ValueError, match="the index has no lexical part"):
            together.search(queries, SHARDED)
        together._shards[0].add_lexical()  # type: ignore[attr-defined]
        assert together.search(queries, SHARDED) == one.search(queries, SHARDED)
        for index in (one, together):
            index.upsert(passages(60, "n", seed=9), made.vectors(60, seed=9))
            index.delete([f"p{number}" for number in range(50)])
        answers = one.search(queries, SHARDED)
        assert together.search(queries, SHARDED) == answers
        ids = {hit.passage.id for answer in answers for hit in answer.hits}
        assert any(id.startswith("n") for id in ids) and not ids & {f"p{number}" for number in range(50)}
        together.close()


def test_candidates_of_vectors_and_words_are_scored_by_both(opened: tuple) -> None:
    index, there, rows = opened
    options = lexical("w29", k=5)
    query = made.vectors(1, seed=6)
    (answer,) = index.search_shard(query, [options])
    words, vectors = bm25(options.lexical, there), dict(made.expected(query[0], there, rows, SearchOptions(k=10**6)))  # type: ignore[arg-type]
    assert len(answer.hits) > fusion.depth(options)
    for hit in answer.hits:
        assert hit.score == hit.vector_score == pytest.approx(vectors[hit.passage.id], abs=1e-6)
        assert hit.lexical_score == pytest.approx(words.get(hit.passage.id, 0), rel=1e-6)


@pytest.mark.slow
def test_a_power_cut_at_any_moment_leaves_words_and_passages_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, there, rows = tmp_path / "disk", passages(12), made.vectors(12)
    build.build_from_vectors(root / "index", there, rows, made.vectors(4), made.ENCODER)
    phase = {"lexical": {False}}

    def check_left(left: Path) -> None:
        with Index.open(left / "index") as index:
            assert index.has_lexical in phase["lexical"]
            (answer,) = index.search(made.vectors(1), [SearchOptions(k=100)])
            live = [hit.passage for hit in answer.hits]
            if index.has_lexical:
                (words,) = index.search(made.vectors(1), [lexical(k=100)])
                scores = bm25(LexicalQuery("w3 w9 w1", "en"), live)
                assert {hit.passage.id: hit.lexical_score for hit in words.hits} == {
                    passage.id: pytest.approx(scores.get(passage.id, 0), rel=1e-6) for passage in live
                }

    def step(change: Callable[[], object], *states: bool) -> None:
        phase["lexical"] = {*states}
        change()

    with (
        power_cuts(root, monkeypatch, tmp_path / "left", check_left) as checked,
        Index.open(root / "index", writable=True) as index,
    ):
        step(lambda: index.upsert(passages(5, "n"), made.vectors(5)), False)
        step(index.add_lexical, False, True)
        step(lambda: index.upsert(passages(5, "m", seed=3), made.vectors(5)), True)
        step(lambda: index.delete(["p1", "m2"]), True)
        step(index.compact, True)
        step(lambda: index.upsert(passages(3, "l", seed=4), made.vectors(3)), True)
    assert len(checked) > 20
    assert layout.read_about(root / "index")["lexical"]
