"""Answers against scoring everything."""

import math
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxretr.index import Index, SearchOptions, approximate, build, search, tuning
from tests.index import made

OPTIONS = [
    SearchOptions(),
    SearchOptions(k=1),
    SearchOptions(k=100),
    SearchOptions(k=5_000),
    SearchOptions(languages=("ar",)),
    SearchOptions(languages=("ar", "zh"), where={"year": 3}),
    SearchOptions(where={"year": (1, 2), "even": True}, k=30),
    SearchOptions(where={"year": 77}),
    SearchOptions(per_language=2),
    SearchOptions(per_language=4, k=12, where={"even": False}),
    SearchOptions(calibrate=True),
    SearchOptions(calibrate=True, per_language=3, k=9, where={"year": (0, 4)}),
]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    directory = tmp_path_factory.mktemp("exact") / "index"
    there, rows = made.build(directory, 1_200, segment_size=500)
    return Index.open(directory), there, rows


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_exact_search_finds_what_scoring_everything_finds(exact: tuple, options: SearchOptions) -> None:
    index, there, rows = exact
    queries = made.vectors(6, seed=2)
    for query, answer in zip(queries, index.search(queries, [options] * 6), strict=True):
        wanted = made.expected(query, there, rows, options)
        assert [hit.passage.id for hit in answer.hits] == [id for id, _ in wanted]
        np.testing.assert_allclose([hit.score for hit in answer.hits], [score for _, score in wanted], atol=2e-7)


