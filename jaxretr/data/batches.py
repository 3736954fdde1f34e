"""From batch plans to token batches, in background threads.

In: a plan of record numbers and the data source that holds the texts. Out: a Grain iterator of `PairBatch`es, ready for
the devices; its state is the number of the next step, so saving and restoring it is exact.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import grain
import numpy as np
from jaxtyping import Int, UInt32

from jaxretr.data.hybrid import BatchPlan
from jaxretr.data.packing import cut_to_fit, pack
from jaxretr.data.typos import Typos
from jaxretr.tokenization import Tokenization
from jaxretr.types import Packing, TokenBatch


class Translations(NamedTuple):
    """Other translations of each pair of a batch, as `BatchPlan` offers them; no hard negatives.

    Attributes:
      queries, passages: [batch others length], padded as the batch's.
      query_content, passage_content: [batch others], checksums as the batch's.
    """

    queries: TokenBatch
    passages: TokenBatch
    query_content: UInt32[Any, "batch others"]
    passage_content: UInt32[Any, "batch others"]


class PairBatch(NamedTuple):
    """This process's rows of one batch of training pairs; all arrays but those of `packing` lead with the same axis.

    A JAX pytree, as `TokenBatch` is.

    Attributes:
      queries: [batch length].
      passages: [batch columns length], columns = 1 + hard negatives: the relevant passage, then the hard negatives.
      query_content, passage_content: 32-bit checksums of the texts, [batch] and [batch columns]; equal texts are
        not negatives of each other. 0 marks a hard negative that the example lacks.
      typo_queries: the queries with typos, [batch length]; None unless asked for.
      translations: None unless the plan offers them.
      packing: where queries and then passages lie in the rows that they share; None where each has a row of its own.
        It leads with rows, as many for each part of the batch that is encoded together.
    """

    queries: TokenBatch
    passages: TokenBatch
    query_content: UInt32[Any, "batch"]
    passage_content: UInt32[Any, "batch columns"]
    typo_queries: TokenBatch | None = None
    translations: Translations | None = None
    packing: Packing | None = None


class Step(NamedTuple):
    """What the training loop gets for one update.

    Attributes:
      batch: for the devices.
      plan: where it came from.
      tokens: real tokens in `batch`, and `slots`: token positions that are encoded, padding included.
      cut: tokens that texts lost because the rows that they share were full.
    """

    batch: PairBatch
    plan: BatchPlan
    tokens: int
    slots: int
    cut: int = 0


class PairReader:
    """Reads and tokenises the rows of a plan; called from Grain's threads.

    Args:
      source: training pairs (`jaxretr.data.schema`), random access by record number.
      query_tokenization, passage_tokenization: prefix and length of each side.
      rows: which rows of the global batch are this process's.
      num_hard_negatives: taken from the front of each example's list.
      fixed_length: pad to the full length instead of a bucket. Needed on several processes: they must agree on the
        shape, and each sees only its own rows.
      typos: what the queries with typos are made by; None for none.
      packed_pairs: pack the texts of so many pairs together; 0 for not at all. Neither typos nor translations can be
        packed.
      packed_rows: into so many rows, always, and the longest texts lose their last tokens where they do not suffice;
        0 for as many as it takes.
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
        typos: Typos | None = None,
        packed_pairs: int = 0,
        packed_rows: int = 0,
    ):
        self._source = source
        self._query_tokenization = query_tokenization
        self._passage_tokenization = passage_tokenization
        self._rows = rows
        self._negatives = num_hard_negatives
        self._fixed_length = fixed_length or packed_pairs > 0  # what is packed is not padded
        self._typos = typos
        self._packed_pairs = packed_pairs
        self._packed_rows = packed_rows

    def __call__(self, plan: BatchPlan) -> Step:
        """The texts of a plan as token batches. All queries of a step have one length, and all passages."""
        asked = [self._source[int(row)] for row in plan.query_rows[self._rows]]
        queries = [record["query"] for record in asked]
        columns = 1 + self._negatives
        passages: list[bytes] = []
        for row in plan.passage_rows[self._rows]:
            record = self._source[int(row)]
            texts = [record["passage"], *record["negatives"][: self._negatives]]
            passages += texts + [b""] * (columns - len(texts))
        typos = self._typos.of(asked, plan.step, self._rows.start) if self._typos else []
        other_queries = self._texts("query", plan.query_translations)
        other_passages = self._texts("passage", plan.passage_translations)

        query_tokens, typo_tokens, other_query_tokens = self._tokenize(
            self._query_tokenization, queries, typos, other_queries
        )
        passage_tokens, other_passage_tokens = self._tokenize(self._passage_tokenization, passages, other_passages)
        batch = PairBatch(
            query_tokens,
            _rows_of(passage_tokens, len(queries)),
            _checksums(queries),
            _checksums(passages).reshape(-1, columns),
            typo_queries=typo_tokens if typos else None,
        )
        if other_queries:
            batch = batch._replace(
                translations=Translations(
                    _rows_of(other_query_tokens, len(queries)),
                    _rows_of(other_passage_tokens, len(queries)),
                    _checksums(other_queries).reshape(len(queries), -1),
                    _checksums(other_passages).reshape(len(queries), -1),
                )
            )
        masks = [
            side.mask for side in (query_tokens, typo_tokens, other_query_tokens, passage_tokens, other_passage_tokens)
        ]
        tokens = sum(int(mask.sum()) for mask in masks)
        if not self._packed_pairs:
            return Step(batch, plan, tokens, sum(mask.size for mask in masks))
        if self._packed_rows:
            batch = shortened(batch, self._packed_pairs, self._packed_rows, self._query_tokenization.pad_id)
        packing = packing_of(batch, self._packed_pairs, self._packed_rows)
        kept = int(np.count_nonzero(packing.text >= 0))
        return Step(batch._replace(packing=packing), plan, kept, packing.text.size, cut=tokens - kept)

    def _texts(self, side: str, rows: Int[np.ndarray, "batch others"] | None) -> list[bytes]:
        """One side of this process's translations, row after row."""
        return [] if rows is None else [self._source[int(row)][side] for row in rows[self._rows].ravel()]

    def _tokenize(self, tokenization: Tokenization, *groups: Sequence[bytes]) -> list[TokenBatch]:
        """Token batches of several groups of texts, all of one length."""
        ids = tokenization([text.decode() for group in groups for text in group])
        tokens = tokenization.pad(ids, tokenization.max_len if self._fixed_length else None)
        ends = np.cumsum([len(group) for group in groups])[:-1]
        return [TokenBatch(*parts) for parts in zip(*(np.split(leaf, ends) for leaf in tokens), strict=True)]


