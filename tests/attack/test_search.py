import itertools

import numpy as np
import pytest

from jaxretr.attack.text.search import BEAM, beam, greedy, random_edits, worst_of_k
from jaxretr.perturb.text import deletions, homoglyphs, substitutions, typos
from jaxretr.types import Query
from tests.perturb.text.queries import QUERIES
from tests.perturb.text.tokens import byte_tokens

TOKENS = byte_tokens()
ASKED = [Query("q", language, text) for language, text in QUERIES.items()]


def query(text: str, language: str) -> Query:
    return Query("q", language, text)


class Score:
    """How many letters are missing or foreign; notes its batches."""

    def __init__(self, *queries: Query):
        self.clean = [query.text for query in queries]
        self.batches: list[list[str]] = []

    def __call__(self, rows: np.ndarray, texts: list[str]) -> np.ndarray:
        self.batches.append(texts)
        return np.array([self.gain(text, row) for row, text in zip(rows, texts, strict=True)], np.float32)

    def gain(self, text: str, row: int = 0) -> float:
        wrong = [i for i, (a, b) in enumerate(itertools.zip_longest(self.clean[row], text)) if a != b]
        return len(wrong) + sum(wrong) / 1000

    @property
    def scored(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


SEARCHES = {
    "random": lambda *args: random_edits(*args, token_ids=TOKENS, seed=0),
    "worst of k": lambda *args: worst_of_k(*args, token_ids=TOKENS, k=8, edits=2, seed=0),
    "greedy": lambda *args: greedy(*args, token_ids=TOKENS, edits=3, budget=12, seed=0),
    "beam": lambda *args: beam(*args, token_ids=TOKENS, edits=3, budget=12, seed=0),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("kind", [deletions, homoglyphs])
def test_the_batch_changes_no_result_and_is_one_call_a_round(search, kind):
    score = Score(*ASKED)
    together = search(kind, ASKED, score)
    assert together == [search(kind, [one], Score(one))[0] for one in ASKED]
    assert search(kind, ASKED[::-1], Score(*ASKED[::-1])) == together[::-1]
    assert sum(found.forward_passes for found in together) == len(score.scored)
    assert len(score.batches) <= 4
    assert max(found.edits for found in together) > 0


def test_worst_of_all_is_the_maximum_of_the_enumeration():
    asked = query(QUERIES["ru"], "ru")
    score = Score(asked)
    [found] = worst_of_k(typos, [asked], score, token_ids=TOKENS, k=10_000, seed=0)
    assert found.score == pytest.approx(max(map(score.gain, typos(asked.text, "ru"))))
    assert len(score.batches) == 1
    assert found.forward_passes == len(score.batches[0]) == len(typos(asked.text, "ru")) + 1
    assert found.edits == 1 and found.undone == 0 and found.offered == found.forward_passes - 1


def test_more_draws_are_never_milder():
    asked = query(QUERIES["th"], "th")
    scores = [
        worst_of_k(typos, [asked], Score(asked), token_ids=TOKENS, k=k, seed=3)[0].score for k in (0, 1, 4, 16, 64)
    ]
    assert scores == sorted(scores)
    assert scores[0] == 0 < scores[-1]


@pytest.mark.parametrize("edits", [1, 2])
def test_a_random_edit_is_the_first_draw_whether_it_pays_or_not(edits):
    drawn = random_edits(deletions, ASKED, Score(*ASKED), token_ids=TOKENS, edits=edits, seed=1)
    first = worst_of_k(deletions, ASKED, Score(*ASKED), token_ids=TOKENS, k=1, edits=edits, seed=1)
    assert [found.text for found in drawn] == [found.text for found in first]
    assert all(found.forward_passes == 1 for found in drawn)
    milder = random_edits(
        deletions, ASKED, lambda rows, texts: -np.ones(len(texts)), token_ids=TOKENS, edits=edits, seed=1
    )
    assert [found.text for found in milder] == [found.text for found in drawn]


def test_what_the_normaliser_undoes_costs_no_forward_pass():
    asked = query("行", "zh")
    score = Score(asked)
    [found] = worst_of_k(homoglyphs, [asked], score, token_ids=TOKENS, k=10, seed=0)
    assert (found.text, found.edits, found.forward_passes) == ("行", 0, 1)
    assert found.undone == found.offered == len(homoglyphs("行", "zh")) > 0
    assert greedy(homoglyphs, [asked], score, token_ids=TOKENS, edits=3, budget=10, seed=0) == [found]
    assert random_edits(homoglyphs, [asked], score, token_ids=TOKENS, seed=0) == [found]


def test_what_the_normaliser_undoes_takes_no_draw():

    def kind(text, language):
        return ["Ｐ" + text[1:], *(text + str(i) for i in range(4))]  # the first is undone

    asked = query("Paris", "en")
    for seed in range(8):
        [found] = worst_of_k(kind, [asked], Score(asked), token_ids=TOKENS, k=4, seed=seed)
        assert (found.forward_passes, found.offered, found.undone) == (5, 5, 1)


def test_greedy_with_a_large_budget_takes_the_best_edit_each_time():
    asked = query("Paris Rome", "en")
    score = Score(asked)
    [found] = greedy(homoglyphs, [asked], score, token_ids=TOKENS, edits=3, budget=10_000, seed=0)
    expected = asked.text
    for _ in range(3):
        expected = max(homoglyphs(expected, "en"), key=score.gain)
    assert score.gain(found.text) == pytest.approx(score.gain(expected)) == pytest.approx(found.score)
    assert found.edits == 3
    assert len(score.batches) == 4  # the clean text, and one batch an edit
    assert len(set(score.scored)) == len(score.scored) == found.forward_passes


@pytest.mark.parametrize("budget", [3, 10, 50, 400])
def test_greedy_keeps_to_its_budget(budget):
    score = Score(*ASKED)
    found = greedy(substitutions, ASKED, score, token_ids=TOKENS, edits=3, budget=budget, seed=0)
    assert all(of_query.forward_passes <= budget + 1 for of_query in found)
    assert max(of_query.forward_passes for of_query in found) >= min(budget, 50) + 1 - 3
    assert len(score.batches) == 4
    assert found == greedy(substitutions, ASKED, Score(*ASKED), token_ids=TOKENS, edits=3, budget=budget, seed=0)


def test_greedy_is_no_milder_than_its_first_edit_and_the_clean_text():
    one = greedy(substitutions, ASKED, Score(*ASKED), token_ids=TOKENS, edits=1, budget=20, seed=0)
    # The first of three edits has the same share of the budget, and so the same candidates.
    three = greedy(substitutions, ASKED, Score(*ASKED), token_ids=TOKENS, edits=3, budget=60, seed=0)
    assert all(more.score >= less.score >= 0 for more, less in zip(three, one, strict=True))
    assert sum(more.score > less.score for more, less in zip(three, one, strict=True)) >= 8


def test_greedy_beats_as_many_random_draws():
    asked = query(QUERIES["vi"], "vi")
    [found] = greedy(substitutions, [asked], Score(asked), token_ids=TOKENS, edits=3, budget=60, seed=0)
    [drawn] = worst_of_k(substitutions, [asked], Score(asked), token_ids=TOKENS, k=60, edits=3, seed=0)
    assert drawn.forward_passes <= 61
    assert found.score > drawn.score


def test_greedy_stops_where_nothing_is_worse():
    calls = []

    def score(rows, texts):
        calls.append(texts)
        return np.array([float(text == "city") for text in texts])

    [found] = greedy(deletions, [query("city", "en")], score, token_ids=TOKENS, edits=5, budget=1000, seed=0)
    assert (found.text, found.score, found.edits) == ("city", 1, 0)
    assert len(calls) == 2


def test_a_beam_passes_by_a_first_edit_that_leads_nowhere():
    gains = {"xa": 2.0, "xb": 1.0, "xaa": 2.1, "xab": 2.2, "xba": 5.0}

    def score(rows, texts):
        return np.array([gains.get(text, 0.0) for text in texts])

    def either(text, language):
        return [text + "a", text + "b"]

    arguments = {"token_ids": TOKENS, "edits": 2, "budget": 20, "seed": 0}
    [narrow] = greedy(either, [query("x", "en")], score, **arguments)
    [wide] = beam(either, [query("x", "en")], score, **arguments, width=2)
    assert (narrow.text, narrow.score, narrow.edits) == ("xab", 2.2, 2)
    assert (wide.text, wide.score, wide.edits) == ("xba", 5.0, 2)
    assert narrow.forward_passes == 5 and wide.forward_passes == 7  # no text is scored twice


def test_a_beam_scores_all_queries_in_one_batch_a_round_and_keeps_to_its_budget():
    score = Score(*ASKED)
    found = beam(substitutions, ASKED, score, token_ids=TOKENS, edits=3, budget=192, seed=0)
    assert len(score.batches) == 4  # the clean texts, and one batch an edit
    assert sum(one.forward_passes for one in found) == len(score.scored)
    assert all(one.forward_passes <= 193 for one in found)
    assert max(one.forward_passes for one in found) == 193
    assert BEAM > 1


def test_a_search_stops_at_a_lost_query():
    asked = [query("Paris Rome", "en"), query("city", "en")]
    score = Score(*asked)
    first, second = beam(
        homoglyphs, asked, score, token_ids=TOKENS, edits=3, budget=30, seed=0, lost_above=1.005
    )  # in "city", the first edit gains at most 1.003
    assert first.edits == 1 and first.forward_passes == 1 + first.offered and first.score > 1.005
    assert second.edits == 2 and second.forward_passes > 1 + second.offered
    assert len(score.batches) == 3


def test_errors():
    asked = query("city", "en")
    with pytest.raises(ValueError, match="expected at least 2"):
        greedy(typos, [asked], Score(asked), token_ids=TOKENS, edits=2, budget=1, seed=0)
    with pytest.raises(ValueError, match="one finite number"):
        worst_of_k(typos, [asked], lambda rows, t: np.full(len(t), np.nan), token_ids=TOKENS, k=2, seed=0)
