"""Keyboards: which characters lie next to each other, and which key types what on another keyboard.

In: characters and a language. Out: characters. The layouts are those of `layouts.py`; Chinese is typed by sound, so a
Chinese character's neighbours are what the same or a similar syllable yields (`pinyin.py`).
"""

import functools
import unicodedata
from collections.abc import Mapping

from jaxretr.perturb.text.layouts import LAYOUTS
from jaxretr.perturb.text.pinyin import similar_sounds

_ROW_STARTS = (0.0, 1.5, 1.75, 1.25)
"""Where the first key of each row lies, in key widths: rows are shifted by 1/2, 1/4 and 1/2 of a key, and the first
key of the bottom row is the extra one left of it."""
_REACH = 1.25
"""Keys whose centres are at most so far apart, in key widths, are neighbours: up to six of them."""

LANGUAGES = (*LAYOUTS, "zh")


def neighbours(character: str, language: str) -> tuple[str, ...]:
    """Letters on the keys next to the one that types the letter `character`, or marks if it is a mark.

    Empty for what is no letter or mark, or is on no key by itself.
    """
    return similar_sounds(character) if language == "zh" else _neighbours(language).get(character, ())


@functools.cache
def alphabet(language: str) -> tuple[str, ...]:
    """The letters on the keyboard of `language`, without capitals; none in Chinese."""
    rows = () if language == "zh" else _rows(language)
    letters = {key for row in rows for key in row if key and unicodedata.category(key) in ("Ll", "Lo")} - set("ªº")
    return tuple(sorted(letters))


def wrong_layout(text: str, language: str) -> list[str]:
    """`text` as its keys type it on an American keyboard: "привет" becomes "ghbdtn". Empty if nothing changes.

    A letter that takes several keys becomes what the key of its base types; a character without a key stays.
    """
    if language == "zh":
        return []
    table = {
        key: typed
        for row, american in zip(_rows(language), _rows("en"), strict=True)
        for key, typed in zip(row, american, strict=True)
    }
    typed = "".join(table.get(_key(character, table)) or character for character in unicodedata.normalize("NFC", text))
    return [typed] if typed != unicodedata.normalize("NFC", text) else []


def _key(character: str, table: Mapping[str, str]) -> str:
    """The character on the key that types `character`, or as much of it as one key can."""
    base, *marks = list(unicodedata.normalize("NFD", character))
    parts = (character, *(unicodedata.normalize("NFC", base + mark) for mark in marks), base)
    return next((part for part in parts if part in table), character)


@functools.cache
def _neighbours(language: str) -> dict[str, tuple[str, ...]]:
    keys = [
        (key, row // 4, row % 4, _ROW_STARTS[row % 4] + column)
        for row, characters in enumerate(_rows(language))
        for column, key in enumerate(characters)
        if key and unicodedata.category(key)[0] in "LM"
    ]
    return {
        key: tuple(
            other
            for other, other_shift, other_row, other_x in keys
            if other != key
            and other_shift == shift
            and unicodedata.category(other)[0] == unicodedata.category(key)[0]
            and (other_row - row) ** 2 + (other_x - x) ** 2 <= _REACH**2
        )
        for key, shift, row, x in keys
    }


def _rows(language: str) -> list[list[str]]:
    if language not in LAYOUTS:
        raise ValueError(f"No keyboard for language {language!r}, only {', '.join(LANGUAGES)}; xkb.py reads others.")
    return [row.split(" ") for row in LAYOUTS[language]]
