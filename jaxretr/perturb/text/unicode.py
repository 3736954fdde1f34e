"""Perturbations that a reader cannot see: invisible characters, homoglyphs, reordering and deletion characters.

Input: a text and its language. Output: texts one injection away, which look the same in software that follows the
Unicode Standard. The four kinds, and their budget (the number of injections), come from Boucher et al. (2022, "Bad
Characters: Imperceptible NLP Attacks"). Injections are placed between grapheme clusters of one word, never inside a
cluster. A tokenizer's normalizer undoes some of them; `edits.screen` finds these.
"""

import functools
import unicodedata
from collections.abc import Iterator

from jaxretr.perturb.text.edits import iter_words
from jaxretr.perturb.text.keyboards import alphabet

ZERO_WIDTH = "\u200b\u200d\u2060\ufeff\u00ad\u034f\ufe00\ufe0f"
"""Zero width space, joiner, word joiner, byte order mark; soft hyphen, grapheme joiner, variation selectors 1 and
16."""
_NON_JOINER = "\u200c"  # visible between Arabic letters, because it separates them, and nowhere else
_MARKS = {"L": "\u200e", "R": "\u200f", "AL": "\u061c"}
"""Direction of a letter -> the invisible mark of that direction, which changes nothing beside that letter."""
_LRO, _RLO, _PDF, _LRI, _RLI, _PDI = "\u202d\u202e\u202c\u2066\u2067\u2069"
_BACKSPACE = "\b"

_LOOK_ALIKES = (
    "AΑА BΒВ CС EΕЕ HΗН IΙІ JЈ KΚК MΜМ NΝ OΟО PΡР SЅ TΤТ XΧХ YΥҮ ZΖ ΓГ ΠП aа cс dԁ eе hһ iі jϳј oοо pр sѕ "
    "xх yу εɛ ιɩ кĸ нʜ вʙ мᴍ тᴛ лᴫ пᴨ гᴦ ىی"
)
"""Letters of different scripts or kinds that look the same: the Latin, Greek and Cyrillic letters of Unicode's
intentional.txt (Technical Standard 39), closed under transitivity and case; and the Arabic and the Persian yeh."""
_LOOK_ALIKES_BEFORE_A_LETTER = {"ك": "ک", "ي": "ی"}
"""Arabic letters that look like the Persian letters only if they join the next letter."""
_CHINESE_COPIES = (range(0x2F00, 0x2FD6), range(0xF900, 0xFAD9))
"""Kangxi radicals and compatibility ideographs: second code points of the same characters; NFKC folds them."""


def invisible(text: str, language: str) -> list[str]:
    """Insert one character of zero width inside a word."""
    candidates: dict[str, None] = {}
    for before, left, after in _gaps(text):
        direction = unicodedata.bidirectional(left[0])
        joining = direction == "AL"
        for character in ZERO_WIDTH + _MARKS.get(direction, "") + ("" if joining else _NON_JOINER):
            candidates[before + character + after] = None
    return list(candidates)


def homoglyphs(text: str, language: str) -> list[str]:
    """Replace one letter by a letter that looks the same. Hindi and Thai letters have none."""
    candidates: dict[str, None] = {}
    for i, character in enumerate(text):
        others = _look_alikes().get(character, "")
        following = text[i + 1 : i + 2]
        if following and unicodedata.bidirectional(following) == "AL":
            others += _LOOK_ALIKES_BEFORE_A_LETTER.get(character, "")
        for other in others:
            candidates[text[:i] + other + text[i + 1 :]] = None
    return list(candidates)


def reorderings(text: str, language: str) -> list[str]:
    """Store two neighboring graphemes in reverse order, inside controls that display them in the right order.

    Arabic letters are skipped: the controls would separate joined letters.
    """
    candidates: dict[str, None] = {}
    for word in iter_words(text):
        for i in range(len(word.graphemes) - 1):
            first, second = word.graphemes[i : i + 2]
            directions = {unicodedata.bidirectional(first[0]), unicodedata.bidirectional(second[0])}
            if first != second and directions == {"L"}:
                swapped = f"{_LRO}{_LRI}{_RLO}{_LRI}{second}{_PDI}{_LRI}{first}{_PDI}{_PDF}{_PDI}{_PDF}"
                rest = "".join(word.graphemes[i + 2 :]) + word.after
                candidates[word.before + "".join(word.graphemes[:i]) + swapped + rest] = None
    return list(candidates)


def deleted_letters(text: str, language: str) -> list[str]:
    """Insert one letter of the keyboard inside a word, and a backspace that deletes it; a Latin letter in Chinese."""
    letters = alphabet("en" if language == "zh" else language)
    return list(
        dict.fromkeys(before + letter + _BACKSPACE + after for before, _, after in _gaps(text) for letter in letters)
    )


def _gaps(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield, per gap between two graphemes of a word, the text before it, the grapheme before it, and the text after
    it.

    A gap after a virama is skipped: an inserted character would separate the letters that the virama joins.
    """
    for word in iter_words(text):
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
