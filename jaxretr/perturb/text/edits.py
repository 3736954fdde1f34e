"""Define perturbations of text, draw perturbed texts, screen them with the tokenizer, and split grapheme clusters.

Input: texts, a perturbation, a seed, the tokenizer. Output: perturbed texts. Perturbations edit grapheme clusters, the
characters that a reader sees. Hindi conjuncts, Thai vowels and tones above or below a letter are parts of one cluster,
so no perturbation splits them.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import regex

_CLUSTER = regex.compile(r"\X")
_WORD = regex.compile(r"[\p{L}\p{M}]+")

Perturb = Callable[[str, str], list[str]]
"""(text, language) -> all texts one edit away, without duplicates and without the text itself, in a fixed order."""
TokenIds = Callable[[Sequence[str]], list[list[int]]]
"""Texts -> token ids as the model receives them, such as a `jaxretr.tokenization.Tokenization`."""


class Screened(NamedTuple):
    """Candidates that reach the model, and the number that do not; a success rate counts only `kept`.

    Attributes:
      kept: texts with token ids that differ from the clean text's ids.
      undone: number of texts that the normalizer or the truncation maps back to the clean text's ids.
    """

    kept: list[str]
    undone: int


def screen(text: str, candidates: Sequence[str], token_ids: TokenIds) -> Screened:
    """Leave out the candidates that equal the clean `text` for the model."""
    clean, *others = token_ids([text, *candidates])
    kept = [candidate for candidate, ids in zip(candidates, others, strict=True) if ids != clean]
    return Screened(kept, len(candidates) - len(kept))


def draw(perturb: Perturb, text: str, language: str, *, count: int, edits: int = 1, seed: int) -> list[str]:
    """Draw random perturbed texts: `edits` edits in sequence, each uniform over the texts that `perturb` returns.

    Args:
      perturb: the kind of edit.
      text: the clean text.
      language: its language.
      count: number of texts to draw.
      edits: edits per text; fewer if nothing is left to edit.
      seed: the same seed and text give the same result; the draws of other texts are independent.

    Returns:
      At most `count` distinct texts, never the clean text.
    """
    rng = generator(text, seed)
    first = perturb(text, language)
    if edits == 1:
        return [first[i] for i in rng.permutation(len(first))[:count]]
    drawn: dict[str, None] = {}
    for _ in range(count):
        edited, offered = text, first
        for remaining in reversed(range(edits)):
            if not offered:
                break
            edited = offered[rng.integers(len(offered))]
            offered = perturb(edited, language) if remaining else []
        if edited != text:
            drawn[edited] = None
    return list(drawn)


def generator(text: str, seed: int) -> np.random.Generator:
    """Return the random generator of this text and seed."""
    return np.random.default_rng([seed, zlib.crc32(text.encode("utf-8", "surrogatepass"))])


class Word(NamedTuple):
    """A run of letters inside a text; the text is `before`, the joined `graphemes`, and `after`."""

    before: str
    graphemes: list[str]
    after: str

    def replaced(self, graphemes: list[str]) -> str | None:
        """Return the text with other graphemes in place of the word, or None if they merge into other clusters."""
        word = "".join(graphemes)
        return self.before + word + self.after if split_graphemes(word) == graphemes else None


def split_graphemes(text: str) -> list[str]:
    """Return the extended grapheme clusters of `text` (Unicode Standard Annex 29)."""
    return _CLUSTER.findall(text)


def iter_words(text: str) -> Iterator[Word]:
    """Yield the runs of letters and marks of `text`. Chinese and Thai have no blanks, so a run there is a phrase."""
    for match in _WORD.finditer(text):
        yield Word(text[: match.start()], split_graphemes(match.group()), text[match.end() :])
