import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxretr.eval.evaluate import Ranking, evaluate
from jaxretr.types import Passage, PassageStore, RetrievalSet

MakeSet = Callable[..., tuple[RetrievalSet, dict[str, np.ndarray]]]


def lookup(texts: dict[str, np.ndarray]) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda some: np.stack([texts[text] for text in some])


# One direction a concept, one a language: every text scores its translations below texts of its own language.
TINY = {
    "one": [1, 0, 0, 0.5, 0, 0], "eins": [1, 0, 0, 0, 0.5, 0], "un": [1, 0, 0, 0, 0, 0.5],
    "two": [0, 1, 0, 0.5, 0, 0], "zwei": [0, 1, 0, 0, 0.5, 0],
    "First answer one": [1, 0, 0, 4, 0, 0], "answer two": [0, 1, 0, 4, 0, 0],
    "Antwort eins": [1, 0, 0, 0, 4, 0], "Antwort drei": [0, 0, 1, 0, 4, 0], "réponse une": [1, 0, 0, 0, 0, 4],
}  # fmt: skip


def encode_tiny(texts: Sequence[str]) -> np.ndarray:
    return np.array([TINY[text] for text in texts], np.float32)


def test_a_biased_system_by_hand(tiny: RetrievalSet) -> None:
    results = evaluate(tiny, encode_tiny, encode_tiny, measures=("AP", "R@1"))
    assert results.settings["mono"].measures == pytest.approx({"AP": 1, "R@1": 1})
    assert results.settings["cross"].measures == pytest.approx({"AP": 1, "R@1": 1})
    multi = results.settings["multi"]
    by_language = {task.query_language: task.measures for task in multi.tasks}
    # en q1 scores en:p1 3, en:p2 2, de:p1 = fr:p1 1, de:p3 0; the tie goes to fr:p1. Ranks 1, 3, 4.
    # en q2 scores en:p2 3, en:p1 2 and the rest 0.
    assert by_language["en"] == pytest.approx(
        {
            "AP": ((1 + 2 / 3 + 3 / 4) / 3 + 1) / 2,
            "R@1": (1 / 3 + 1) / 2,
            "rank_distance": 3,  # q1's; q2 has one answer
            "Max@R": (4 + 1) / 2,
            "Max@R_norm": (100 * np.log(5 / 4) / np.log(5 / 3) + 100) / 2,
            "own_language_share@10": 2 / 5,
            "PEER": math.nan,
        },
        nan_ok=True,
    )
    # de q1 scores de:p1 3, de:p3 2, fr:p1 = en:p1 1, en:p2 0. Ranks 1, 3, 4.
    # de q2 scores de:p3 = de:p1 2, en:p2 1: the one answer has rank 3, and no distance.
    assert by_language["de"]["AP"] == pytest.approx(((1 + 2 / 3 + 3 / 4) / 3 + 1 / 3) / 2)
    assert by_language["de"]["rank_distance"] == 3
    # fr q1 scores fr:p1 3, en:p1 = de:p1 1: ranks 1, 2, 3.
    assert by_language["fr"] == pytest.approx(
        {
            "AP": 1,
            "R@1": 1 / 3,
            "rank_distance": 2,
            "Max@R": 3,
            "Max@R_norm": 100,
            "own_language_share@10": 1 / 5,
            "PEER": math.nan,
        },
        nan_ok=True,
    )
    assert multi.measures["rank_distance"] == pytest.approx(8 / 3)
    assert multi.measures["own_language_share@10"] == pytest.approx((2 / 5 + 2 / 5 + 1 / 5) / 3)
    assert all(task.language_mix == {"de": 2 / 5, "en": 2 / 5, "fr": 1 / 5} for task in multi.tasks)
    assert not any(task.language_mix for task in results.settings["mono"].tasks)
    assert (multi.queries, multi.dropped) == (5, 0)
    assert (results.settings["mono"].queries, results.settings["mono"].dropped) == (4, 1)


