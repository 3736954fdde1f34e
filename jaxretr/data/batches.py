"""Read the texts of batch plans and tokenize them, in background threads.

Input: plans of record numbers (`jaxretr.data.hybrid`) and the data source that holds the texts. Output: a Grain
iterator of `StepInput`s, whose batches are ready for the devices. The state of the iterator is the number of the next
step, so a restored iterator returns exactly the remaining steps.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import grain
import numpy as np
from jaxtyping import Int, UInt32

from jaxretr.data.hybrid import BatchPlan
from jaxretr.data.packing import cut_to_fit, pack
from jaxretr.perturb.text import draw
from jaxretr.perturb.text import typos as possible_typos
from jaxretr.perturb.text.words import FUNCTION_WORDS
from jaxretr.tokenization import Tokenization
from jaxretr.types import Packing, TokenBatch


class Translations(NamedTuple):
    """Other translations of each pair of a batch, as the `BatchPlan` lists them. They have no hard negatives.

    Attributes:
      queries, passages: tokens, [batch others length], padded to the lengths of the batch's queries and passages.
      query_content, passage_content: checksums of the texts, [batch others], computed as in `PairBatch`.
    """

    queries: TokenBatch
    passages: TokenBatch
    query_content: UInt32[Any, "batch others"]
    passage_content: UInt32[Any, "batch others"]


class PairBatch(NamedTuple):
    """The training pairs of one global batch that belong to this process. A JAX pytree.

    The leading axis of every array is `batch`, except in `packing`.

    Attributes:
      queries: tokens, [batch length].
      passages: tokens, [batch columns length]. Column 0 is the relevant passage; the other columns are hard negatives.
      query_content, passage_content: 32-bit checksums of the texts, [batch] and [batch columns]. Texts with equal
        checksums are not used as negatives of each other. 0 marks a hard negative that the example lacks.
      typo_queries: tokens of the queries with typos, [batch length]; None unless the reader makes typos.
      translations: other translations of each pair; None if the plan lists none.
      packing: positions of the queries, then of the passages, in shared rows; None if every text has a row of its own.
        Each group of pairs that is encoded together has the same number of rows.
    """

    queries: TokenBatch
    passages: TokenBatch
    query_content: UInt32[Any, "batch"]
    passage_content: UInt32[Any, "batch columns"]
    typo_queries: TokenBatch | None = None
    translations: Translations | None = None
    packing: Packing | None = None


class StepInput(NamedTuple):
    """Input of one training step.

    Attributes:
      batch: arrays for the devices.
      plan: the plan that the batch was read from.
      tokens: number of real tokens in `batch`.
      slots: number of token positions that are encoded, padding included.
      cut: number of tokens truncated because the packed rows were full.
    """

    batch: PairBatch
    plan: BatchPlan
    tokens: int
    slots: int
    cut: int = 0


@dataclass(frozen=True)
class Typos:
    """Add `edits` typos to each query. Each typo is drawn uniformly from all possible typos (`jaxretr.perturb.text`).

    The typos are a function of seed, step and row, so a resumed run makes the same typos.
    """

    edits: int
    seed: int

    def apply(self, records: Sequence[Mapping[str, Any]], step: int, first_row: int) -> list[bytes]:
        """Return the queries of a process's records with typos; a query without a word to change stays as it is.

        Args:
          records: the training pairs in rows `first_row`, `first_row + 1`, ... of the batch.
          step: number of the training step.
          first_row: row of the first record in the global batch.
        """
        return [self._with_typos(record, step, row) for row, record in enumerate(records, start=first_row)]

    def _with_typos(self, record: Mapping[str, Any], step: int, row: int) -> bytes:
        text, language = record["query"].decode(), record["language"].decode()
        (seed,) = np.random.SeedSequence([self.seed, step, row]).generate_state(1, np.uint64)
        edited = draw(possible_typos, text, language, count=1, edits=self.edits, seed=int(seed))
        return edited[0].encode() if edited else record["query"]


def check_typo_languages(languages: Sequence[str]) -> None:
    """Raise ValueError if typos cannot be made in a language; the message lists the supported languages."""
    if missing := [code for code in languages if code not in FUNCTION_WORDS]:
        raise ValueError(
            f"No typos can be made in language {', '.join(missing)}, only in {', '.join(FUNCTION_WORDS)}; remove "
            f"{', '.join(missing)} from data.languages, or set another hardening.method."
        )


class PairReader:
    """Read and tokenize this process's rows of a plan. Grain calls the reader from background threads.

    Args:
      source: training pairs (`jaxretr.data.schema`), read by record number.
      query_tokenization, passage_tokenization: prefix and maximum length of each side.
      rows: this process's rows of the global batch.
      num_hard_negatives: hard negatives per example, taken from the front of its list.
      fixed_length: pad to the maximum length instead of a bucket length. Several processes need this: they must agree
        on the shape, but each process sees only its own rows.
      typos: makes the queries with typos; None for none.
      packed_pairs: number of pairs whose texts are packed together; 0 disables packing. Neither translations nor
        queries with typos can be packed.
      packed_rows: number of rows for every group of `packed_pairs` pairs. If the texts do not fit, the longest texts
        lose their last tokens. 0 uses the number of rows that the texts need.
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
        # Packed batches are padded to the maximum length too: packing drops this padding, and one length means fewer
        # compilations.
        self._fixed_length = fixed_length or packed_pairs > 0
        self._typos = typos
        self._packed_pairs = packed_pairs
        self._packed_rows = packed_rows

    def __call__(self, plan: BatchPlan) -> StepInput:
        """Return the texts of a plan as token batches. Queries are padded to one length, passages to another."""
        records = [self._source[int(row)] for row in plan.query_rows[self._rows]]
        queries = [record["query"] for record in records]
        columns = 1 + self._negatives
        passages: list[bytes] = []
        for row in plan.passage_rows[self._rows]:
            record = self._source[int(row)]
            texts = [record["passage"], *record["negatives"][: self._negatives]]
            passages += texts + [b""] * (columns - len(texts))
        typo_queries = self._typos.apply(records, plan.step, self._rows.start) if self._typos else []
        other_queries = self._texts("query", plan.query_translations)
        other_passages = self._texts("passage", plan.passage_translations)

        query_tokens, typo_tokens, other_query_tokens = self._tokenize(
            self._query_tokenization, queries, typo_queries, other_queries
        )
        passage_tokens, other_passage_tokens = self._tokenize(self._passage_tokenization, passages, other_passages)
        batch = PairBatch(
            query_tokens,
            _group_by_row(passage_tokens, len(queries)),
            _checksums(queries),
            _checksums(passages).reshape(-1, columns),
            typo_queries=typo_tokens if typo_queries else None,
        )
        if other_queries:
            batch = batch._replace(
                translations=Translations(
                    _group_by_row(other_query_tokens, len(queries)),
                    _group_by_row(other_passage_tokens, len(queries)),
                    _checksums(other_queries).reshape(len(queries), -1),
                    _checksums(other_passages).reshape(len(queries), -1),
                )
            )
        masks = [
            side.mask for side in (query_tokens, typo_tokens, other_query_tokens, passage_tokens, other_passage_tokens)
        ]
        tokens = sum(int(mask.sum()) for mask in masks)
        if not self._packed_pairs:
            return StepInput(batch, plan, tokens, sum(mask.size for mask in masks))
        if self._packed_rows:
            batch = shortened(batch, self._packed_pairs, self._packed_rows, self._query_tokenization.pad_id)
        packing = packing_of(batch, self._packed_pairs, self._packed_rows)
        kept = int(np.count_nonzero(packing.text >= 0))
        return StepInput(batch._replace(packing=packing), plan, kept, packing.text.size, cut=tokens - kept)

    def _texts(self, side: str, rows: Int[np.ndarray, "batch others"] | None) -> list[bytes]:
        """Return one side of this process's translations, row by row."""
        return [] if rows is None else [self._source[int(row)][side] for row in rows[self._rows].ravel()]

    def _tokenize(self, tokenization: Tokenization, *groups: Sequence[bytes]) -> list[TokenBatch]:
        """Return one token batch per group of texts, all padded to one length."""
        ids = tokenization([text.decode() for group in groups for text in group])
        tokens = tokenization.pad(ids, tokenization.max_len if self._fixed_length else None)
        ends = np.cumsum([len(group) for group in groups])[:-1]
        return [TokenBatch(*parts) for parts in zip(*(np.split(leaf, ends) for leaf in tokens), strict=True)]


