import unicodedata

import pytest

from jaxretr.perturb.text import cases, without_diacritics, wrong_diacritics
from jaxretr.perturb.text.edits import split_graphemes
from tests.perturb.text.queries import QUERIES


@pytest.mark.parametrize(
    ("language", "text", "bare"),
    [
        ("de", "Für die Größe", "Fur die Große"),
        ("el", "πρώτος άνθρωπος", "πρωτος ανθρωπος"),
        ("es", "¿Qué año?", "¿Que ano?"),
        ("ru", "её йод", "ее иод"),
        ("tr", "İstanbul ışığı", "Istanbul isigi"),
        ("vi", "Việt Nam được", "Viet Nam duoc"),
        ("ar", "الأُردُنّ", "الاردن"),
        ("hi", "ज़मीन में", "जमीन में"),
        ("th", "น้ำที่บ้าน", "นำทีบาน"),
    ],
)
def test_without_diacritics(language, text, bare):
    assert without_diacritics(text, language) == [bare]
    assert without_diacritics(unicodedata.normalize("NFD", text), language) == [bare]
    assert without_diacritics(bare, language) == []


def test_vowel_signs_are_no_diacritics():
    assert without_diacritics("किताब में हूँ", "hi") == []
    assert without_diacritics("ปู", "th") == []


@pytest.mark.parametrize("language", sorted(set(QUERIES) - {"zh"}))
def test_wrong_diacritics_differ_in_one_grapheme_with_the_same_base(language):
    text = QUERIES[language]
    candidates = wrong_diacritics(text, language)
    assert candidates
    for candidate in candidates:
        pairs = [
            pair for pair in zip(split_graphemes(text), split_graphemes(candidate), strict=True) if pair[0] != pair[1]
        ]
        assert len(pairs) == 1
        base, other = ((without_diacritics(part, language) or [part])[0] for part in pairs[0])
        assert base == other


def test_known_wrong_diacritics():
    assert set(wrong_diacritics("Bär", "de")) == {"Bar"}
    assert set(wrong_diacritics("über", "de")) == {"uber"}
    assert set(wrong_diacritics("ON", "de")) == {"ÖN"}
    assert len(wrong_diacritics("ế", "vi")) == 11  # e and ê with five tones and without, but this one
    assert set(wrong_diacritics("น้ำ", "th")) == {"นำ", "น่ำ", "น๊ำ", "น๋ำ"}
    assert wrong_diacritics("กาแฟ์", "th") == ["ก่าแฟ์", "ก้าแฟ์", "ก๊าแฟ์", "ก๋าแฟ์"]
    assert wrong_diacritics("中国", "zh") == []


def test_cases():
    assert cases("Was ist München?", "de") == [
        "was ist münchen?",
        "WAS IST MÜNCHEN?",
        "Was Ist München?",
        "wAS IST mÜNCHEN?",
    ]
    assert cases("ışık iki", "tr") == ["IŞIK İKİ", "Işık İki"]
    assert cases("中国 ที่ किताब ما", "zh") == []


def test_unknown_language():
    with pytest.raises(ValueError, match="'xx'"):
        wrong_diacritics("city", "xx")