def packing_of(batch: PairBatch, pairs: int, rows: int = 0) -> Packing:
    """Packs the texts of a batch, those of `pairs` pairs together, into rows as long as its longest padded side.

    `rows` as `pack` takes it.
    """
    return pack(_lengths(batch, pairs).tolist(), _row_length(batch), rows)


def shortened(batch: PairBatch, pairs: int, rows: int, pad_id: int) -> PairBatch:
    """The batch with the longest texts of each `pairs` pairs cut to what `rows` rows hold; see `cut_to_fit`."""
    cut = np.array([cut_to_fit(part, _row_length(batch), rows) for part in _lengths(batch, pairs).tolist()])
    queries, passages = np.split(cut, [pairs], axis=1)

    def side(tokens: TokenBatch, lengths: np.ndarray) -> TokenBatch:
        mask = np.arange(tokens.mask.shape[-1]) < lengths.reshape(*tokens.mask.shape[:-1], 1)
        return TokenBatch(np.where(mask, tokens.ids, np.int32(pad_id)), mask)

    return batch._replace(queries=side(batch.queries, queries), passages=side(batch.passages, passages))


def agreed_rows(plans: Sequence[BatchPlan], read: Callable[[BatchPlan], Step], *, sample: int = 128) -> int:
    """How many rows suffice for nearly all batches of a run: the most of a sample of them, evenly spaced.

    Every process finds the same number where `read` reads and packs the same rows of the batches.
    """
    drawn = np.unique(np.linspace(0, len(plans) - 1, sample).astype(int))
    return max(len(cast(Packing, read(plans[int(step)]).batch.packing).text) for step in drawn)


def _lengths(batch: PairBatch, pairs: int) -> Int[np.ndarray, "parts texts"]:
    """Tokens of the texts of each `pairs` pairs, queries first."""
    sides = (batch.queries.mask, batch.passages.mask)
    return np.concatenate([mask.sum(-1).reshape(len(mask) // pairs, -1) for mask in sides], axis=1)


def _row_length(batch: PairBatch) -> int:
    return max(batch.queries.mask.shape[-1], batch.passages.mask.shape[-1])


def _rows_of(tokens: TokenBatch, rows: int) -> TokenBatch:
    """[rows * n, length] -> [rows, n, length]."""
    return TokenBatch(*(leaf.reshape(rows, -1, leaf.shape[-1]) for leaf in tokens))


def _checksums(texts: Sequence[bytes]) -> UInt32[np.ndarray, " texts"]:
    return np.fromiter((max(zlib.crc32(text), 1) if text else 0 for text in texts), np.uint32, len(texts))


def iterate(plans: Sequence[BatchPlan], reader: PairReader, *, threads: int = 2) -> grain.DatasetIterator[Step]:
    """The steps of a run in order, read ahead by background threads (the tokenizer leaves Python's lock to others).

    `get_state()` and `set_state()` of the result hold the position, as plain JSON values.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(grain.MapDataset.source(plans).map(reader).to_iter_dataset(options))