def packing_of(batch: PairBatch, pairs: int, rows: int = 0) -> Packing:
    """Pack the texts of each group of `pairs` pairs into rows.

    The length of a row is the padded length of the queries or of the passages, whichever is larger.

    Args:
      batch: the batch to pack.
      pairs: number of pairs per group.
      rows: number of rows per group; 0 uses the number that the texts need, see `pack`.
    """
    return pack(_lengths(batch, pairs).tolist(), _row_length(batch), rows)


def shortened(batch: PairBatch, pairs: int, rows: int, pad_id: int) -> PairBatch:
    """Truncate the longest texts of each group of `pairs` pairs to fit the group into `rows` rows; see `cut_to_fit`."""
    cut = np.array([cut_to_fit(group, _row_length(batch), rows) for group in _lengths(batch, pairs).tolist()])
    queries, passages = np.split(cut, [pairs], axis=1)

    def side(tokens: TokenBatch, lengths: np.ndarray) -> TokenBatch:
        mask = np.arange(tokens.mask.shape[-1]) < lengths.reshape(*tokens.mask.shape[:-1], 1)
        return TokenBatch(np.where(mask, tokens.ids, np.int32(pad_id)), mask)

    return batch._replace(queries=side(batch.queries, queries), passages=side(batch.passages, passages))


