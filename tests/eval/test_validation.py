from collections.abc import Callable

import numpy as np
import pytest

from jaxretr.eval.evaluate import evaluate
from jaxretr.eval.settings import SETTINGS
from jaxretr.eval.validation import SelectionMetric, Validator, allowed_settings
from jaxretr.types import Passage, Query, RetrievalSet


def in_languages(queries: str, passages: str, answers: str = "") -> RetrievalSet:
    """One question, asked and answered in the languages given; `answers` are the relevant ones, all where ""."""
    return RetrievalSet(
        "made up",
        tuple(Query("q", language, f"q:{language}") for language in queries.split()),
        tuple(Passage("p", language, f"p:{language}") for language in passages.split()),
        {"q": {f"{language}:p": int(not answers or language in answers.split()) for language in passages.split()}},
    )


def encode(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), sum(map(ord, text)) % 7] for text in texts], np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("multi/AP", SelectionMetric("multi", "AP")),
        ("cross/MAP", SelectionMetric("cross", "AP")),  # as ir_measures calls it
        ("mono/nDCG@5", SelectionMetric("mono", "nDCG@5")),
        ("mono/P(rel=2)@5", SelectionMetric("mono", "P(rel=2)@5")),
        ("multi/rank_distance", SelectionMetric("multi", "rank_distance", lower_is_better=True)),
        ("multi/Max@R", SelectionMetric("multi", "Max@R", lower_is_better=True)),
        ("multi/Max@R_norm", SelectionMetric("multi", "Max@R_norm")),
        ("multi/PEER", SelectionMetric("multi", "PEER")),
    ],
)
def test_names_of_measures(name: str, expected: SelectionMetric) -> None:
    assert SelectionMetric.parse(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AP", "cannot select checkpoints by 'AP': expected mono, cross, multi before the /"),
        ("multi/", "cannot compute the measure ''"),
        ("multi/nDGC@10", "cannot compute the measure 'nDGC@10': did you mean nDCG"),
        ("cross/rank_distance", "it needs a pool of languages, multi/rank_distance"),
        ("multi/own_language_share@10", "neither its highest nor its lowest value is the best"),
    ],
)
def test_what_cannot_choose_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionMetric.parse(name)


@pytest.mark.parametrize(
    ("collection", "expected"),
    [
        (in_languages("en", "en"), {"mono"}),
        (in_languages("en", "de"), {"cross"}),
        (in_languages("en de", "en de"), {"mono", "cross", "multi"}),
        (in_languages("en", "en de"), {"mono", "cross", "multi"}),
        (in_languages("en", "en de", answers="en"), {"mono", "multi"}),  # as in MIRACL
        (in_languages("en", "de el", answers="el"), {"cross", "multi"}),
    ],
)
def test_allowed_settings_are_those_that_can_be_evaluated(collection: RetrievalSet, expected: set[str]) -> None:
    assert set(allowed_settings(collection)) == expected
    for setting in SETTINGS:
        if setting in expected:
            evaluate(collection, encode, encode, settings=[setting])
        else:
            with pytest.raises(ValueError, match=setting):
                evaluate(collection, encode, encode, settings=[setting])


def test_a_setting_that_the_collection_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="made up allows mono only; set evaluation.best_measure, .* to mono/AP"):
        Validator(in_languages("en", "en"), SelectionMetric.parse("multi/AP"))
    assert Validator(in_languages("en", "en"), None).evaluate(encode, encode).scalars().keys() >= {
        "mono/AP",
        "mono/R@1",
    }


def test_curves_are_macro_averages_and_what_decides_by_query_language(random_set: Callable) -> None:
    collection, texts = random_set(0)
    held_out = Validator(collection, SelectionMetric.parse("cross/Rprec"))  # not among the usual measures

    def embed(names: list[str]) -> np.ndarray:
        return np.stack([texts[name] for name in names])

    results = held_out.evaluate(embed, embed)
    curves = held_out.curves(results)
    reference = evaluate(collection, embed, embed, settings=["cross"], measures=["Rprec"])
    of_german = [task.measures["Rprec"] for task in reference.settings["cross"].tasks if task.query_language == "de"]
    assert len(of_german) == 3
    assert curves["cross/Rprec/de"] == pytest.approx(np.mean(of_german))
    assert curves["cross/Rprec"] == reference.scalars()["cross/Rprec"]
    assert curves.keys() == results.scalars().keys() | {f"cross/Rprec/{code}" for code in ("de", "en", "pt", "pt-BR")}


@pytest.mark.parametrize(
    "name", ["multi/AP", "mono/RR", "multi/rank_distance", "multi/Max@R", "multi/Max@R_norm", "multi/PEER"]
)
def test_the_better_retriever_has_the_better_value(name: str) -> None:
    """One ranks the answers on top, languages in turn; the other the query's language first, its answers last."""
    keys, languages, copies = "012345", ("de", "en"), "ab"
    collection = RetrievalSet(
        "six questions with two answers in each language",
        tuple(Query(key, code, f"{code} {key}") for key in keys for code in languages),
        tuple(
            Passage(key + copy, code, f"{code} {key} {copy}") for key in keys for code in languages for copy in copies
        ),
        {key: {f"{code}:{key}{copy}": 1 for code in languages for copy in copies} for key in keys},
    )

    def features(texts: list[str]) -> np.ndarray:
        """German, English, the first of two copies, and one of six keys."""
        flags = [[text.startswith("de"), text.startswith("en"), text.endswith("a")] for text in texts]
        return np.concatenate([flags, np.eye(6)[[int(text.split()[1]) for text in texts]]], 1).astype(np.float32)

    def good(texts: list[str]) -> np.ndarray:
        return features(texts) * [0, 0, 0, *[1] * 6] + [0, 0, 0.1, *[0] * 6]

    def bad(texts: list[str]) -> np.ndarray:
        return features(texts) * [9, 9, 0, *[-1] * 6]

    criterion = SelectionMetric.parse(name)
    held_out = Validator(collection, criterion)
    better, worse = (held_out.curves(held_out.evaluate(query, features))[name] for query in (good, bad))
    assert better < worse if criterion.lower_is_better else better > worse


def test_a_measure_without_a_value_is_refused() -> None:
    """There is no distance between the ranks of one relevant passage."""
    held_out = Validator(in_languages("en", "en de", answers="en"), SelectionMetric.parse("multi/rank_distance"))
    results = held_out.evaluate(encode, encode)
    with pytest.raises(ValueError, match="multi/rank_distance: it has no value on made up"):
        held_out.curves(results)
    assert "multi/AP" in Validator(held_out.collection, None).curves(results)
