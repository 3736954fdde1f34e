"""Perturbations that a reader cannot see: invisible characters, look-alikes, reordering and deletion characters.

In: a text and its language. Out: texts one injection away that look the same where the standard is followed. The four
kinds and their budget, the number of injections, are those of Boucher et al. (2022, "Bad Characters: Imperceptible NLP
Attacks"). Injections stand between grapheme clusters of one word, never inside a cluster. A tokenizer's normaliser
undoes some of them; `edits.screen` tells which.
"""

import functools
import unicodedata
from collections.abc import Iterator

from jaxretr.perturb.text.graphemes import words
from jaxretr.perturb.text.keyboards import alphabet

ZERO_WIDTH = "\u200b\u200d\u2060\ufeff\u00ad\u034f\ufe00\ufe0f"
"""Zero width space, joiner, word joiner, byte order mark; soft hyphen, grapheme joiner, variation selectors 1, 16."""
_NON_JOINER = "\u200c"  # seen between Arabic letters, which it parts, and only there
_MARKS = {"L": "\u200e", "R": "\u200f", "AL": "\u061c"}
"""Direction of a letter -> the invisible mark of that direction, which beside it changes nothing."""
_LRO, _RLO, _PDF, _LRI, _RLI, _PDI = "\u202d\u202e\u202c\u2066\u2067\u2069"
_BACKSPACE = "\b"

_LOOK_ALIKES = (
    "AΑА BΒВ CС EΕЕ HΗН IΙІ JЈ KΚК MΜМ NΝ OΟО PΡР SЅ TΤТ XΧХ YΥҮ ZΖ ΓГ ΠП aа cс dԁ eе hһ iі jϳј oοо pр sѕ "
    "xх yу εɛ ιɩ кĸ нʜ вʙ мᴍ тᴛ лᴫ пᴨ гᴦ ىی"
)
"""Letters of different scripts or kinds that look the same: the Latin, Greek and Cyrillic ones of Unicode's
intentional.txt (Technical Standard 39), closed under transitivity and case; and the Arabic and the Persian yeh."""
_LOOK_ALIKES_BEFORE_A_LETTER = {"ك": "ک", "ي": "ی"}
"""Arabic letters that look like the Persian ones only where they join the next letter."""
_CHINESE_COPIES = (range(0x2F00, 0x2FD6), range(0xF900, 0xFAD9))
"""Kangxi radicals and compatibility ideographs: second code points of the same characters, folded by NFKC."""


def invisible(text: str, language: str) -> list[str]:
    """One character of no width inside a word."""
    found: dict[str, None] = {}
    for before, left, after in _gaps(text):
        direction = unicodedata.bidirectional(left[0])
        joining = direction == "AL"
        for character in ZERO_WIDTH + _MARKS.get(direction, "") + ("" if joining else _NON_JOINER):
            found[before + character + after] = None
    return list(found)


def homoglyphs(text: str, language: str) -> list[str]:
    """One letter replaced by one that looks the same. Hindi and Thai letters have none."""
    found: dict[str, None] = {}
    for i, character in enumerate(text):
        others = _look_alikes().get(character, "")
        following = text[i + 1 : i + 2]
        if following and unicodedata.bidirectional(following) == "AL":
            others += _LOOK_ALIKES_BEFORE_A_LETTER.get(character, "")
        for other in others:
            found[text[:i] + other + text[i + 1 :]] = None
    return list(found)


def reorderings(text: str, language: str) -> list[str]:
    """Two neighbouring graphemes stored in the other order, inside controls that show them in the right one.

    Arabic letters are left alone: the controls would part what is written joined.
    """
    found: dict[str, None] = {}
    for word in words(text):
        for i in range(len(word.graphemes) - 1):
            first, second = word.graphemes[i : i + 2]
            directions = {unicodedata.bidirectional(first[0]), unicodedata.bidirectional(second[0])}
            if first != second and directions == {"L"}:
                swapped = f"{_LRO}{_LRI}{_RLO}{_LRI}{second}{_PDI}{_LRI}{first}{_PDI}{_PDF}{_PDI}{_PDF}"
                rest = "".join(word.graphemes[i + 2 :]) + word.after
                found[word.before + "".join(word.graphemes[:i]) + swapped + rest] = None
    return list(found)


def deleted_letters(text: str, language: str) -> list[str]:
    """One more letter of the keyboard inside a word, and a backspace that deletes it; Latin ones in Chinese."""
    letters = alphabet("en" if language == "zh" else language)
    return list(
        dict.fromkeys(before + letter + _BACKSPACE + after for before, _, after in _gaps(text) for letter in letters)
    )


def _gaps(text: str) -> Iterator[tuple[str, str, str]]:
    """What stands before each gap between two graphemes of a word, the grapheme before it, and what stands after.

    Not after a virama, which would join the letters but for what is put between them.
    """
    for word in words(text):
        for i in range(1, len(word.graphemes)):
            left = word.graphemes[i - 1]
            if unicodedata.combining(left[-1]) != 9:
                yield word.before + "".join(word.graphemes[:i]), left, "".join(word.graphemes[i:]) + word.after


@functools.cache
def _look_alikes() -> dict[str, str]:
    table = {letter: alike.replace(letter, "") for alike in _LOOK_ALIKES.split() for letter in alike}
    for block in _CHINESE_COPIES:
        for copy in map(chr, block):
            original = unicodedata.normalize("NFKC", copy)
            if original != copy:
                table[original] = table.get(original, "") + copy
    return table
