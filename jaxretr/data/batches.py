"""From batch plans to token batches, in background threads.

In: a plan of record numbers and the data source that holds the texts. Out: a Grain iterator of `PairBatch`es, ready for
the devices; its state is the number of the next step, so saving and restoring it is exact.
"""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import UInt32

from jaxretr.data.hybrid import BatchPlan
from jaxretr.tokenization import Tokenization
from jaxretr.types import TokenBatch


class PairBatch(NamedTuple):
    """This process's rows of one batch of training pairs; all arrays lead with the same axis.

    A JAX pytree, as `TokenBatch` is.

    Attributes:
      queries: [batch length].
      passages: [batch columns length], columns = 1 + hard negatives: the relevant passage, then the hard negatives.
      query_content, passage_content: 32-bit checksums of the texts, [batch] and [batch columns]; equal texts are
        not negatives of each other. 0 marks a hard negative that the example lacks.
    """

    queries: TokenBatch
    passages: TokenBatch
    query_content: UInt32[Any, "batch"]
    passage_content: UInt32[Any, "batch columns"]


class Step(NamedTuple):
    """What the training loop gets for one update.

    Attributes:
      batch: for the devices.
      plan: where it came from.
      tokens: real tokens in `batch`, and `slots`: token positions, padding included.
    """

    batch: PairBatch
    plan: BatchPlan
    tokens: int
    slots: int


class PairReader:
    """Reads and tokenises the rows of a plan; called from Grain's threads.

    Args:
      source: training pairs (`jaxretr.data.schema`), random access by record number.
      query_tokenization, passage_tokenization: prefix and length of each side.
      rows: which rows of the global batch are this process's.
      num_hard_negatives: taken from the front of each example's list.
      fixed_length: pad to the full length instead of a bucket. Needed on several processes: they must agree on the
        shape, and each sees only its own rows.
    """

    def __init__(
        self,
        source: Sequence[dict[str, Any]],
        query_tokenization: Tokenization,
        passage_tokenization: Tokenization,
        *,
        rows: slice,
        num_hard_negatives: int = 0,
        fixed_length: bool = False,
    ):
        self._source = source
        self._query_tokenization = query_tokenization
        self._passage_tokenization = passage_tokenization
        self._rows = rows
        self._negatives = num_hard_negatives
        self._fixed_length = fixed_length

    def __call__(self, plan: BatchPlan) -> Step:
        """The texts of a plan as token batches."""
        queries = [self._source[int(row)]["query"] for row in plan.query_rows[self._rows]]
        columns = 1 + self._negatives
        passages: list[bytes] = []
        for row in plan.passage_rows[self._rows]:
            record = self._source[int(row)]
            texts = [record["passage"], *record["negatives"][: self._negatives]]
            passages += texts + [b""] * (columns - len(texts))
        query_batch = self._tokenize(self._query_tokenization, queries)
        passage_batch = self._tokenize(self._passage_tokenization, passages)
        batch = PairBatch(
            query_batch,
            TokenBatch(*(leaf.reshape(len(queries), columns, -1) for leaf in passage_batch)),
            _checksums(queries),
            _checksums(passages).reshape(-1, columns),
        )
        tokens = sum(int(side.mask.sum()) for side in (query_batch, passage_batch))
        return Step(batch, plan, tokens, query_batch.ids.size + passage_batch.ids.size)

    def _tokenize(self, tokenization: Tokenization, texts: Sequence[bytes]) -> TokenBatch:
        ids = tokenization([text.decode() for text in texts])
        return tokenization.pad(ids, tokenization.max_len if self._fixed_length else None)


def _checksums(texts: Sequence[bytes]) -> UInt32[np.ndarray, " texts"]:
    return np.fromiter((max(zlib.crc32(text), 1) if text else 0 for text in texts), np.uint32, len(texts))


def iterate(plans: Sequence[BatchPlan], reader: PairReader, *, threads: int = 2) -> grain.DatasetIterator[Step]:
    """The steps of a run in order, read ahead by background threads (the tokenizer leaves Python's lock to others).

    `get_state()` and `set_state()` of the result hold the position, as plain JSON values.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(grain.MapDataset.source(plans).map(reader).to_iter_dataset(options))
