import itertools

import numpy as np
import pytest

from jaxretr.attack.search import greedy, worst_of_k
from jaxretr.perturb.text import deletions, homoglyphs, substitutions, typos
from tests.perturb.text.queries import QUERIES
from tests.perturb.text.tokens import byte_tokens

TOKENS = byte_tokens()


class Score:
    """How many letters are missing or foreign; notes its batches."""

    def __init__(self, clean: str):
        self.clean = clean
        self.batches: list[list[str]] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.batches.append(texts)
        return np.array([self.gain(text) for text in texts], np.float32)

    def gain(self, text: str) -> float:
        wrong = [i for i, (a, b) in enumerate(itertools.zip_longest(self.clean, text)) if a != b]
        return len(wrong) + sum(wrong) / 1000


def test_worst_of_all_is_the_maximum_of_the_enumeration():
    text = QUERIES["ru"]
    score = Score(text)
    found = worst_of_k(typos, text, "ru", score, token_ids=TOKENS, k=10_000, seed=0)
    assert found.score == pytest.approx(max(map(score.gain, typos(text, "ru"))))
    assert found.clean_score == score.gain(text) == 0
    assert len(score.batches) == 1
    assert found.forward_passes == len(score.batches[0]) == len(typos(text, "ru")) + 1
    assert found.edits == 1 and found.undone == 0


def test_more_draws_are_never_milder():
    text = QUERIES["th"]
    scores = [
        worst_of_k(typos, text, "th", Score(text), token_ids=TOKENS, k=k, seed=3).score for k in (0, 1, 4, 16, 64)
    ]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


def test_what_the_normaliser_undoes_costs_no_forward_pass():
    score = Score("行")
    found = worst_of_k(homoglyphs, "行", "zh", score, token_ids=TOKENS, k=10, seed=0)
    assert (found.text, found.edits, found.forward_passes) == ("行", 0, 1)
    assert found.undone == len(homoglyphs("行", "zh")) > 0
    assert greedy(homoglyphs, "行", "zh", score, token_ids=TOKENS, edits=3, budget=10, seed=0) == found


def test_greedy_with_a_large_budget_takes_the_best_edit_each_time():
    text = "Paris Rome"
    score = Score(text)
    found = greedy(homoglyphs, text, "en", score, token_ids=TOKENS, edits=3, budget=10_000, seed=0)
    expected = text
    for _ in range(3):
        expected = max(homoglyphs(expected, "en"), key=score.gain)
    assert score.gain(found.text) == pytest.approx(score.gain(expected)) == pytest.approx(found.score)
    assert found.edits == 3
    assert len(score.batches) == 4  # the clean text, and one batch an edit
    assert len({t for batch in score.batches for t in batch}) == sum(map(len, score.batches)) == found.forward_passes


@pytest.mark.parametrize("budget", [4, 10, 50, 400])
def test_greedy_keeps_to_its_budget(budget):
    text = QUERIES["hi"]
    score = Score(text)
    found = greedy(substitutions, text, "hi", score, token_ids=TOKENS, edits=3, budget=budget, seed=0)
    assert found.forward_passes == sum(map(len, score.batches)) <= budget
    assert len(score.batches) == 4
    assert found == greedy(substitutions, text, "hi", Score(text), token_ids=TOKENS, edits=3, budget=budget, seed=0)


def test_greedy_beats_as_many_random_draws():
    text = QUERIES["vi"]
    options = {"token_ids": TOKENS, "edits": 3, "seed": 0}
    found = greedy(substitutions, text, "vi", Score(text), budget=60, **options)
    drawn = worst_of_k(substitutions, text, "vi", Score(text), k=59, **options)
    assert drawn.forward_passes <= 60
    assert found.score > drawn.score


def test_greedy_stops_where_nothing_is_worse():
    calls = []

    def score(texts):
        calls.append(texts)
        return np.array([float(text == "city") for text in texts])

    found = greedy(deletions, "city", "en", score, token_ids=TOKENS, edits=5, budget=1000, seed=0)
    assert (found.text, found.score, found.edits) == ("city", 1, 0)
    assert len(calls) == 2


def test_errors():
    with pytest.raises(ValueError, match="3 is the least"):
        greedy(typos, "city", "en", Score("city"), token_ids=TOKENS, edits=2, budget=2, seed=0)
    with pytest.raises(ValueError, match="one finite number"):
        worst_of_k(typos, "city", "en", lambda t: np.full(len(t), np.nan), token_ids=TOKENS, k=2, seed=0)