def shared_row_count(plans: Sequence[BatchPlan], read: Callable[[BatchPlan], StepInput], *, sample: int = 128) -> int:
    """Return a number of rows that suffices for nearly all batches of a run: the maximum over an evenly spaced sample.

    All processes compute the same number if their `read` functions read and pack the same rows of each batch.

    Args:
      plans: the plans of the run.
      read: reads a plan into a packed batch.
      sample: number of batches to read.
    """
    sample_steps = np.unique(np.linspace(0, len(plans) - 1, sample).astype(int))
    return max(len(cast(Packing, read(plans[int(step)]).batch.packing).text) for step in sample_steps)


def _lengths(batch: PairBatch, pairs: int) -> Int[np.ndarray, "groups texts"]:
    """Return the token counts of the texts in each group of `pairs` pairs, queries first."""
    sides = (batch.queries.mask, batch.passages.mask)
    return np.concatenate([mask.sum(-1).reshape(len(mask) // pairs, -1) for mask in sides], axis=1)


def _row_length(batch: PairBatch) -> int:
    return max(batch.queries.mask.shape[-1], batch.passages.mask.shape[-1])


def _group_by_row(tokens: TokenBatch, rows: int) -> TokenBatch:
    """Reshape [rows * n, length] to [rows, n, length]."""
    return TokenBatch(*(leaf.reshape(rows, -1, leaf.shape[-1]) for leaf in tokens))


def _checksums(texts: Sequence[bytes]) -> UInt32[np.ndarray, " texts"]:
    return np.fromiter((max(zlib.crc32(text), 1) if text else 0 for text in texts), np.uint32, len(texts))


def iterate(plans: Sequence[BatchPlan], reader: PairReader, *, threads: int = 2) -> grain.DatasetIterator[StepInput]:
    """Iterate over the steps of a run in order, with background threads that read ahead.

    The tokenizer releases the GIL, so other threads run in parallel. `get_state()` and `set_state()` of the iterator
    save and restore its position as plain JSON values.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(grain.MapDataset.source(plans).map(reader).to_iter_dataset(options))
