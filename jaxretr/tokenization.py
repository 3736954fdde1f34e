"""Text to token batches: the one way in, for training, encoding and attacks alike.

In: a `tokenizers.Tokenizer` and strings. Out: lists of token ids, and `TokenBatch`es of a few fixed lengths.
"""

from collections.abc import Sequence

import numpy as np
import tokenizers

from jaxretr.types import TokenBatch

CHARACTERS_PER_TOKEN = 64
"""Texts are cut to this many characters per allowed token before they are tokenised: no word piece of the supported
vocabularies is longer, so only text of which most disappears in normalisation can notice, and a text of a million
characters costs no more than a long paragraph."""


MANY_TEXTS = 4_096
"""Texts from which padding costs more than compiling for more lengths does."""


def clean_text(text: str) -> str:
    """`text` as the tokenizer can take it: lone surrogates, which are no Unicode text, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


class Tokenization:
    """Turns texts into token ids: prefix, special tokens and truncation. Safe to call from several threads.

    Args:
      tokenizer: is copied, not changed.
      prefix: put before every text, such as "query: ".
      max_len: tokens, special tokens included; longer texts keep their beginning.
      pad_id: what fills the rows of a batch.
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
        """Token ids of each text, special tokens included; an empty text is its prefix alone."""
        limit = CHARACTERS_PER_TOKEN * self.max_len
        prepared = [self.prefix + clean_text(text[:limit]) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(prepared)]

    def buckets_for(self, texts: int) -> tuple[int, ...]:
        """The padded lengths for so many texts that are sorted by length: finer ones for many."""
        return self.buckets if texts < MANY_TEXTS else length_buckets(self.max_len, fine=True)

    def pad(self, ids: Sequence[Sequence[int]], length: int | None = None) -> TokenBatch:
        """A right-padded int32 batch, as long as the smallest bucket that holds it unless `length` is given."""
        length = length or bucket(max(map(len, ids), default=1), self.buckets)
        batch = np.full((len(ids), length), self.pad_id, np.int32)
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        mask = np.arange(length) < lengths[:, None]
        batch[mask] = np.concatenate([np.asarray(row, np.int32) for row in ids]) if len(ids) else []
        return TokenBatch(batch, mask)


def length_buckets(max_len: int, *, fine: bool = False) -> tuple[int, ...]:
    """The padded lengths in use, ascending up to `max_len`: XLA compiles once for each, so there are few.

    Steps of a third to a half keep the padding small: 16, 24, 32, 48, 64, 96, 128, 192, 256, …; fine ones of at most an
    eighth keep it below 5 % where texts are sorted by length: 8, 16, …, 128, 144, …, 256, 288, …
    """
    steps = [16 * 2**i for i in range(12)] + [24 * 2**i for i in range(12)]
    if fine:
        steps = [(8 + i) * 2**j for j in range(3, 13) for i in range(8)] + [*range(8, 64, 8)]
    return (*sorted(step for step in steps if step < max_len), max_len)


def bucket(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length`.

    Raises:
      ValueError: where none does.
    """
    for size in buckets:
        if length <= size:
            return size
    raise ValueError(f"A row of {length} tokens fits none of the buckets {tuple(buckets)}; truncate it first.")