def test_calibration_counters_a_language_that_all_passages_of_are_near(random_set: MakeSet) -> None:
    """An encoder that adds a vector of the language to every text."""
    collection, _ = random_set(0)
    languages = sorted(collection.languages)
    meaning = {
        text.key: np.random.default_rng(number).standard_normal(8)
        for number, text in enumerate((*collection.passages, *collection.queries))
    }
    of = {p.full_text: (p.key, p.language) for p in collection.passages} | {
        q.text: (q.key, q.language) for q in collection.queries
    }

    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.stack([meaning[of[t][0]] + 9 * np.eye(8)[languages.index(of[t][1])] for t in texts]).astype(
            np.float32
        )

    plain, calibrated = (
        evaluate(collection, encode, encode, measures=("AP",), calibrate=calibrate).settings
        for calibrate in (False, True)
    )
    share = [results["multi"].measures["own_language_share@10"] for results in (plain, calibrated)]
    assert share[1] < share[0]
    assert plain["mono"].measures == pytest.approx(calibrated["mono"].measures)
    assert plain["cross"].measures == pytest.approx(calibrated["cross"].measures)


def test_values_per_query_stay_in_memory(tiny: RetrievalSet) -> None:
    task = evaluate(tiny, encode_tiny, encode_tiny, measures=["AP"]).settings["multi"].tasks[0]
    assert task.query_ids == ("de:q1", "de:q2")
    np.testing.assert_allclose(task.per_query["AP"], [(1 + 2 / 3 + 3 / 4) / 3, 1 / 3])
    np.testing.assert_array_equal(task.per_query["rank_distance"], [3, np.nan])


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pytrec_eval_with_ties(random_set: MakeSet, seed: int) -> None:
    """Real ids, real scores with many ties: our order must be trec_eval's own."""
    collection, texts = random_set(seed)
    trec_names = {"AP": "map", "R@10": "recall_10", "nDCG@10": "ndcg_cut_10", "RR": "recip_rank"}
    results = evaluate(collection, lookup(texts), lookup(texts), measures=[*trec_names])
    for setting in results.settings.values():
        for task in setting.tasks:
            corpus = [p for p in collection.passages if task.corpus_language in (None, p.language)]
            asked = {q.id: q for q in collection.queries if q.id in task.query_ids}
            run = {i: {p.id: float(texts[q.text] @ texts[p.text]) for p in corpus} for i, q in asked.items()}
            ids = {p.id for p in corpus}
            qrels = {i: {d: g for d, g in collection.qrels[q.key].items() if d in ids} for i, q in asked.items()}
            expected = pytrec_eval.RelevanceEvaluator(qrels, {*trec_names.values()}).evaluate(run)
            for name, trec_name in trec_names.items():
                by_query = [expected[i][trec_name] for i in task.query_ids]
                np.testing.assert_allclose(task.per_query[name], by_query, err_msg=f"{task} {name}")


@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16))
def test_the_order_of_the_collection_changes_nothing(random_set: MakeSet, seed: int) -> None:
    collection, texts = random_set(7, keys=5, passages=14)
    random = np.random.default_rng(seed)
    shuffled = RetrievalSet(
        collection.name,
        tuple(collection.queries[i] for i in random.permutation(len(collection.queries))),
        tuple(collection.passages[i] for i in random.permutation(len(collection.passages))),
        collection.qrels,
    )
    expected = evaluate(collection, lookup(texts), lookup(texts))
    found = evaluate(shuffled, lookup(texts), lookup(texts))
    for setting, result in expected.settings.items():
        assert found.settings[setting].measures == pytest.approx(result.measures, nan_ok=True)


def test_an_unbiased_system_ranks_translations_together(random_set: MakeSet) -> None:
    collection, _ = random_set(0)
    concepts = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return concepts[[int(text.rpartition(":")[2]) for text in texts]]

    # q_i is p_i in every language: all four translations stand on top, one in each language.
    parallel = {f"q{i}": {f"{language}:p{i}": 1 for language in collection.languages} for i in range(12)}
    unbiased = RetrievalSet("parallel", collection.queries, collection.passages, parallel)
    multi = evaluate(unbiased, encode, encode, settings=["multi"]).settings["multi"].measures
    assert multi["AP"] == pytest.approx(1)
    assert multi["rank_distance"] == pytest.approx(3)
    assert multi["Max@R"] == pytest.approx(4)
    assert multi["Max@R_norm"] == pytest.approx(100)


