"""Diacritics and case: variants of letters that careless writers produce.

Input: a text and its language. Output: texts. Chinese has neither.
"""

import functools
import unicodedata
from itertools import product

import regex

from jaxretr.perturb.text.edits import iter_words, split_graphemes

_STROKES = {"đ": "d", "Đ": "D", "ı": "i"}
"""Letters without a base letter in Unicode's decompositions."""
_THAI_TONES = "่้๊๋"
_ACCENT_CLASSES = frozenset({7, *range(27, 36), 107, 202, 216, 220, 230})
"""Combining classes of marks that writers omit: nukta, Arabic vowel signs, Thai tones, and the Latin, Greek and
Cyrillic accents. Hindi and Thai vowel signs have other classes; a word without them is a different word."""

_VIETNAMESE = "".join(
    unicodedata.normalize("NFC", base + tone)
    for base, tone in product("aăâeêioôơuưy", ("", "\u0300", "\u0301", "\u0303", "\u0309", "\u0323"))
)
_ACCENTED = {
    "en": "áàâäãåéèêëíìîïóòôöõúùûüçñ",
    "de": "äöü",
    "el": "άέήίϊΐόύϋΰώ",
    "es": "áéíóúüñ",
    "ru": "ёй",
    "tr": "âçğıîöşûü",
    "vi": _VIETNAMESE + "đ",
    "ar": "أإآئؤ",
    "hi": "".join(letter + "\u093c" for letter in "कखगजडढफ"),
    "th": "",
    "zh": "",
}
"""Language -> letters with diacritics that its writers can type; for English, the letters of Latin-1."""


def without_diacritics(text: str, language: str) -> list[str]:
    """Return `text` without diacritics: accents, Vietnamese tones, Arabic vowel signs and hamza, Hindi nukta, Thai
    tones.

    Vowel signs of Hindi and Thai stay. Empty if the text has no diacritic.
    """
    bare = _bare(text)
    return [bare] if bare != unicodedata.normalize("NFC", text) else []


def wrong_diacritics(text: str, language: str) -> list[str]:
    """Change the diacritic of one letter: "ä" to "a", "o" to "ö", "ế" to "ề"."""
    if language not in _ACCENTED:
        raise ValueError(f"No letters with diacritics for language {language!r}, only for {', '.join(_ACCENTED)}.")
    candidates: dict[str | None, None] = {}
    for word in iter_words(unicodedata.normalize("NFC", text)):
        for i, grapheme in enumerate(word.graphemes):
            for other in _thai_tones(grapheme) if language == "th" else _same_base(grapheme, language):
                if other != grapheme:
                    candidates[word.replaced([*word.graphemes[:i], other, *word.graphemes[i + 1 :]])] = None
    return [candidate for candidate in candidates if candidate is not None]


def cases(text: str, language: str) -> list[str]:
    """Return `text` in lower case, in capitals, in title case, and with the case of every letter swapped."""
    small, capitals = _small(text, language), _capitals(text, language)
    titled = regex.sub(r"(?<![\p{L}\p{M}])\p{L}", lambda initial: _capitals(initial[0], language), text)
    swapped = "".join(_small(c, language) if c.isupper() else _capitals(c, language) for c in text)
    return [candidate for candidate in dict.fromkeys([small, capitals, titled, swapped]) if candidate != text]


def _bare(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    kept = (_STROKES.get(c, c) for c in decomposed if unicodedata.combining(c) not in _ACCENT_CLASSES)
    return unicodedata.normalize("NFC", "".join(kept))


@functools.cache
def _families(language: str) -> dict[str, list[str]]:
    """Map each base letter to itself and its variants with diacritics."""
    families: dict[str, list[str]] = {}
    for letter in dict.fromkeys(split_graphemes(_ACCENTED[language])):
        families.setdefault(_bare(letter), [_bare(letter)]).append(letter)
    return families


def _same_base(grapheme: str, language: str) -> list[str]:
    """Return the letters that differ from this one by diacritics only, in its case; vowel signs stay."""
    bare = _bare(grapheme)
    base, signs = bare[:1], bare[1:]
    others = _families(language).get(base.lower(), [])
    return [unicodedata.normalize("NFC", (o.upper() if base.isupper() else o) + signs) for o in others]


def _thai_tones(grapheme: str) -> list[str]:
    """Return the same syllable part with another tone mark or none.

    Vowels beside a letter, and short or silent letters, take no tone mark.
    """
    if not "ก" <= grapheme[0] <= "ฮ" or "็" in grapheme or "์" in grapheme:
        return []
    bare = "".join(c for c in grapheme if c not in _THAI_TONES)
    body, tail = (bare[:-1], "ำ") if bare.endswith("ำ") else (bare, "")
    return [bare, *(body + tone + tail for tone in _THAI_TONES)]


def _small(text: str, language: str) -> str:
    return (text.replace("İ", "i").replace("I", "ı") if language == "tr" else text).lower()


def _capitals(text: str, language: str) -> str:
    return (text.replace("i", "İ") if language == "tr" else text).upper()