@given(
    k=st.integers(1, 60),
    languages=st.sets(st.sampled_from(made.LANGUAGES)),
    year=st.sets(st.integers(0, 5), max_size=3),
    per_language=st.none() | st.integers(1, 8),
    calibrate=st.booleans(),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_options(
    exact: tuple, k: int, languages: set, year: set, per_language: int | None, calibrate: bool, seed: int
) -> None:
    index, there, rows = exact
    where = {"year": tuple(sorted(year))} if year else {}
    options = SearchOptions(k, tuple(sorted(languages)), where, per_language, calibrate)
    query = made.vectors(1, seed=seed)
    (answer,) = index.search(query, [options])
    wanted = made.expected(query[0], there, rows, options)
    np.testing.assert_allclose([hit.score for hit in answer.hits], [score for _, score in wanted], atol=2e-7)
    assert [hit.passage.id for hit in answer.hits] == [id for id, _ in wanted]


def test_queries_of_a_batch_have_options_of_their_own(exact: tuple) -> None:
    index, there, rows = exact
    queries = made.vectors(len(OPTIONS), seed=3)
    together = index.search(queries, OPTIONS)
    for query, options, answer in zip(queries, OPTIONS, together, strict=True):
        assert answer == index.search(query[None], [options])[0]
        assert [hit.passage.id for hit in answer.hits] == [i for i, _ in made.expected(query, there, rows, options)]


def test_equal_scores_fall_by_key_however_many_there_are(tmp_path: Path) -> None:
    there, rows = made.passages(300), np.repeat(made.vectors(3), 100, axis=0)
    build.build_from_vectors(tmp_path / "index", there, rows, made.vectors(4), made.ENCODER)
    with Index.open(tmp_path / "index") as index:
        (answer,) = index.search(rows[:1], [SearchOptions(k=20)])
    assert [hit.passage.id for hit in answer.hits] == [
        i for i, _ in made.expected(rows[0], there, rows, SearchOptions(20))
    ]


def test_vectors_of_any_length_that_nearly_tie_come_in_the_order_of_their_scores(tmp_path: Path) -> None:
    """A float32 product of vectors this long is off by some 1e-3, and their scores differ by less."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, 384)).astype(np.float32) * 30
    rows = (query * (1 + 1e-7 * rng.standard_normal((400, 384)))).astype(np.float32)
    there, encoder = made.passages(400), made.ENCODER | {"dim": 384}
    build.build_from_vectors(tmp_path / "index", there, rows, query, encoder)
    with Index.open(tmp_path / "index") as index:
        for sign in (1, -1):
            (answer,) = index.search(sign * query, [SearchOptions(k=10)])
            assert [hit.passage.id for hit in answer.hits] == [
                i for i, _ in made.expected(sign * query[0], there, rows, SearchOptions(10))
            ]


def test_a_passage_just_below_the_candidates_still_counts_if_its_language_costs_less() -> None:
    """The first seventeen are of a language that calibration sets back by more than they are ahead."""
    products = np.float32([0.9] * 16 + [0.9 - 0.9e-5, 0.9 - 1.1e-5] + [0.1] * 100)
    vectors = np.zeros((len(products), 16), np.float32)
    vectors[:, 0] = products
    language = np.uint16([0] * 17 + [1] * 101)
    keys = np.arange(len(products), dtype=np.uint64)
    part = search.Part(0, vectors, None, language, keys, np.ones(len(products), bool))
    snapshot = search.Snapshot((part,), ("set back", "other"), np.zeros((2, 16)), np.array([17, 101]))
    query, means = np.zeros((1, 16), np.float32), np.zeros((2, 16), np.float32)
    query[0, 0], means[0, 0] = 1, 1.5e-5
    options = SearchOptions(k=1, calibrate=True)
    (found,) = search.search(snapshot, query, [options], matching=None, means=means)
    assert found.rows.tolist() == [17]


def test_masks_of_many_filters_are_right_for_every_thread() -> None:
    rows, filters = 600, 40
    languages = tuple(f"l{number}" for number in range(filters))
    language = (np.arange(rows) % filters).astype(np.uint16)
    part = search.Part(
        0, np.zeros((rows, 2), np.float32), None, language, np.arange(rows, dtype=np.uint64), np.ones(rows, bool)
    )
    snapshot = search.Snapshot((part,), languages, np.zeros((filters, 2)), np.bincount(language))

    def ask(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, filters, 500).tolist():
            (mask,) = snapshot.allowed(SearchOptions(languages=(languages[number],)), None)
            np.testing.assert_array_equal(mask, language == number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
    finally:
        sys.setswitchinterval(before)


@pytest.fixture(scope="class")
def scann(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    if not approximate.available():
        pytest.skip("ScaNN has no wheels for this platform")
    with pytest.MonkeyPatch.context() as patch:
        for module in (build, search):
            patch.setattr(module, "EXACT_UP_TO", 400)
        directory = tmp_path_factory.mktemp("scann") / "index"
        there, rows = made.build(directory, 4_000, segment_size=3_000, target_recall=0.97)
        yield Index.open(directory), there, rows


def test_scann_reaches_the_recall_asked_for(scann: tuple) -> None:
    opened, there, rows = scann
    queries = made.vectors(200, seed=5)
    answers = opened.search(queries, [SearchOptions()] * 200)
    share = [
        len({hit.passage.id for hit in answer.hits} & {i for i, _ in made.expected(q, there, rows, SearchOptions())})
        for q, answer in zip(queries, answers, strict=True)
    ]
    assert all(part.searcher for part in opened._snapshot.parts[:2])
    assert opened.about["measured"]["recall@10"] > 0.9
    assert np.mean(share) / 10 > 0.9


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_scann_filters_quotas_and_calibration_hold(scann: tuple, options: SearchOptions) -> None:
    opened, there, rows = scann
    queries = made.vectors(40, seed=6)
    found = wanted = 0  # of forty queries, since the settings were tuned on fifty only
    for query, answer in zip(queries, opened.search(queries, [options] * 40), strict=True):
        true = dict(made.expected(query, there, rows, options))
        assert len(answer.hits) == len(true)
        found += sum(hit.passage.id in true for hit in answer.hits)
        wanted += len(true)
        for hit in answer.hits:
            assert hit.score == pytest.approx(true.get(hit.passage.id, hit.score), abs=2e-7)
    assert found >= 0.9 * wanted


def test_scann_s_scores_are_those_of_exact_search(scann: tuple) -> None:
    opened, there, rows = scann
    query = made.vectors(1, seed=7)
    position = {passage.id: row for row, passage in enumerate(there)}
    for hit in opened.search(query, [SearchOptions(k=50)])[0].hits:
        assert hit.score == np.float32(rows[position[hit.passage.id]].astype(float) @ query[0].astype(float))


def test_a_batch_is_searched_at_once_with_the_leaves_it_was_tuned_to(
    scann: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, _, _ = scann
    calls: list[tuple[int, int]] = []
    whole = approximate.ScannSearcher.search

    def counted(self, queries, depth, settings=None):  # type: ignore[no-untyped-def]
        calls.append((len(queries), settings.num_leaves_to_search))
        return whole(self, queries, depth, settings)

    monkeypatch.setattr(approximate.ScannSearcher, "search", counted)
    of_parts = [segment["scann"] for segment in opened.about["segments"]]
    tuned = [each["num_leaves_to_search"] for each in of_parts]
    opened.search(made.vectors(50), [SearchOptions()] * 50)
    assert calls[: len(tuned)] == [(50, leaves) for leaves in tuned]

    calls.clear()
    shutil.copytree(opened.directory, tmp_path / "index")
    with Index.open(tmp_path / "index", writable=True) as index:
        index.delete(["p1"])
        index.search(made.vectors(50), [SearchOptions()] * 50)
    # With one passage less, the tenth of the others may be the eleventh of all.
    assert calls[0] == (50, math.ceil(tuned[0] * 1.1 ** of_parts[0]["leaves_growth"]))


@pytest.mark.skipif(not approximate.available(), reason="ScaNN has no wheels for this platform")
def test_clusters_that_are_tight_do_not_hide_those_that_are_loose(tmp_path: Path) -> None:
    """With leaves that are not spherical .84 to .85 is found, with spherical ones .865 to .905, by chance."""

    def drawn(count: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        centres, cluster = np.random.default_rng(99).standard_normal((40, 32)), rng.integers(0, 40, count)
        made = centres[cluster] + np.where(cluster % 2, 0.2, 1.5)[:, None] * rng.standard_normal((count, 32))
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    rows, queries = drawn(5_000, seed=0), drawn(300, seed=1)
    settings = approximate.ScannSettings.for_size(len(rows))
    truth, recalls = np.argsort(-queries @ rows.T, axis=1)[:, :10], []
    for number in range(7):
        directory = tmp_path / str(number)
        directory.mkdir()
        approximate.build_scann(rows, settings, "float32", directory)
        found, _ = approximate.ScannSearcher(directory, settings).search(queries, 10)
        recalls.append(tuning.recall(found, truth))
    assert np.median(recalls) > 0.86


def test_a_target_is_reached_if_other_queries_reach_it_too() -> None:
    truth = np.tile(np.arange(10), (26, 1))
    found = truth.copy()
    found[::2, 0] = 99  # recalls of .9 and 1: mean .95, standard error .05 / sqrt(25) = .01
    assert tuning.recall(found, truth) == pytest.approx(0.95)
    assert tuning.surely_reaches(found, truth, 0.95 - 1.65 * 0.01)
    assert not tuning.surely_reaches(found, truth, 0.95 - 1.64 * 0.01)
    assert tuning.surely_reaches(truth, truth, 1.0)


class Pretended(tuning.Searchers):
    """Finds the more of the true passages, 0 to 99, the more leaves are searched and candidates scored again.

    `clock` goes on by what a search costs.
    """

    def __init__(self, best: float):
        self.best, self.clock, self.tried = best, 0.0, [0.0]

    def search(self, queries: np.ndarray, depth: int, share: float | None = None, reordering: int = 0) -> np.ndarray:
        if depth == 10:
            self.tried.append(share)
        self.clock += share + reordering / 10_000
        hits = int(depth * min(self.best, 10 * share * min(1.0, reordering / 100) * (10 / depth) ** 0.5))
        return np.tile(np.where(np.arange(depth) < hits, np.arange(depth), -1), (len(queries), 1))


@pytest.mark.parametrize("best", [1.0, 0.5])
def test_tuning_finds_the_fewest_leaves_of_the_cheapest_settings(monkeypatch: pytest.MonkeyPatch, best: float) -> None:
    index = Pretended(best)
    monkeypatch.setattr(tuning.time, "process_time", lambda: index.clock)
    tuned = tuning.tune(index, np.zeros((5, 4), np.float32), np.tile(np.arange(100), (5, 1)), 0.9)
    if best < 0.9:
        assert tuned == (1.0, 2_000, 0.0)
    else:
        assert tuned.reordering == 100
        assert 0.09 <= tuned.share < 0.09 * 1.25
        assert tuned.growth == pytest.approx(0.5, abs=0.1)
        assert max(index.tried) < 0.3, "what is slow is not tried in vain"


def test_what_is_refused(exact: tuple) -> None:
    index, _, _ = exact
    query = made.vectors(1)
    with pytest.raises(ValueError, match="no passage has language xx; the index has ar, en, zh"):
        index.search(query, [SearchOptions(languages=("xx",))])
    with pytest.raises(ValueError, match="no passage has metadata colour; the index has even, year"):
        index.search(query, [SearchOptions(where={"colour": "red"})])
    with pytest.raises(ValueError, match=r"queries have shape \(1, 8\)"):
        index.search(query[:, :8], [SearchOptions()])
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        SearchOptions(k=0)


def test_one_and_the_text_one_and_true_are_different_values(tmp_path: Path) -> None:
    there = [
        made.IndexedPassage(str(number), "text", metadata={"value": value})
        for number, value in enumerate([1, "1", True])
    ]
    build.build_from_vectors(tmp_path / "index", there, made.vectors(3), made.vectors(4), made.ENCODER)
    with Index.open(tmp_path / "index") as index:
        for number, value in enumerate([1, "1", True]):
            (answer,) = index.search(made.vectors(1), [SearchOptions(where={"value": value})])
            assert [hit.passage.id for hit in answer.hits] == [str(number)]
