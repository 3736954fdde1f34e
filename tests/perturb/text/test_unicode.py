import unicodedata

import pytest

from jaxretr.perturb.text import deleted_letters, homoglyphs, invisible, reorderings
from jaxretr.perturb.text.edits import split_graphemes
from jaxretr.perturb.text.unicode import ZERO_WIDTH
from tests.perturb.text.queries import QUERIES

INVISIBLE = ZERO_WIDTH + "\u200c\u200e\u200f\u061c"
CONTROLS = "\u202d\u202e\u202c\u2066\u2067\u2069"


def without(text: str, characters: str) -> str:
    return "".join(character for character in text if character not in characters)


@pytest.mark.parametrize("language", QUERIES)
def test_one_invisible_character_between_graphemes(language):
    text = QUERIES[language]
    candidates = invisible(text, language)
    assert len(candidates) >= 50
    for candidate in candidates:
        assert len(candidate) == len(text) + 1
        assert without(candidate, INVISIBLE) == text
        at = next(i for i, (a, b) in enumerate(zip(candidate, text + " ", strict=True)) if a != b)
        assert split_graphemes(candidate[:at]) + split_graphemes(text[at:]) == split_graphemes(text)
        assert unicodedata.category(candidate[at]) in ("Cf", "Mn")


def test_direction_marks_are_those_of_the_letters_beside():
    assert not any("\u200e" in candidate or "\u200c" in candidate for candidate in invisible("عاصمة", "ar"))
    assert any("\u061c" in candidate for candidate in invisible("عاصمة", "ar"))
    assert any("\u200e" in candidate for candidate in invisible("city", "en"))
    assert not any("\u200f" in candidate for candidate in invisible("city", "en"))


def test_a_virama_is_not_parted_from_the_next_letter():
    assert invisible("क्ष", "hi") == []
    assert not any(f"क्{character}" in candidate for candidate in invisible("श्री", "hi") for character in INVISIBLE)


@pytest.mark.parametrize("language", sorted(set(QUERIES) - {"hi", "th"}))
def test_a_homoglyph_is_another_letter_of_the_same_kind(language):
    text = QUERIES[language]
    candidates = homoglyphs(text, language)
    assert candidates
    for candidate in candidates:
        pairs = [(a, b) for a, b in zip(text, candidate, strict=True) if a != b]
        assert len(pairs) == 1
        (letter, other) = pairs[0]
        # Small capitals of other scripts are small letters; Kangxi radicals are symbols.
        assert unicodedata.category(other) == unicodedata.category(letter) or unicodedata.category(other) == "So"
        other_script = unicodedata.name(other).split()[0] != unicodedata.name(letter).split()[0]
        assert other_script or language in ("ar", "zh") or "SMALL CAPITAL" in unicodedata.name(other)


def test_known_homoglyphs():
    assert set(homoglyphs("To", "en")) == {"Τo", "Тo", "Tο", "Tо"}
    assert homoglyphs("و", "ar") == []
    assert homoglyphs("كي", "ar") == ["کي"]  # only the first joins a letter that follows
    assert homoglyphs("किताब", "hi") == homoglyphs("ที่", "th") == []


@pytest.mark.parametrize("language", sorted(set(QUERIES) - {"ar"}))
def test_a_reordering_shows_the_clean_text(language):
    text = QUERIES[language]
    candidates = reorderings(text, language)
    assert candidates
    for candidate in candidates:
        opened, rest = candidate.split("\u202d\u2066\u202e\u2066")
        second, rest = rest.split("\u2069\u2066")
        first, after = rest.split("\u2069\u202c\u2069\u202c")
        assert opened + first + second + after == text  # an override to the left shows the two in reverse
        assert without(candidate, CONTROLS) == opened + second + first + after != text
        assert len(split_graphemes(first)) == len(split_graphemes(second)) == 1


def test_controls_are_balanced():
    """Unicode Standard Annex 9: each override ends in a PDF, each isolate in a PDI, properly nested."""
    for candidate in reorderings(QUERIES["en"], "en"):
        stack = []
        for character in candidate:
            if character in "\u202d\u202e\u2066":
                stack.append("\u2069" if character == "\u2066" else "\u202c")
            elif character in "\u2069\u202c":
                assert stack.pop() == character
        assert stack == []


def test_joined_letters_are_not_reordered():
    assert reorderings(QUERIES["ar"], "ar") == []
    assert reorderings("city عاصمة", "ar")


@pytest.mark.parametrize("language", QUERIES)
def test_backspace_restores_the_text(language):
    text = QUERIES[language]
    candidates = deleted_letters(text, language)
    assert len(set(candidates)) == len(candidates) >= 100
    for candidate in candidates:
        typed = ""
        for character in candidate:
            typed = typed[:-1] if character == "\b" else typed + character
        assert typed == text
