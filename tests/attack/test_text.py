import dataclasses

import numpy as np
import pytest

from jaxretr.attack.measures import robustness
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.registry import plan
from jaxretr.attack.result import AttackResult
from jaxretr.attack.text.attack import text_attack, together
from jaxretr.attack.text.search import check_margin_k
from jaxretr.attack.victim import margin
from jaxretr.perturb.text import PERTURBATIONS, cases, homoglyphs, invisible, typos
from tests.attack.parallel_questions import victim

VICTIM = victim()
ENGLISH = next(task for task in VICTIM.tasks if task.query_language == "en")
CLEAN = [query.text for query in VICTIM.queries_of(ENGLISH)]


def gains(attacked: AttackResult, k: int = 3) -> np.ndarray:
    return margin(attacked.embeddings, VICTIM.corpus(ENGLISH), VICTIM.candidates(ENGLISH), k)


def clean_gains() -> np.ndarray:
    queries = VICTIM.queries[ENGLISH.queries]
    return margin(queries, VICTIM.corpus(ENGLISH), VICTIM.candidates(ENGLISH), 3)


@pytest.mark.parametrize("search", ["worst_of_k", "greedy", "beam"])
def test_an_attack_is_never_milder_than_no_attack_and_its_embeddings_are_those_of_its_texts(search):
    attacked = text_attack(VICTIM, ENGLISH, homoglyphs, search=search, edits=2, budget=6, margin_k=3)
    assert (gains(attacked) >= clean_gains()).all()
    assert (gains(attacked) > clean_gains()).sum() >= len(CLEAN) // 2
    np.testing.assert_allclose(attacked.embeddings, VICTIM.encoder.encode_query(attacked.texts), atol=1e-5)
    assert attacked.changed.all()
    assert (attacked.forward_passes <= 7).all() and (attacked.forward_passes >= 3).all()


def test_noise_is_one_edit_and_milder_than_a_search():
    noise = text_attack(VICTIM, ENGLISH, homoglyphs, search="random", margin_k=3, seed=1)
    worst = text_attack(VICTIM, ENGLISH, homoglyphs, search="worst_of_k", budget=100, margin_k=3, seed=1)
    for text, clean in zip(noise.texts, CLEAN, strict=True):
        assert text in homoglyphs(clean, "en")
    assert (noise.forward_passes == 1).all()
    assert (gains(worst) >= gains(noise) - 1e-6).all()
    assert gains(worst).mean() > gains(noise).mean()


def test_the_worst_of_all_is_the_worst():
    worst = text_attack(VICTIM, ENGLISH, homoglyphs, search="worst_of_k", budget=1000, margin_k=3)
    candidates = VICTIM.candidates(ENGLISH)
    for row, clean in enumerate(CLEAN):
        texts = [clean, *homoglyphs(clean, "en")]
        assert worst.forward_passes[row] == len(texts)
        expected = VICTIM.margins(ENGLISH, candidates, np.full(len(texts), row), texts, 3).max()
        assert gains(worst)[row] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("search", ["random", "worst_of_k", "greedy", "beam"])
def test_undone_edits_leave_the_denominator(search):
    def blanks(text, language):  # the tokenizer undoes the first of them; some texts have no other
        return [text + " "] if "7" in text else [text + " ", text + " en1"]

    attacked = text_attack(VICTIM, ENGLISH, blanks, search=search, margin_k=3)
    undone = np.array(["7" in text for text in CLEAN])
    assert 0 < undone.sum() < len(CLEAN)
    np.testing.assert_array_equal(attacked.changed, ~undone)
    assert attacked.notes == {"offered": 2 * len(CLEAN) - undone.sum(), "undone": len(CLEAN)}
    for row in np.flatnonzero(undone):
        assert attacked.texts[row] == CLEAN[row]
        np.testing.assert_array_equal(attacked.embeddings[row], VICTIM.queries[ENGLISH.queries[row]])


def test_a_script_without_such_edits():
    attacked = text_attack(VICTIM, ENGLISH, typos, search="greedy", margin_k=3)  # "en7" is too short a word
    assert not attacked.changed.any()
    assert attacked.notes == {"offered": 0, "undone": 0}
    assert list(attacked.texts) == CLEAN


