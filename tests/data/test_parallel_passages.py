"""Parallel passages: their numbers as distinct answers, and pools that hold one language of each."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from jaxretr.data.parallel_passages import distinct_answers, mixed_pool
from jaxretr.eval.settings import Pool, make_tasks
from jaxretr.types import Passage, Query, RetrievalSet

LANGUAGES = ("ar", "de", "en", "zh")


def made(size: int, languages: tuple[str, ...] = LANGUAGES, questions: int = 20) -> RetrievalSet:
    """Every passage in all languages, but for every tenth, which is in the first language only."""
    passages = [
        Passage(f"p{i}", language, f"{language} {i}")
        for language in languages
        for i in range(size)
        if i % 10 or language == languages[0]
    ]
    ids = {passage.id for passage in passages}
    return RetrievalSet(
        name="made",
        queries=tuple(Query(f"q{i}", language, "?") for i in range(questions) for language in languages),
        passages=tuple(passages),
        qrels={
            f"q{i}": {
                id: grade
                for language in languages
                for id, grade in ((f"{language}:p{i}", 1 + i % 2), (f"{language}:p{i + 1}", 0))
                if id in ids
            }
            for i in range(questions)
        },
    )


def test_equal_keys_are_one_answer() -> None:
    collection = made(30)
    answers = distinct_answers(collection)
    keys = [passage.key for passage in collection.passages]
    assert len(set(answers.tolist())) == 30
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(answers == answers[i], [other == key for other in keys])


def test_a_mixed_pool_has_each_key_once_and_answers_every_question() -> None:
    collection = made(60)
    mixed = mixed_pool(collection, 3)
    assert sorted(passage.key for passage in mixed.passages) == sorted(f"p{i}" for i in range(60))
    assert mixed.queries == collection.queries
    assert mixed.name == "made in a mixed pool of seed 3"
    assert mixed.fingerprint["passages"] != collection.fingerprint["passages"]
    kept = {passage.id for passage in mixed.passages}
    for question, grades in mixed.qrels.items():
        assert grades == {id: grade for id, grade in collection.qrels[question].items() if id in kept}
        assert any(grades.values())
    tasks = make_tasks(mixed, Pool.of(mixed), ["multi"])
    assert [len(task.queries) for task in tasks] == [20] * len(LANGUAGES)
    assert all(task.dropped == 0 and task.num_passages == 60 for task in tasks)


def test_a_draw_depends_on_seed_key_and_languages_alone() -> None:
    drawn = {passage.key: passage.language for passage in mixed_pool(made(60), 0).passages}
    assert drawn == {passage.key: passage.language for passage in mixed_pool(made(60), 0).passages}
    assert drawn != {passage.key: passage.language for passage in mixed_pool(made(60), 1).passages}
    larger = {passage.key: passage.language for passage in mixed_pool(made(200), 0).passages}
    assert drawn.items() <= larger.items()
    collection = made(60)
    reversed_passages = dataclasses.replace(collection, passages=collection.passages[::-1])
    assert drawn == {passage.key: passage.language for passage in mixed_pool(reversed_passages, 0).passages}


def test_each_language_gets_its_share() -> None:
    """Within four standard deviations of a uniform draw."""
    size = 4_000
    for seed in range(3):
        drawn = [p for p in mixed_pool(made(size), seed).passages if int(p.key[1:]) % 10]
        n, share = len(drawn), 1 / len(LANGUAGES)
        counts = Counter(passage.language for passage in drawn)
        for language in LANGUAGES:
            assert abs(counts[language] - n * share) < 4 * np.sqrt(n * share * (1 - share)), language


def test_collections_without_parallel_passages_are_refused() -> None:
    one_language = made(20, ("en",), questions=5)
    own_keys = dataclasses.replace(
        one_language, passages=(*one_language.passages, Passage("only", "de", "nur deutsch"))
    )
    for collection, found in ((one_language, "20 passages in en"), (own_keys, "21 passages in de, en")):
        with pytest.raises(ValueError, match=f"no key occurs in two languages among its {found}; counting distinct"):
            distinct_answers(collection)
        with pytest.raises(ValueError, match=f"among its {found}; a mixed pool needs .* use the full pool"):
            mixed_pool(collection, 0)


def test_keys_that_the_judgements_contradict_are_refused() -> None:
    collection = made(30)
    del collection.qrels["q3"]["de:p3"]
    with pytest.raises(ValueError, match="ar:p3 answers the question 'q3', but de:p3 does not.*do not mark transl"):
        distinct_answers(collection)