def test_each_text_is_encoded_once_and_passages_with_their_titles(tiny: RetrievalSet) -> None:
    asked: list[str] = []
    read: list[str] = []

    def encode_query(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return encode_tiny(texts)

    def encode_document(texts: Sequence[str]) -> np.ndarray:
        read.extend(texts)
        return encode_tiny(texts)

    evaluate(tiny, encode_query, encode_document)
    assert asked == [q.text for q in tiny.queries]
    assert sorted(read) == sorted(p.full_text for p in tiny.passages) and "First answer one" in read


def test_rankings_are_handed_out_to_the_depth_of_their_setting(random_set: MakeSet) -> None:
    collection, texts = random_set(4, keys=5)
    rankings: list[Ranking] = []
    evaluate(
        collection,
        lookup(texts),
        lookup(texts),
        on_ranking=rankings.append,
        depths={"mono": 1000, "multi": 7},
    )
    assert [r.task.setting for r in rankings] == ["mono"] * 4 + ["multi"] * 4
    for ranking in rankings:
        task = ranking.task
        corpus = [i for i, p in enumerate(collection.passages) if task.corpus_language in (None, p.language)]
        for query, scores, passages in zip(task.queries, ranking.scores, ranking.passages, strict=True):
            asked = texts[collection.queries[query].text]
            everything = {i: float(asked @ texts[collection.passages[i].text]) for i in corpus}
            # trec_eval: by score, then by document id, both descending.
            best = sorted(everything, key=lambda i: (everything[i], collection.passages[i].id), reverse=True)
            depth = 7 if task.setting == "multi" else 30
            assert passages.tolist() == best[:depth]
            assert scores.tolist() == [everything[i] for i in best[:depth]]


class OnDisk(PassageStore):
    """Passages as data on disk hands them out."""

    def __init__(self, passages: Sequence[Passage]):
        self.passages = passages

    @property
    def ids(self) -> Sequence[str]:
        return [p.id for p in self.passages]

    @property
    def languages(self) -> Sequence[str]:
        return [p.language for p in self.passages]

    def take(self, indices: Iterable[int]) -> list[Passage]:
        return [self.passages[i] for i in indices]

    def __len__(self) -> int:
        return len(self.passages)

    def __getitem__(self, index: int) -> Passage:  # type: ignore[override]
        return self.passages[index]


def test_a_corpus_on_disk_gives_the_same_results(random_set: MakeSet, tmp_path: Path) -> None:
    collection, texts = random_set(5)
    expected = evaluate(collection, lookup(texts), lookup(texts))
    stored = dataclasses.replace(collection, passages=OnDisk(collection.passages))
    for _ in range(2):  # the second time from the embeddings on disk
        found = evaluate(stored, lookup(texts), lookup(texts), embeddings_dir=tmp_path / "made", fingerprint="a")
        for setting, result in expected.settings.items():
            assert found.settings[setting].tasks == result.tasks


def test_an_interrupted_evaluation_goes_on_with_the_passages_it_has(
    random_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("jaxretr.eval.evaluate"), "_SHARD", 50)
    collection, texts = random_set(6)
    encoded: list[str] = []

    def encode(some: Sequence[str]) -> np.ndarray:
        encoded.extend(some)
        if len(encoded) == 100:
            raise KeyboardInterrupt
        return lookup(texts)(some)

    with pytest.raises(KeyboardInterrupt):
        evaluate(collection, lookup(texts), encode, embeddings_dir=tmp_path, fingerprint="a")
    encoded.clear()
    found = evaluate(collection, lookup(texts), encode, embeddings_dir=tmp_path, fingerprint="a")
    assert len(encoded) == 120 - 50
    assert found.scalars() == evaluate(collection, lookup(texts), lookup(texts)).scalars()


def test_only_the_settings_asked_for(tiny: RetrievalSet) -> None:
    assert list(evaluate(tiny, encode_tiny, encode_tiny, settings=["cross"]).settings) == ["cross"]


@pytest.mark.usefixtures("as_users_run")
def test_bad_embeddings_are_refused(tiny: RetrievalSet) -> None:
    with pytest.raises(ValueError, match=r"encode_query returned shape \(4, 6\); expected \[5, dim\]"):
        evaluate(tiny, lambda texts: encode_tiny(texts)[1:], encode_tiny)
    with pytest.raises(ValueError, match="encode_document returned values that are not finite for 5 texts"):
        evaluate(tiny, encode_tiny, lambda texts: encode_tiny(texts) * np.nan)
    with pytest.raises(ValueError, match="6 dimensions, passage embeddings 5"):
        evaluate(tiny, encode_tiny, lambda texts: encode_tiny(texts)[:, :5])


def test_an_unknown_measure_is_refused_before_anything_is_encoded(tiny: RetrievalSet) -> None:
    def never(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError("encoded in vain")

    with pytest.raises(ValueError, match="did you mean nDCG"):
        evaluate(tiny, never, never, measures=["ndgc@10"])
