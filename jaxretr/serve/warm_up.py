"""The shapes of batches that the service may encode: an encoder and options come in, texts that make each go out."""

from typing import NamedTuple

from jaxretr.model.encode import Encoder, plan_batches
from jaxretr.serve.options import ServiceOptions
from jaxretr.tokenization import bucket

TOKENS_PER_TEXT = 32
"""What `max_batch` counts in: questions are of about this length, and `Encoder`'s batches count in four times it."""


class Shape(NamedTuple):
    """Texts that make one batch of this shape, [size, length] over all devices."""

    size: int
    length: int
    texts: list[str]


def encoder_batch_size(options: ServiceOptions) -> int:
    """The `batch_size` of `Encoder.encode_query` for `max_batch` texts of `TOKENS_PER_TEXT` tokens to go at once."""
    return max(1, max(options.max_batch, options.max_passage_batch) * TOKENS_PER_TEXT // 128)


def shapes(encoder: Encoder, options: ServiceOptions) -> list[Shape]:
    """Every shape that a micro-batch can be padded to, smallest first; each takes the compiler about a second.

    Which shapes these are is asked of the encoder's own plan, for every number of texts and every length.
    """
    tokenize = encoder.query_tokenization
    texts: dict[int, str] = {}  # of each padded length, the shortest
    candidates = ["a " * words for words in range(encoder.max_length + 1)]
    for text, ids in zip(candidates, tokenize(candidates), strict=True):
        texts.setdefault(bucket(len(ids), tokenize.buckets), text)
    found: dict[tuple[int, int], Shape] = {}
    for length, text in texts.items():
        for count in range(1, max(options.max_batch, options.max_passage_batch) + 1):
            for batch in plan_batches([length] * count, tokenize.buckets, encoder_batch_size(options)):
                found.setdefault((batch.size, batch.length), Shape(batch.size, batch.length, [text] * len(batch.rows)))
    return sorted(found.values(), key=lambda shape: (shape.size * shape.length, shape.length))
