import pytest

from jaxretr.perturb.text import PERTURBATIONS, draw, homoglyphs, invisible, screen, typos
from jaxretr.perturb.text.edits import iter_words, split_graphemes
from tests.perturb.text.queries import QUERIES
from tests.perturb.text.tokens import byte_tokens


@pytest.mark.parametrize("language", QUERIES)
def test_every_perturbation_is_a_pure_function_that_leaves_out_the_clean_text(language):
    text = QUERIES[language]
    for perturb in PERTURBATIONS.values():
        candidates = perturb(text, language)
        assert candidates == perturb(text, language)
        assert len(set(candidates)) == len(candidates)
        assert text not in candidates
        assert perturb("", language) == []


def test_what_is_no_letter_stays():
    for name, perturb in PERTURBATIONS.items():
        if name != "wrong_layout":
            assert all(perturb("2024 ?!", language) == [] for language in QUERIES), name


def test_draws_depend_on_seed_and_text_alone():
    text = QUERIES["en"]
    drawn = draw(typos, text, "en", count=20, seed=1)
    assert drawn == draw(typos, text, "en", count=20, seed=1)
    assert drawn != draw(typos, text, "en", count=20, seed=2)
    assert len(set(drawn)) == 20 and set(drawn) <= set(typos(text, "en"))
    assert draw(typos, text, "en", count=5, seed=1) == drawn[:5]


def test_as_many_as_there_are():
    assert sorted(draw(homoglyphs, "To", "en", count=100, seed=0)) == sorted(homoglyphs("To", "en"))
    assert draw(homoglyphs, "", "en", count=3, edits=2, seed=0) == []


def test_several_edits_follow_one_another():
    first = set(homoglyphs("To", "en"))
    twice = {again for once in first for again in homoglyphs(once, "en")}
    drawn = draw(homoglyphs, "To", "en", count=50, edits=2, seed=0)
    assert set(drawn) <= twice - {"To"}
    assert len(set(drawn)) == len(drawn) > 4
    assert drawn == draw(homoglyphs, "To", "en", count=50, edits=2, seed=0)


def test_screened_texts_have_the_clean_token_ids():
    tokens = byte_tokens()
    for language, text in QUERIES.items():
        for name, perturb in PERTURBATIONS.items():
            candidates = draw(perturb, text, language, count=20, seed=0)
            kept, undone = screen(text, candidates, tokens)
            left_out = [candidate for candidate in candidates if candidate not in set(kept)]
            assert len(left_out) == undone, name
            assert all(ids == tokens([text])[0] for ids in tokens(left_out))
            assert all(ids != tokens([text])[0] for ids in tokens(kept))


def test_what_the_normaliser_undoes():
    tokens = byte_tokens()
    assert screen("行", homoglyphs("行", "zh"), tokens) == ([], len(homoglyphs("行", "zh")))
    assert screen("city", ["ｃｉｔｙ", "𝐜𝐢𝐭𝐲", "c\u00adity", "сity"], tokens) == (["c\u00adity", "сity"], 2)
    assert screen("city", ["ci\u200bty"], tokens) == (["ci\u200bty"], 0)  # a blank, which splits the word
    assert screen("city", invisible("city", "en"), tokens).undone == 0


def test_truncation_undoes_what_lies_beyond():
    text = "query about " + "x" * 100
    assert screen(text, [text + "y", "z" + text], byte_tokens(max_len=20)) == (["z" + text], 1)


def test_clusters_of_each_script():
    assert split_graphemes("क्षत्रिय") == ["क्ष", "त्रि", "य"]
    assert split_graphemes("น้ำท่วม") == ["น้ำ", "ท่", "ว", "ม"]
    assert split_graphemes("Việt") == ["V", "i", "ệ", "t"]
    assert split_graphemes("e\u0301") == ["e\u0301"]


def test_words_are_runs_of_letters():
    text = "¿Qué año, 2024?"
    assert ["".join(word.graphemes) for word in iter_words(text)] == ["Qué", "año"]
    assert all(word.before + "".join(word.graphemes) + word.after == text for word in iter_words(text))


def test_graphemes_that_would_run_into_each_other_are_refused():
    (word,) = iter_words("किताब")
    assert word.graphemes == ["कि", "ता", "ब"]
    assert word.replaced(["कि", "ब", "ता"]) == "किबता"
    assert word.replaced(["कि", "ा", "ब"]) is None
