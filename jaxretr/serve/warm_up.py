"""The batch shapes that the service may encode.

Input: an encoder or a reranker, and options. Output: texts that produce each shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxretr.model.batches import plan_batches
from jaxretr.model.cross_encoder import CrossEncoder
from jaxretr.model.encode import Encoder
from jaxretr.serve.options import ServiceOptions
from jaxretr.tokenization import bucket

TOKENS_PER_TEXT = 32
"""Text length that `max_batch` assumes, about a query's length; `Encoder` assumes four times this length."""


class Shape(NamedTuple):
    """Texts, or pairs of texts, that form one batch of shape [size, length] over all devices."""

    size: int
    length: int
    texts: list[Any]


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
    return _shapes(texts, tokenize.buckets, max(options.max_batch, options.max_passage_batch), options)


def pair_shapes(reranker: CrossEncoder, options: ServiceOptions) -> list[Shape]:
    """Return every shape that a batch of pairs can be padded to, smallest first, as `shapes` does."""
    tokenize = reranker.tokenization
    pairs: dict[int, tuple[str, str]] = {}  # the shortest pair for each padded length
    candidates = [("", "a " * words) for words in range(reranker.max_length + 1)]
    for pair, tokens in zip(candidates, tokenize.pairs(candidates), strict=True):
        pairs.setdefault(bucket(len(tokens.ids), tokenize.buckets), pair)
    return _shapes(pairs, tokenize.buckets, options.max_passage_batch, options)


def _shapes(texts: Mapping[int, Any], buckets: Sequence[int], most: int, options: ServiceOptions) -> list[Shape]:
    """Return the shapes of 1 to `most` texts; `texts` has a text for each padded length."""
    unique: dict[tuple[int, int], Shape] = {}
    for length, text in texts.items():
        for count in range(1, most + 1):
            for batch in plan_batches([length] * count, buckets, encoder_batch_size(options)):
                unique.setdefault((batch.size, batch.length), Shape(batch.size, batch.length, [text] * len(batch.rows)))
    return sorted(unique.values(), key=lambda shape: (shape.size * shape.length, shape.length))
