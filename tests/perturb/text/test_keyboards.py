import unicodedata

import pytest

from jaxretr.perturb.text.keyboards import LANGUAGES, alphabet, neighbors, similar_sounds, wrong_layout
from jaxretr.perturb.text.layouts import LAYOUTS
from tests.perturb.text.queries import QUERIES

# Which letters lie around one, read off pictures of the national keyboards.
AROUND = [
    ("en", "s", "weadzx"),
    ("en", "G", "TYFHVB"),
    ("de", "z", "tugh"),
    ("el", "σ", "ςεαδζχ"),
    ("es", "ñ", "pl"),
    ("ru", "ф", "йцыя"),
    ("tr", "ş", "pğliç"),
    ("ar", "ت", "عهانىة"),
    ("hi", "क", "गदरतस"),
    ("hi", "ि", "ीू्ु"),
    ("th", "ก", "พหดปแำ"),
    ("th", "่", "ี้ื"),
]


@pytest.mark.parametrize(("language", "letter", "around"), AROUND)
def test_neighbours_on_the_keyboard(language, letter, around):
    assert set(neighbors(letter, language)) == set(around)


@pytest.mark.parametrize("language", sorted(LAYOUTS))
def test_being_neighbours_is_mutual(language):
    letters = {key for row in LAYOUTS[language] for key in row.split(" ") if key}
    pairs = {(letter, other) for letter in letters for other in neighbors(letter, language)}
    assert pairs == {(other, letter) for letter, other in pairs}
    assert len(pairs) > 100


@pytest.mark.parametrize("language", sorted(LAYOUTS))
def test_layouts_have_the_keys_of_a_keyboard(language):
    assert [len(row.split(" ")) for row in LAYOUTS[language]] == [13, 12, 12, 11] * 2


@pytest.mark.parametrize(
    ("language", "letters"),
    [
        ("en", "abcdefghijklmnopqrstuvwxyz"),
        ("de", "abcdefghijklmnopqrstuvwxyzäöüß"),
        ("el", "αβγδεζηθικλμνξοπρσςτυφχψω"),
        ("ru", "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"),
    ],
)
def test_alphabet(language, letters):
    assert set(alphabet(language)) == set(letters)


def test_every_thai_consonant_has_a_key():
    assert {chr(code) for code in range(ord("ก"), ord("ฮ") + 1)} <= set(alphabet("th"))


def test_languages_are_those_of_the_queries():
    assert set(LANGUAGES) == set(QUERIES)


def test_unknown_language():
    with pytest.raises(ValueError, match=r"'xx'.*en.*zh"):
        neighbors("a", "xx")


@pytest.mark.parametrize(
    ("text", "language", "typed"),
    [("Привет", "ru", "Ghbdtn"), ("zyklus", "de", "yzklus"), ("ήταν", "el", "htan"), ("कब", "hi", "ky")],
)
def test_wrong_layout(text, language, typed):
    assert wrong_layout(text, language) == [typed]


def test_wrong_layout_changes_nothing_in_english_and_chinese():
    assert wrong_layout("When?", "en") == wrong_layout("哪里", "zh") == []


def test_similar_sounds_share_a_syllable():
    assert set(similar_sounds("是")) == set("逝势嗜噬")  # all shì
    assert similar_sounds("啊") == ("阿", "埃")  # the first character
    assert similar_sounds("座") == ("作", "坐")  # the last
    assert similar_sounds("龘") == similar_sounds("a") == similar_sounds("") == ()
    assert all(unicodedata.name(character).startswith("CJK") for character in similar_sounds("中"))
