"""Language switch and language directions."""

import numpy as np
import pytest

from jaxretr.attack.language import language_directions, language_switch
from jaxretr.attack.language.directions import language_offsets, orthogonal_directions
from jaxretr.attack.victim import Victim, margin
from jaxretr.eval.settings import Task
from tests.attack.parallel_questions import victim

SETTINGS = ("mono", "cross", "multi")


def task_of(attacked: Victim, query_language: str) -> Task:
    return next(task for task in attacked.tasks if task.query_language == query_language)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("k", [1, 4])
def test_switch_is_the_worst_of_the_enumeration(setting, k):
    attacked = victim(setting)
    moved = 0
    for task in attacked.tasks:
        result = language_switch(attacked, task, margin_k=k)
        candidates = attacked.candidates(task)
        gains = margin(result.embeddings, attacked.corpus(task), candidates, k)
        for row, asked in enumerate(attacked.queries_of(task)):
            versions = [query.text for query in attacked.collection.queries if query.key == asked.key]
            expected = attacked.margins(task, candidates, np.full(len(versions), row), versions, k)
            assert gains[row] == pytest.approx(expected.max(), abs=1e-5)
            assert result.texts[row] in versions
            assert result.forward_passes[row] == len(versions)
            moved += result.texts[row] != asked.text
        assert result.notes["switched"] == sum(
            text != query.text for text, query in zip(result.texts, attacked.queries_of(task), strict=True)
        )
    assert moved > 0


def test_a_question_in_one_language_is_unchanged():
    attacked = victim("multi")
    task = task_of(attacked, "en")
    result = language_switch(attacked, task, margin_k=1)
    alone = [query.key for query in attacked.queries_of(task)].index("q9")
    np.testing.assert_array_equal(np.flatnonzero(~result.changed), [alone])
    np.testing.assert_array_equal(result.embeddings[alone], attacked.queries[task.queries[alone]])


def test_only_the_languages_allowed():
    attacked = victim("multi")
    task = task_of(attacked, "en")
    greek = language_switch(attacked, task, languages=["el"], margin_k=1)
    assert all(text[:2] in ("en", "el") for text in greek.texts)
    with pytest.raises(ValueError, match="no queries in fr, only in de, el, en"):
        language_switch(attacked, task, languages=["el", "fr"])


def test_both_kinds_of_directions_have_the_radius_as_norm_and_only_one_is_of_languages():
    attacked = victim("multi")
    texts = [f"text {i}" for i in range(50)]
    for language in attacked.pool.languages:
        offsets = language_offsets(attacked, language)
        assert offsets.shape == (2, attacked.queries.shape[1])
        drawn = orthogonal_directions(offsets, texts, seed=0)
        np.testing.assert_allclose(np.linalg.norm(drawn, axis=2), 1, atol=1e-5)
        np.testing.assert_allclose(drawn @ offsets.T, 0, atol=1e-5)
        assert np.linalg.norm(drawn.mean(axis=(0, 1))) < 0.3  # in every direction, not one
        np.testing.assert_array_equal(orthogonal_directions(offsets, texts[7:8], seed=0)[0], drawn[7])


def test_offsets_are_differences_of_means():
    attacked = victim("multi")
    of = dict(zip(attacked.collection.passage_ids, range(72), strict=True))
    position = {int(order): at for at, order in enumerate(attacked.pool.order)}
    means = {
        language: np.mean([attacked.passages[position[of[f"{language}:p{i}"]]] for i in range(24)], axis=0)
        for language in ("en", "de", "el")
    }
    expected = [means[other] - means["de"] for other in attacked.pool.languages if other != "de"]
    np.testing.assert_allclose(language_offsets(attacked, "de"), expected, atol=1e-6)


@pytest.mark.parametrize("radius", [0.0, 0.2, 1.0])
def test_moved_queries_are_the_worst_of_the_moves(radius):
    attacked = victim("multi")
    task = task_of(attacked, "de")
    result = language_directions(attacked, task, [0.0, radius], margin_k=2)
    clean = attacked.queries[task.queries]
    candidates, corpus = attacked.candidates(task), attacked.corpus(task)
    offsets = language_offsets(attacked, "de")
    for moved, directions in (
        (result["language"][1], [offset / np.linalg.norm(offset) for offset in offsets]),
        (
            result["orthogonal"][1],
            np.moveaxis(orthogonal_directions(offsets, [q.text for q in attacked.queries_of(task)], 0), 1, 0),
        ),
    ):
        np.testing.assert_allclose(np.linalg.norm(moved.embeddings, axis=1), 1, atol=1e-5)
        unscaled = [clean + np.float32(radius) * direction for direction in directions]
        choices = [
            (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32) for vectors in unscaled
        ]
        gains = [margin(choice, corpus, candidates, 2) for choice in choices]
        found = margin(moved.embeddings, corpus, candidates, 2)
        np.testing.assert_allclose(found, np.max(gains, axis=0), atol=1e-5)
        assert moved.notes["radius"] == radius
    np.testing.assert_allclose(result["language"][0].embeddings, clean, atol=1e-6)
    np.testing.assert_allclose(result["orthogonal"][0].embeddings, clean, atol=1e-6)


def test_directions_need_passages_in_two_languages_one_of_them_the_queries():
    with pytest.raises(ValueError, match="passages in .*; an offset from 'fr' needs"):
        language_offsets(victim("multi"), "fr")
