"""Data types shared by every part of the package, and the glossary of array axes.

Axis names in `jaxtyping` annotations:

| name | axis |
|---|---|
| `batch` | texts of one batch on one device (`queries`, `passages` if both occur) |
| `length` | token positions, including special tokens and padding |
| `hidden` | width of the encoder |
| `dim` | width of a sentence embedding (= `hidden` unless the model has a dense head) |
| `vocab` | rows of the word-embedding table |
| `layers`, `heads`, `head_dim`, `ffn` | the transformer's own axes |
| `devices` | the leading axis that `jaxretr.parallel` maps over |

A *key* names a question or a passage in all languages (translations share it); an *id* names one text. If texts of
several languages occur together, the id of a text is `"{language}:{key}"`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int, UInt64

from jaxretr.fingerprint import checksum, text_checksum, unordered_checksum


@dataclass(frozen=True, slots=True)
class Query:
    """A question in one language; its translations have the same `key`."""

    key: str
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.language}:{self.key}"


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrievable text in one language. The encoder reads `full_text`: title and text."""

    key: str
    language: str
    text: str
    title: str = ""

    @property
    def id(self) -> str:
        return f"{self.language}:{self.key}"

    @property
    def full_text(self) -> str:
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Qrel:
    """A relevance judgement: the passage `passage_id` answers the question `query_key` in any language.

    `relevance` is graded as in TREC: 0 means judged and irrelevant, positive grades mean relevant.
    """

    query_key: str
    passage_id: str
    relevance: int


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    """One row of a ranking; higher `score` is better."""

    passage_id: str
    score: float


class PassageStore(Sequence[Passage]):
    """A sequence of passages whose texts are not in memory; a text is read when its passage is indexed."""

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The id of every passage; reads no text."""

    @property
    @abstractmethod
    def languages(self) -> Sequence[str]:
        """The language of every passage; reads no text."""

    @abstractmethod
    def take(self, indices: Iterable[SupportsIndex]) -> list[Passage]:
        """Return the passages at `indices`, in that order. One call for many passages is faster than indexing each."""

    def select_rows(self, indices: Sequence[int]) -> Sequence[Passage]:
        """Return the passages at `indices` as a sequence of their own.

        This reads the texts into memory; subclasses may keep the texts on disk.
        """
        return tuple(self.take(indices))

    def checksums(self) -> UInt64[np.ndarray, " passages"]:
        """Return a checksum of the id, title and text of each passage.

        This reads every text; subclasses may store the checksums.
        """
        return _checksums((passage.id, passage.title, passage.text) for passage in self)


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A test collection in one or several languages.

    Attributes:
      name: name of the collection in reports.
      queries: every question in every language that it is asked in.
      passages: the pooled corpus of all languages; a tuple, or a `PassageStore` if the texts stay on disk.
      qrels: question key -> passage id (`"{language}:{key}"`) -> relevance.
    """

    name: str
    queries: tuple[Query, ...]
    passages: Sequence[Passage]
    qrels: dict[str, dict[str, int]] = field(repr=False)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have both queries and passages, sorted."""
        return tuple(sorted({q.language for q in self.queries} & set(self.passage_languages)))

    @property
    def passage_ids(self) -> Sequence[str]:
        """The id of each of `passages`, in their order; reads no text."""
        return self.passages.ids if isinstance(self.passages, PassageStore) else [p.id for p in self.passages]

    @property
    def passage_languages(self) -> Sequence[str]:
        """The language of each of `passages`, in their order; reads no text."""
        if isinstance(self.passages, PassageStore):
            return self.passages.languages
        return [p.language for p in self.passages]

    @property
    def fingerprint(self) -> dict[str, str]:
        """Checksums of the queries, the judgements and the passages.

        Two collections with equal fingerprints have the same content, in any order, on any machine. The checksums are
        computed at every call: about 3.5 µs of CPU time per text of 360 characters, and less for stored passages, whose
        checksums are kept.
        """
        passages = self.passages
        return {
            "queries": unordered_checksum(_checksums((query.id, query.text) for query in self.queries)),
            "judgements": checksum(
                f"{key} {passage} {grade}"
                for key, grades in sorted(self.qrels.items())
                for passage, grade in sorted(grades.items())
            ),
            "passages": unordered_checksum(
                passages.checksums()
                if isinstance(passages, PassageStore)
                else _checksums((passage.id, passage.title, passage.text) for passage in passages)
            ),
        }

    def take_passages(self, indices: Iterable[SupportsIndex]) -> list[Passage]:
        """Return the passages at `indices`, in that order; use it to read a corpus in chunks, in memory or on disk."""
        if isinstance(self.passages, PassageStore):
            return self.passages.take(indices)
        return [self.passages[int(i)] for i in indices]

    def select_passages(self, indices: Sequence[int]) -> Sequence[Passage]:
        """Return the passages at `indices` as the `passages` of a smaller collection."""
        if isinstance(self.passages, PassageStore):
            return self.passages.select_rows(indices)
        return tuple(self.passages[i] for i in indices)


def _checksums(items: Iterable[tuple[str, ...]]) -> UInt64[np.ndarray, " items"]:
    return np.fromiter((text_checksum(*texts) for texts in items), np.uint64)


class TokenBatch(NamedTuple):
    """Token ids, right-padded, and a mask of the real tokens (including special tokens).

    A JAX pytree: numpy arrays on the host, jax arrays inside a compiled function.
    """

    ids: Int[Any, "*batch length"]
    mask: Bool[Any, "*batch length"]


class Packing(NamedTuple):
    """Positions of texts that are packed into shared rows, so that little of the encoded rows is padding.

    A JAX pytree, as `TokenBatch` is. The texts of one or several `TokenBatch`es are numbered consecutively.

    Attributes:
      text: the number of the text at each position; -1 for padding.
      start: the first position of each text, counted over all rows one after the other.
    """

    text: Int[Any, "rows row_length"]
    start: Int[Any, " texts"]
