"""Text as a reader sees it: grapheme clusters, and the words made of them.

In: a string. Out: its clusters, or where its words are. Hindi conjuncts, Thai vowels and tones above or below a letter
are parts of one cluster; perturbations that work on clusters never tear them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import regex

_CLUSTER = regex.compile(r"\X")
_WORD = regex.compile(r"[\p{L}\p{M}]+")


class Word(NamedTuple):
    """A run of letters inside a text, which is `before`, the joined `graphemes`, and `after`."""

    before: str
    graphemes: list[str]
    after: str

    def replaced(self, graphemes: list[str]) -> str | None:
        """The text with other graphemes in the word's place; None if they would run into each other."""
        word = "".join(graphemes)
        return self.before + word + self.after if split(word) == graphemes else None


def split(text: str) -> list[str]:
    """The extended grapheme clusters of `text` (Unicode Standard Annex 29)."""
    return _CLUSTER.findall(text)


def words(text: str) -> Iterator[Word]:
    """The runs of letters and marks of `text`. Chinese and Thai write no blanks: a run there is a phrase."""
    for match in _WORD.finditer(text):
        yield Word(text[: match.start()], split(match.group()), text[match.end() :])
