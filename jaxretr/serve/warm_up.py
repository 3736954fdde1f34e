"""The batch shapes that the service may encode.

Input: an encoder and options. Output: texts that produce each shape.
"""

from typing import NamedTuple

from jaxretr.model.encode import Encoder, plan_batches
from jaxretr.serve.options import ServiceOptions
from jaxretr.tokenization import bucket

TOKENS_PER_TEXT = 32
"""Text length that `max_batch` assumes, about a query's length; `Encoder` assumes four times this length."""


class Shape(NamedTuple):
    """Texts that form one batch of shape [size, length] over all devices."""

    size: int
    length: int
    texts: list[str]


def encoder_batch_size(options: ServiceOptions) -> int:
    """Return the `batch_size` of `Encoder` that encodes `max_batch` texts of `TOKENS_PER_TEXT` tokens at once."""
    return max(1, max(options.max_batch, options.max_passage_batch) * TOKENS_PER_TEXT // 128)


def shapes(encoder: Encoder, options: ServiceOptions) -> list[Shape]:
    """Return every shape that a micro-batch can be padded to, smallest first; each takes about a second to compile.

    The shapes come from the encoder's own batch plan, for every number of texts and every length.
    """
    tokenize = encoder.query_tokenization
    texts: dict[int, str] = {}  # the shortest text for each padded length
    candidates = ["a " * words for words in range(encoder.max_length + 1)]
    for text, ids in zip(candidates, tokenize(candidates), strict=True):
        texts.setdefault(bucket(len(ids), tokenize.buckets), text)
    unique: dict[tuple[int, int], Shape] = {}
    for length, text in texts.items():
        for count in range(1, max(options.max_batch, options.max_passage_batch) + 1):
            for batch in plan_batches([length] * count, tokenize.buckets, encoder_batch_size(options)):
                unique.setdefault((batch.size, batch.length), Shape(batch.size, batch.length, [text] * len(batch.rows)))
    return sorted(unique.values(), key=lambda shape: (shape.size * shape.length, shape.length))
