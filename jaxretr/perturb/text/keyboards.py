"""Keyboards: which characters are on neighboring keys, and which character the same key types on another keyboard.

Input: characters and a language. Output: characters. `layouts.py` holds the layouts. Chinese is typed by sound:
the neighbors of a Chinese character are the characters that a pinyin input method offers for the same or a similar
syllable. GB 2312 sorts its first level, the 3,755 most common characters, by pinyin. Five of six characters next to a
character there share its syllable; the others have the next syllable.
"""

import functools
import unicodedata
from collections.abc import Mapping

from jaxretr.perturb.text.layouts import LAYOUTS

_ROW_STARTS = (0.0, 1.5, 1.75, 1.25)
"""Position of the first key of each row, in key widths. Rows are shifted by 1/2, 1/4 and 1/2 of a key; the first key of
the bottom row is the extra key at its left end."""
_REACH = 1.25
"""Maximum distance between the centers of neighboring keys, in key widths: a key has up to six neighbors."""

_FIRST, _LAST = 0xB0A1, 0xD7F9
_SIZE = 94  # characters per row; the second byte is 0xA1 to 0xFE
_NEAR = 2

LANGUAGES = (*LAYOUTS, "zh")


def neighbors(character: str, language: str) -> tuple[str, ...]:
    """Return the letters on the keys next to the key of the letter `character`; for a mark, the marks.

    Empty for any other character, and for a character without a key of its own.
    """
    return similar_sounds(character) if language == "zh" else _neighbors(language).get(character, ())


@functools.cache
def alphabet(language: str) -> tuple[str, ...]:
    """Return the letters on the keyboard of `language`, without capitals; none for Chinese."""
    rows = () if language == "zh" else _rows(language)
    letters = {key for row in rows for key in row if key and unicodedata.category(key) in ("Ll", "Lo")} - set("ªº")
    return tuple(sorted(letters))


def wrong_layout(text: str, language: str) -> list[str]:
    """Return `text` as the same keys type it on an American keyboard ("привет" becomes "ghbdtn"); empty if nothing
    changes.

    A letter that takes several keys becomes what the key of its base types. A character without a key stays.
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
    """Return the character on the key that types `character`, or the part of it that one key can type."""
    base, *marks = list(unicodedata.normalize("NFD", character))
    parts = (character, *(unicodedata.normalize("NFC", base + mark) for mark in marks), base)
    return next((part for part in parts if part in table), character)


@functools.cache
def _neighbors(language: str) -> dict[str, tuple[str, ...]]:
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
        raise ValueError(
            f"No keyboard for language {language!r}, only for {', '.join(LANGUAGES)}; add a layout with "
            "scripts/make_keyboard_layouts.py."
        )
    return [row.split(" ") for row in LAYOUTS[language]]


def similar_sounds(character: str) -> tuple[str, ...]:
    """Return up to two characters before and two after `character` by pinyin; none outside GB 2312's first level."""
    code = int.from_bytes(character.encode("gb2312", "ignore"))
    if not _FIRST <= code <= _LAST:
        return ()
    place = (code // 256 - _FIRST // 256) * _SIZE + code % 256 - 0xA1
    last = (_LAST // 256 - _FIRST // 256) * _SIZE + _LAST % 256 - 0xA1
    near = range(max(place - _NEAR, 0), min(place + _NEAR, last) + 1)
    return tuple(_character_at(other) for other in near if other != place)


def _character_at(place: int) -> str:
    row, column = divmod(place, _SIZE)
    return bytes((_FIRST // 256 + row, 0xA1 + column)).decode("gb2312")
