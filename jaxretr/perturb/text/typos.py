"""Typing errors: every text that is one typo away.

Input: a text and its language. Output: texts that differ from it by exactly one insertion, deletion, substitution,
transposition or repetition of a grapheme cluster inside one word. The kinds, and the rule that selects words (letters
only, at least three, no function words), come from Zhuang and Zuccon (2021, "Dealing with Typos for BERT-based
Passage Retrieval and Ranking"). A Chinese phrase may be shorter, because Chinese words are.
"""

import unicodedata
from collections.abc import Callable, Iterator

from jaxretr.perturb.text.edits import Word, iter_words, split_graphemes
from jaxretr.perturb.text.keyboards import alphabet, neighbors
from jaxretr.perturb.text.words import FUNCTION_WORDS

MIN_LETTERS = 3


def insertions(text: str, language: str) -> list[str]:
    """Insert one letter at any position of a word: any letter of the keyboard, in the case of the letter before it.

    In Chinese: a character that sounds similar to the one before it.
    """

    def edits(graphemes: list[str]) -> Iterator[list[str]]:
        for i, grapheme in enumerate(graphemes):
            letters = neighbors(grapheme, language) if language == "zh" else alphabet(language)
            for letter in letters:
                yield [*graphemes[: i + 1], _in_case_of(grapheme, letter, language), *graphemes[i + 1 :]]
        for letter in alphabet(language):
            yield [_in_case_of(graphemes[0], letter, language), *graphemes]

    return _candidates(text, language, edits)


def deletions(text: str, language: str) -> list[str]:
    """Delete one grapheme of a word."""
    return _candidates(text, language, lambda g: (g[:i] + g[i + 1 :] for i in range(len(g) if len(g) > 1 else 0)))


def transpositions(text: str, language: str) -> list[str]:
    """Swap two different neighboring graphemes of a word."""
    return _candidates(
        text,
        language,
        lambda g: ([*g[:i], g[i + 1], g[i], *g[i + 2 :]] for i in range(len(g) - 1) if g[i] != g[i + 1]),
    )


def repetitions(text: str, language: str) -> list[str]:
    """Repeat one grapheme of a word."""
    return _candidates(text, language, lambda g: (g[: i + 1] + g[i:] for i in range(len(g))))


def substitutions(text: str, language: str) -> list[str]:
    """Replace one grapheme by what a neighboring key types.

    In a cluster, one letter or mark is replaced. A letter without a key is typed as a base and an accent: "é" becomes a
    neighbor of "e", or gets a neighboring accent if accents have keys. In Chinese: a character that sounds similar.
    """

    def edits(graphemes: list[str]) -> Iterator[list[str]]:
        for i, grapheme in enumerate(graphemes):
            for other in _slips(grapheme, language):
                yield [*graphemes[:i], other, *graphemes[i + 1 :]]

    return _candidates(text, language, edits)


def typos(text: str, language: str) -> list[str]:
    """Return the texts of all five kinds."""
    kinds = (insertions, deletions, transpositions, repetitions, substitutions)
    return list(dict.fromkeys(candidate for kind in kinds for candidate in kind(text, language)))


def _candidates(text: str, language: str, edits: Callable[[list[str]], Iterator[list[str]]]) -> list[str]:
    """Return the distinct texts that result from edits of each eligible word."""
    candidates = dict.fromkeys(
        word.replaced(edited)
        for word in iter_words(text)
        if _is_eligible(word, language)
        for edited in edits(word.graphemes)
    )
    return [candidate for candidate in candidates if candidate is not None and candidate != text]


def _is_eligible(word: Word, language: str) -> bool:
    if language not in FUNCTION_WORDS:
        raise ValueError(f"No function words for language {language!r}, only for {', '.join(FUNCTION_WORDS)}.")
    long = len(word.graphemes) >= MIN_LETTERS or language == "zh"
    return long and "".join(word.graphemes).lower() not in FUNCTION_WORDS[language]


def _slips(grapheme: str, language: str) -> list[str]:
    """Return the graphemes that result if a finger hits a neighboring key."""
    slips = [
        grapheme[:i] + other + grapheme[i + 1 :]
        for i, character in enumerate(grapheme)
        for other in neighbors(character, language)
    ]
    if not slips:
        base, *marks = list(unicodedata.normalize("NFD", grapheme))
        slips = list(neighbors(base, language))
        for i, mark in enumerate(marks):
            for other in neighbors(mark, language):
                slips.append(unicodedata.normalize("NFC", "".join([base, *marks[:i], other, *marks[i + 1 :]])))
    return [slip for slip in slips if slip != grapheme and len(split_graphemes(slip)) == 1]


def _in_case_of(grapheme: str, letter: str, language: str) -> str:
    if not grapheme.isupper():
        return letter
    return "İ" if language == "tr" and letter == "i" else letter.upper()
