import numpy as np
import pytest

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


@pytest.mark.parametrize("search", ["worst_of_k", "greedy"])
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


@pytest.mark.parametrize("search", ["random", "worst_of_k", "greedy"])
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