def test_several_kinds_together():
    kinds = (cases, homoglyphs, invisible)
    found = together(kinds)("en1 en2", "en")
    assert set(found) == {text for kind in kinds for text in kind("en1 en2", "en")} and len(found) == len(set(found))
    attacked = text_attack(VICTIM, ENGLISH, kinds, search="worst_of_k", budget=1000, margin_k=3)
    for kind in kinds:
        alone = text_attack(VICTIM, ENGLISH, kind, search="worst_of_k", budget=1000, margin_k=3)
        assert (gains(attacked) >= gains(alone) - 1e-5).all()


def test_a_kind_with_many_texts_does_not_crowd_out_the_others():
    one, many = ["x"], [f"y{i}" for i in range(100)]
    mixed = together((lambda text, language: one, lambda text, language: many), per_kind=5)
    found = mixed("x1", "en")
    assert found[0] == "x" and len(found) == 6 and set(found[1:]) < set(many)
    assert found == mixed("x1", "en") != mixed("x2", "en")


@pytest.mark.parametrize("search", ["worst_of_k", "greedy", "beam"])
def test_further_edits_attack_only_the_queries_that_are_left(search):
    def attack(edits, smaller=None):
        return text_attack(
            VICTIM, ENGLISH, homoglyphs, search=search, edits=edits, budget=6 * edits, margin_k=3, smaller=smaller
        )

    one = attack(1)
    two = attack(2, one)
    lost = gains(one) > 0
    assert 0 < lost.sum() < len(CLEAN)
    for row in np.flatnonzero(lost):
        assert two.texts[row] == one.texts[row] and two.forward_passes[row] == 0
    assert (two.forward_passes[~lost] > 1).all()
    assert (gains(two) >= gains(one) - 1e-6).all() and (gains(two) > gains(one) + 1e-3).any()
    np.testing.assert_array_equal(two.changed, one.changed)
    assert two.notes == one.notes
    everything = dataclasses.replace(one, embeddings=-VICTIM.queries[ENGLISH.queries])
    assert (gains(everything) > 0).all()
    none_left = attack(2, everything)
    assert none_left.texts == one.texts and not none_left.forward_passes.any()


def test_edits_are_budgets_with_a_smallest_one():
    options = AttackOptions(attacks=("homoglyphs", "combined"), edits=3, texts=4)
    trials = []
    for trial, run in plan(VICTIM, options):
        smaller = trials[-1].results if trials and trials[-1].attack == trial.attack else None
        trials.append(trial.with_results(run(VICTIM.tasks, smaller)))
    assert [trial.label for trial in trials] == [f"{n}@{e}" for n in ("homoglyphs", "combined") for e in (1, 2, 3)]
    assert [trial.reference for trial in trials] == [False, False, True] * 2
    for task in robustness(VICTIM, trials, measures=["AP"]).settings["multi"].tasks:
        left = [task.per_query[f"combined@{edits} robust_success@10"] for edits in (1, 2, 3)]
        smallest = task.per_query["combined smallest_budget"]
        expected = np.select([left[0] == 0, left[1] == 0, ~np.isnan(left[0])], [1, 2, 3], np.nan)
        np.testing.assert_array_equal(smallest, expected)
        assert "homoglyphs robust_success@10_area" in task.measures


@pytest.mark.parametrize("kind", PERTURBATIONS.values(), ids=PERTURBATIONS)
def test_other_languages_are_refused_where_the_language_matters(kind):
    text = "Où était la cité de Cambridge ?"
    needs_no_language = {
        "without_diacritics",
        "cases",
        "swapped_words",
        "reversed_words",
        "invisible",
        "homoglyphs",
        "reorderings",
    }
    if kind.__name__ in needs_no_language:
        assert kind(text, "fr") == kind(text, "en") != []
    else:
        with pytest.raises(ValueError, match=r"'fr', only .*en.*zh"):
            kind(text, "fr")


def test_errors():
    with pytest.raises(ValueError, match="between 1 and 64"):
        check_margin_k(VICTIM.candidates(ENGLISH), 65)
    with pytest.raises(ValueError, match="margin_k is 70"):
        text_attack(VICTIM, ENGLISH, homoglyphs, search="greedy", margin_k=70)
