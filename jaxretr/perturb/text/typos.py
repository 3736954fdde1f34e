"""Slips of the finger: every text that is one typing error away.

In: a text and its language. Out: texts that differ from it by exactly one insertion, deletion, substitution,
transposition or repetition of a grapheme cluster, inside one word. The kinds and the rule which words are hit (letters
only, three and more, no function words) are those of Zhuang and Zuccon (2021, "Dealing with Typos for BERT-based
Passage Retrieval and Ranking"); a Chinese phrase may be shorter, for its words are.
"""

import unicodedata
from collections.abc import Callable, Iterator

from jaxretr.perturb.text.function_words import FUNCTION_WORDS
from jaxretr.perturb.text.graphemes import Word, split, words
from jaxretr.perturb.text.keyboards import alphabet, neighbours

MIN_LETTERS = 3


def insertions(text: str, language: str) -> list[str]:
    """One letter too many, at any place in a word: any letter of the keyboard, in the case of the letter before.

    In Chinese: a character similar in sound to the one before.
    """

    def edits(graphemes: list[str]) -> Iterator[list[str]]:
        for i, grapheme in enumerate(graphemes):
            letters = neighbours(grapheme, language) if language == "zh" else alphabet(language)
            for letter in letters:
                yield [*graphemes[: i + 1], _in_case_of(grapheme, letter, language), *graphemes[i + 1 :]]
        for letter in alphabet(language):
            yield [_in_case_of(graphemes[0], letter, language), *graphemes]

    return _candidates(text, language, edits)


def deletions(text: str, language: str) -> list[str]:
    """One grapheme missing from a word."""
    return _candidates(text, language, lambda g: (g[:i] + g[i + 1 :] for i in range(len(g) if len(g) > 1 else 0)))


def transpositions(text: str, language: str) -> list[str]:
    """Two different neighbouring graphemes of a word swapped."""
    return _candidates(
        text,
        language,
        lambda g: ([*g[:i], g[i + 1], g[i], *g[i + 2 :]] for i in range(len(g) - 1) if g[i] != g[i + 1]),
    )


def repetitions(text: str, language: str) -> list[str]:
    """One grapheme of a word typed twice."""
    return _candidates(text, language, lambda g: (g[: i + 1] + g[i:] for i in range(len(g))))


def substitutions(text: str, language: str) -> list[str]:
    """One grapheme replaced by what a neighbouring key types.

    Of a cluster, one letter or mark is replaced. A letter that no key carries is typed as a base and an accent: "é"
    becomes a neighbour of "e", or gets a neighbouring accent where accents have keys. In Chinese: a character of
    similar sound.
    """

    def edits(graphemes: list[str]) -> Iterator[list[str]]:
        for i, grapheme in enumerate(graphemes):
            for other in _slips(grapheme, language):
                yield [*graphemes[:i], other, *graphemes[i + 1 :]]

    return _candidates(text, language, edits)


def typos(text: str, language: str) -> list[str]:
    """All of the above."""
    kinds = (insertions, deletions, transpositions, repetitions, substitutions)
    return list(dict.fromkeys(candidate for kind in kinds for candidate in kind(text, language)))


def _candidates(text: str, language: str, edits: Callable[[list[str]], Iterator[list[str]]]) -> list[str]:
    """The different texts that come of editing each word that may be hit."""
    found = dict.fromkeys(
        word.replaced(edited) for word in words(text) if _may_be_hit(word, language) for edited in edits(word.graphemes)
    )
    return [candidate for candidate in found if candidate is not None and candidate != text]


def _may_be_hit(word: Word, language: str) -> bool:
    if language not in FUNCTION_WORDS:
        raise ValueError(f"No function words for language {language!r}, only {', '.join(FUNCTION_WORDS)}.")
    long = len(word.graphemes) >= MIN_LETTERS or language == "zh"
    return long and "".join(word.graphemes).lower() not in FUNCTION_WORDS[language]


def _slips(grapheme: str, language: str) -> list[str]:
    """Graphemes that a finger next to the right key makes of this one."""
    slips = [
        grapheme[:i] + other + grapheme[i + 1 :]
        for i, character in enumerate(grapheme)
        for other in neighbours(character, language)
    ]
    if not slips:
        base, *marks = list(unicodedata.normalize("NFD", grapheme))
        slips = list(neighbours(base, language))
        for i, mark in enumerate(marks):
            for other in neighbours(mark, language):
                slips.append(unicodedata.normalize("NFC", "".join([base, *marks[:i], other, *marks[i + 1 :]])))
    return [slip for slip in slips if slip != grapheme and len(split(slip)) == 1]


def _in_case_of(grapheme: str, letter: str, language: str) -> str:
    if not grapheme.isupper():
        return letter
    return "İ" if language == "tr" and letter == "i" else letter.upper()
