"""Which words of a text correspond to which words of its translation, by the encoder's own token vectors.

In: texts and an encoder. Out: words with vectors, links between the words of two texts, and phrases that translate each
other. The links are those of SimAlign's "Argmax" (Jalili Sabet et al. 2020, arXiv 2004.08728), the phrases those of
phrase-based translation (Koehn et al. 2003, "Statistical Phrase-Based Translation").
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import regex
from jaxtyping import Float32

from jaxretr.model.encode import Encoder
from jaxretr.tokenization import clean_text

WITHOUT_BLANKS = frozenset({"ja", "km", "lo", "my", "th", "zh"})
"""Languages that write no blanks between words; there the tokenizer's pieces stand for words."""
MAX_WORDS = 3
"""Words of a phrase, on either side."""

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}](?:\S*[\p{L}\p{M}\p{N}])?")  # what blanks part, without outer punctuation
_LETTERS = regex.compile(r"[\p{Latin}\p{Greek}\p{Cyrillic}\p{N}]{2}")  # within a word of a script that writes blanks


class Words(NamedTuple):
    """The words of a text that the encoder reads, and their vectors.

    Attributes:
      text: the text.
      spans: where each word begins and ends in it.
      vectors: the mean of the last layer's vectors of a word's pieces, unit length.
    """

    text: str
    spans: list[tuple[int, int]]
    vectors: Float32[np.ndarray, "words hidden"]


class Phrase(NamedTuple):
    """Words `start` to `stop` (exclusive) of one text, and those of the other that translate them."""

    start: int
    stop: int
    other_start: int
    other_stop: int


def embed_words(encoder: Encoder, texts: Sequence[str], languages: Sequence[str]) -> list[Words]:
    """The words of queries, one forward pass a text.

    Args:
      encoder: encodes the texts as queries.
      texts: any texts; of long ones only the words before truncation count.
      languages: of each text.
    """
    prefix = encoder.query_prefix
    encoded = encoder.tokenizer(
        [prefix + clean_text(text) for text in texts],
        truncation=True,
        max_length=encoder.max_length,
        return_offsets_mapping=True,
    )
    vectors = encoder.token_vectors(encoded["input_ids"])
    found = []
    for text, language, offsets, of_tokens in zip(texts, languages, encoded["offset_mapping"], vectors, strict=True):
        pieces = [
            (max(start - len(prefix), 0), stop - len(prefix), vector)
            for (start, stop), vector in zip(offsets, of_tokens, strict=True)
            if stop > max(start, len(prefix))
        ]
        spans = _pieces(text, pieces) if language in WITHOUT_BLANKS else [m.span() for m in _WORD.finditer(text)]
        words = {
            (start, stop): np.mean(inside, axis=0)
            for start, stop in spans
            if (inside := [vector for first, last, vector in pieces if first < stop and last > start])
        }
        stacked = np.stack(list(words.values())) if words else np.empty((0, of_tokens.shape[1]), np.float32)
        unit = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        found.append(Words(text, list(words), unit))
    return found


def align(one: Words, other: Words) -> list[tuple[int, int]]:
    """Pairs of words that are each other's most similar word of the other text (by cosine), in order."""
    if not one.spans or not other.spans:
        return []
    similarity = one.vectors @ other.vectors.T
    forth, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    return [(i, int(j)) for i, j in enumerate(forth) if back[j] == i]


def phrases(links: Sequence[tuple[int, int]]) -> list[Phrase]:
    """All pairs of phrases that the links allow, words included.

    A pair begins and ends with linked words on both sides, and no word of either side is linked to one outside. Words
    without a link may stand within.
    """
    found = []
    for start, _ in links:
        for last, _ in links:
            inside = [j for i, j in links if start <= i <= last]
            if not 0 <= last - start < MAX_WORDS or max(inside) - min(inside) >= MAX_WORDS:
                continue
            outside = [j for i, j in links if not start <= i <= last]
            if not any(min(inside) <= j <= max(inside) for j in outside):
                found.append(Phrase(start, last + 1, min(inside), max(inside) + 1))
    return found


def _pieces(text: str, pieces: Sequence[tuple[int, int, np.ndarray]]) -> list[tuple[int, int]]:
    """The spans of pieces, without blanks and punctuation around them; a foreign word or a number stays whole."""
    spans: list[tuple[int, int]] = []
    for first, last, _ in pieces:
        match = _WORD.search(text, first, last)
        if not match:
            continue
        start, stop = match.span()
        # The piece of a blank that the tokenizer puts before a text has the offsets of the first letter.
        overlaps = spans and start < spans[-1][1]
        if overlaps or (spans and start == spans[-1][1] and _LETTERS.match(text, start - 1)):
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans
