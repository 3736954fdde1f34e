"""Tokenization of texts for training, encoding and attacks.

Input: a `tokenizers.Tokenizer` and strings. Output: lists of token ids, and `TokenBatch`es with a few fixed lengths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from jaxretr.types import TokenBatch

CHARACTERS_PER_TOKEN = 64
"""Texts are truncated to this many characters per allowed token before tokenization, so that a text of a million
characters costs no more than a long paragraph. No word piece of the supported vocabularies is longer, so this changes
only the tokens of texts that lose most of their characters in normalization."""


MANY_TEXTS = 4_096
"""For this many texts or more, padding costs more than compiling for more lengths."""


def clean_text(text: str) -> str:
    """Return `text` with lone surrogates replaced by U+FFFD.

    Lone surrogates are not Unicode text, and the tokenizer rejects them.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


class TokenizedPair(NamedTuple):
    """Token ids of a pair of texts, including special tokens, and whether the pair was truncated."""

    ids: list[int]
    truncated: bool


class Tokenization:
    """Turns texts into token ids: adds prefix and special tokens, and truncates. Safe to call from several threads.

    Args:
      tokenizer: the tokenizer; it is copied, not changed.
      prefix: prefix of every text, such as "query: ".
      max_len: maximum number of tokens, including special tokens; the end of longer texts is cut off.
      pad_id: token id that pads the rows of a batch.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, prefix: str, max_len: int, pad_id: int):
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_len)
        self.prefix = prefix
        self.max_len = max_len
        self.pad_id = pad_id
        self.buckets = length_buckets(max_len)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, including special tokens; an empty text yields only its prefix."""
        limit = CHARACTERS_PER_TOKEN * self.max_len
        prepared = [self.prefix + clean_text(text[:limit]) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(prepared)]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedPair]:
        """Tokenize pairs of texts, joined by the tokenizer's own template, without the prefix.

        Pairs that are too long lose tokens at the end of the longer text until both texts are equally long, then at the
        end of both texts ("longest_first" in transformers).
        """
        limit = CHARACTERS_PER_TOKEN * self.max_len
        prepared = [(clean_text(first[:limit]), clean_text(second[:limit])) for first, second in pairs]
        encodings = self._tokenizer.encode_batch_fast(prepared)
        return [TokenizedPair(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]

    def buckets_for(self, texts: int) -> tuple[int, ...]:
        """Return the padded lengths for this number of texts, sorted by length; many texts get finer steps."""
        return self.buckets if texts < MANY_TEXTS else length_buckets(self.max_len, fine=True)

    def pad(self, ids: Sequence[Sequence[int]], length: int | None = None) -> TokenBatch:
        """Return a right-padded int32 batch of the given length, or of the smallest bucket that holds it."""
        length = length or bucket(max(map(len, ids), default=1), self.buckets)
        batch = np.full((len(ids), length), self.pad_id, np.int32)
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        mask = np.arange(length) < lengths[:, None]
        batch[mask] = np.concatenate([np.asarray(row, np.int32) for row in ids]) if len(ids) else []
        return TokenBatch(batch, mask)


def length_buckets(max_len: int, *, fine: bool = False) -> tuple[int, ...]:
    """Return the padded lengths in ascending order up to `max_len`; they are few, because XLA compiles once for each.

    Steps of a third to a half keep the padding small: 16, 24, 32, 48, 64, 96, 128, 192, 256, … Fine steps of at most an
    eighth (from 64 on) keep it below 5 % if texts are sorted by length: 8, 16, …, 128, 144, …, 256, 288, …
    """
    steps = [16 * 2**i for i in range(12)] + [24 * 2**i for i in range(12)]
    if fine:
        steps = [(8 + i) * 2**j for j in range(3, 13) for i in range(8)] + [*range(8, 64, 8)]
    return (*sorted(step for step in steps if step < max_len), max_len)


def bucket(length: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that holds `length`.

    Raises:
      ValueError: no bucket holds `length`.
    """
    for size in buckets:
        if length <= size:
            return size
    raise ValueError(f"A row of {length} tokens fits none of the buckets {tuple(buckets)}; truncate it first.")
