"""Candidates, pairs and reranked answers, without a model."""

import numpy as np
import pytest

from jaxretr.index.rerank import CANDIDATES, candidates, pairs, reranked
from jaxretr.index.types import Answer, Hit, IndexedPassage

ANSWERS = [
    Answer(tuple(Hit(IndexedPassage(id, f"text {id}", title="T" if id == "a" else ""), 0.9) for id in "abcd")),
    Answer((), missing_shards=(1,)),
    Answer((Hit(IndexedPassage("e", "text e"), 0.5),)),
]


def test_the_best_by_the_rerankers_score_are_kept_and_ties_keep_their_order() -> None:
    assert pairs(["q", "r", "s"], ANSWERS) == [
        *(("q", "T text a"), ("q", "text b"), ("q", "text c"), ("q", "text d")),
        ("s", "text e"),
    ]
    first, empty, last = reranked(ANSWERS, np.array([0.1, 0.5, 0.5, 0.7, -3.0], np.float32), 3)
    assert [hit.passage.id for hit in first.hits] == ["d", "b", "c"]
    assert [hit.rerank_score for hit in first.hits] == pytest.approx([0.7, 0.5, 0.5])
    assert {hit.score for hit in first.hits} == {0.9}
    assert empty == ANSWERS[1]
    assert [(hit.passage.id, hit.score, hit.rerank_score) for hit in last.hits] == [("e", 0.5, -3.0)]


def test_no_fewer_passages_are_reranked_than_returned() -> None:
    assert candidates(10, None) == CANDIDATES == 50
    assert candidates(80, None) == candidates(80, 80) == 80
    assert candidates(10, 10) == 10
    with pytest.raises(ValueError, match="rerank is 9, but k is 10; expected at least k"):
        candidates(10, 9)
