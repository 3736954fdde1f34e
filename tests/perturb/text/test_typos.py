import pytest

from jaxretr.perturb.text import deletions, insertions, repetitions, substitutions, transpositions, typos
from jaxretr.perturb.text.edits import split_graphemes
from tests.perturb.text.queries import QUERIES

GROWTH = {insertions: 1, repetitions: 1, deletions: -1, substitutions: 0, transpositions: 0}


def distance(a: list[str], b: list[str]) -> int:
    """Optimal string alignment (Damerau 1964): insertions, deletions, substitutions and adjacent transpositions."""
    rows = [list(range(len(b) + 1))]
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a[i - 1] != b[j - 1])))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def middle(a: list[str], b: list[str]) -> tuple[list[str], list[str]]:
    """What differs: common beginnings and ends taken off, which changes no distance."""
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return a, b


@pytest.mark.parametrize("kind", GROWTH, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("language", QUERIES)
def test_each_typo_is_one_edit_of_graphemes(kind, language):
    text = QUERIES[language]
    candidates = kind(text, language)
    assert len(candidates) >= 4
    assert len(set(candidates)) == len(candidates)
    for candidate in candidates:
        assert distance(*middle(split_graphemes(text), split_graphemes(candidate))) == 1
        assert len(split_graphemes(candidate)) == len(split_graphemes(text)) + GROWTH[kind]


def test_known_typos():
    assert deletions("city", "en") == ["ity", "cty", "ciy", "cit"]
    assert transpositions("hello", "en") == ["ehllo", "hlelo", "helol"]
    assert repetitions("ночь", "ru") == ["нночь", "ноочь", "ноччь", "ночьь"]
    assert "कितब" not in deletions("किताब", "hi")  # a vowel sign alone is no grapheme
    assert deletions("किताब", "hi") == ["ताब", "किब", "किता"]
    assert transpositions("น้ำท่วม", "th")[0] == "ท่น้ำวม"


def test_substitutions_of_one_code_point_of_a_cluster():
    assert "गिताब" in substitutions("किताब", "hi")  # the letter
    assert "कीताब" in substitutions("किताब", "hi")  # the vowel sign beside it
    assert "นัำ" not in substitutions("น้ำ", "th")  # too short a word
    assert "น้ำทีวม" in substitutions("น้ำท่วม", "th")


def test_letters_without_a_key():
    assert "cafr" in substitutions("café", "es")
    assert "nãng" in substitutions("náng", "vi")  # the key of the tone beside the right one
    assert "CAFR" in substitutions("CAFÉ", "es")


def test_capitals():
    assert "LOANDON" in insertions("LONDON", "en")
    assert "Loandon" in insertions("London", "en")
    assert "IİST" in insertions("IST", "tr")


def test_short_and_function_words_are_spared():
    assert typos("am to be with the", "en") == typos("во из или за", "ru") == []
    assert all(candidate.endswith(" with it") for candidate in typos("city with it", "en"))
    assert typos("哪", "zh")  # a Chinese word may be one character


def test_typos_are_all_kinds():
    text = QUERIES["el"]
    assert set(typos(text, "el")) == {candidate for kind in GROWTH for candidate in kind(text, "el")}


def test_unknown_language():
    with pytest.raises(ValueError, match="'xx'"):
        typos("city", "xx")
