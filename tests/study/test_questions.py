"""Drawn questions: new ones, in equally many languages, the same for every number of questions."""

import dataclasses
import random
from collections import Counter
from typing import Any

import pytest

from jaxretr.attack.options import AttackOptions
from jaxretr.study.design import Attacks
from jaxretr.study.questions import drawn_questions
from jaxretr.types import RetrievalSet
from tests.attack.parallel_questions import QUESTIONS, collection

LANGUAGES = ("de", "el", "en")


def everywhere() -> RetrievalSet:
    """The questions that exist in every language."""
    last = f"q{QUESTIONS - 1}"
    return dataclasses.replace(
        collection(),
        queries=tuple(query for query in collection().queries if query.key != last),
        qrels={key: grades for key, grades in collection().qrels.items() if key != last},
    )


def draw(questions: int, before: int = 0, **settings: Any) -> RetrievalSet:
    attacks = Attacks("multi", questions, AttackOptions(), **settings)
    return drawn_questions(everywhere(), attacks, before)


def test_each_question_has_its_languages_and_each_language_its_questions() -> None:
    drawn = draw(6, languages_per_question=2)
    assert set(Counter(query.key for query in drawn.queries).values()) == {2} and len(drawn.qrels) == 6
    assert Counter(query.language for query in drawn.queries) == dict.fromkeys(LANGUAGES, 4)
    assert drawn.passage_ids == everywhere().passage_ids
    assert Counter(query.key for query in draw(4).queries) == dict.fromkeys(draw(4).qrels, 3)


def test_fewer_questions_are_some_of_more_questions_in_the_same_languages() -> None:
    few, more = draw(3, languages_per_question=2), draw(8, languages_per_question=2)
    assert {query.id for query in few.queries} < {query.id for query in more.queries}


def test_questions_drawn_before_are_not_drawn() -> None:
    before = set(random.Random(0).sample(sorted(everywhere().qrels), 4))  # as load_collection draws them
    assert set(draw(5, before=4).qrels) == set(everywhere().qrels) - before
    with pytest.raises(ValueError, match="has 9 answered questions, 4 of them drawn before; 6 others are needed"):
        draw(6, before=4)


def test_a_mixed_pool_has_each_answer_once() -> None:
    drawn = draw(4, pool="mixed", languages_per_question=1)
    assert len({id.partition(":")[2] for id in drawn.passage_ids}) == len(drawn.passage_ids)
    assert {len(grades) for grades in drawn.qrels.values()} == {1}
    assert "4 questions of seed 0, 1 languages each in a mixed pool of seed 0" in drawn.name


def test_too_many_languages_are_an_error() -> None:
    with pytest.raises(ValueError, match="languages_per_question = 4, but the queries of tiny are in 3 languages"):
        draw(2, languages_per_question=4)
