"""Word alignment between a text and its translation, by the token vectors of the attacked encoder.

Input: texts and an encoder. Output: words with vectors, links between the words of two texts, and phrases that
translate each other. Links are defined as in SimAlign's "Argmax" (Jalili Sabet et al. 2020, arXiv 2004.08728), phrases
as in phrase-based translation (Koehn et al. 2003, "Statistical Phrase-Based Translation").
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import regex
from jaxtyping import Float32

from jaxretr.model.encode import Encoder
from jaxretr.tokenization import clean_text

WITHOUT_BLANKS = frozenset({"ja", "km", "lo", "my", "th", "zh"})
"""Languages without blanks between words; tokenizer pieces replace words there."""
MAX_WORDS = 3
"""Maximum number of words of a phrase, on either side."""

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}](?:\S*[\p{L}\p{M}\p{N}])?")  # a word between blanks, without outer punctuation
_LETTERS = regex.compile(r"[\p{Latin}\p{Greek}\p{Cyrillic}\p{N}]{2}")  # inside a word of a script with blanks


class Words(NamedTuple):
    """The words of a text that the encoder reads, and their vectors.

    Attributes:
      text: the text.
      spans: start and end of each word in the text.
      vectors: mean of the last layer's vectors over the pieces of a word, unit length.
    """

    text: str
    spans: list[tuple[int, int]]
    vectors: Float32[np.ndarray, "words hidden"]


class Phrase(NamedTuple):
    """Words `start` to `stop` (exclusive) of one text, and the words of the other text that translate them."""

    start: int
    stop: int
    other_start: int
    other_stop: int


def embed_words(encoder: Encoder, texts: Sequence[str], languages: Sequence[str]) -> list[Words]:
    """Embed the words of queries; one forward pass per text.

    Args:
      encoder: encodes the texts as queries.
      texts: any texts; words beyond the truncation are left out.
      languages: language of each text.
    """
    prefix = encoder.query_prefix
    encoded = encoder.tokenizer(
        [prefix + clean_text(text) for text in texts],
        truncation=True,
        max_length=encoder.max_length,
        return_offsets_mapping=True,
    )
    vectors = encoder.token_vectors(encoded["input_ids"])
    embedded = []
    for text, language, offsets, token_vectors in zip(
        texts, languages, encoded["offset_mapping"], vectors, strict=True
    ):
        pieces = [
            (max(start - len(prefix), 0), stop - len(prefix), vector)
            for (start, stop), vector in zip(offsets, token_vectors, strict=True)
            if stop > max(start, len(prefix))
        ]
        spans = (
            spans_of_pieces(text, pieces) if language in WITHOUT_BLANKS else [m.span() for m in _WORD.finditer(text)]
        )
        words = {
            (start, stop): np.mean(inside, axis=0)
            for start, stop in spans
            if (inside := [vector for first, last, vector in pieces if first < stop and last > start])
        }
        stacked = np.stack(list(words.values())) if words else np.empty((0, token_vectors.shape[1]), np.float32)
        unit = stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        embedded.append(Words(text, list(words), unit))
    return embedded


def align(left: Words, right: Words) -> list[tuple[int, int]]:
    """Return the pairs of words that are each other's most similar word in the other text (by cosine), in order."""
    if not left.spans or not right.spans:
        return []
    similarity = left.vectors @ right.vectors.T
    best_right, best_left = similarity.argmax(axis=1), similarity.argmax(axis=0)
    return [(i, int(j)) for i, j in enumerate(best_right) if best_left[j] == i]


def phrases(links: Sequence[tuple[int, int]]) -> list[Phrase]:
    """Return all pairs of phrases that are consistent with the links, single words included.

    A pair begins and ends with linked words on both sides, and no word of either side is linked to a word outside the
    pair. Words without a link may stand inside.
    """
    pairs = []
    for start, _ in links:
        for last, _ in links:
            inside = [j for i, j in links if start <= i <= last]
            if not 0 <= last - start < MAX_WORDS or max(inside) - min(inside) >= MAX_WORDS:
                continue
            outside = [j for i, j in links if not start <= i <= last]
            if not any(min(inside) <= j <= max(inside) for j in outside):
                pairs.append(Phrase(start, last + 1, min(inside), max(inside) + 1))
    return pairs


def spans_of_pieces(text: str, pieces: Sequence[tuple[int, int, np.ndarray]]) -> list[tuple[int, int]]:
    """Return the spans of pieces without surrounding blanks and punctuation; a foreign word or a number stays whole."""
    spans: list[tuple[int, int]] = []
    for first, last, _ in pieces:
        match = _WORD.search(text, first, last)
        if not match:
            continue
        start, stop = match.span()
        # The tokenizer puts a blank before a text; the piece of this blank has the offsets of the first letter.
        overlaps = spans and start < spans[-1][1]
        if overlaps or (spans and start == spans[-1][1] and _LETTERS.match(text, start - 1)):
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans
