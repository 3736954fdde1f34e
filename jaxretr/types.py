"""The nouns of retrieval, shared by every part of the package, and the glossary of array axes.

Axis names used in `jaxtyping` annotations throughout:

| name | axis |
|---|---|
| `batch` | texts of one batch on one device (`queries`, `passages` where both occur) |
| `length` | token positions, special tokens and padding included |
| `hidden` | width of the encoder |
| `dim` | width of a sentence embedding (= `hidden` unless the model has a dense head) |
| `vocab` | rows of the word-embedding table |
| `layers`, `heads`, `head_dim`, `ffn` | the transformer's own axes |
| `devices` | the leading axis that `jaxretr.parallel` maps over |

Keys: a *key* names a question or a passage regardless of its language (translations share it), an *id* names
one text. The id of a text is `"{language}:{key}"` wherever texts of several languages meet.
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
    """A retrievable text in one language. `full_text` (title and text) is what the encoder reads."""

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

    `relevance` is graded as in TREC: 0 is judged and irrelevant, positive is relevant.
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
    """Passages whose texts are not in memory: a sequence that reads each one when it is asked for."""

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The id of every passage, without reading any."""

    @property
    @abstractmethod
    def languages(self) -> Sequence[str]:
        """The language of every passage, without reading any."""

    @abstractmethod
    def take(self, indices: Iterable[SupportsIndex]) -> list[Passage]:
        """The passages at `indices`, in that order, read together: faster than one after the other."""

    def checksums(self) -> UInt64[np.ndarray, " passages"]:
        """A checksum of the id, title and text of each passage. Reads every text; stores may keep the checksums."""
        return _checksums((passage.id, passage.title, passage.text) for passage in self)


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A test collection in one or several languages.

    Attributes:
      name: what reports call it.
      queries: every question in every language it is asked in.
      passages: the pooled corpus of all languages; a tuple, or a `PassageStore` where the texts stay on disk.
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

        Two collections with equal fingerprints have the same content, in any order, on any machine. Computed at every
        call: about 3.5 µs of CPU time per text of 360 characters, and less for stored passages, whose checksums are
        kept.
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
        """The passages at `indices`, in that order: how to read a corpus in chunks, wherever its texts are."""
        if isinstance(self.passages, PassageStore):
            return self.passages.take(indices)
        return [self.passages[int(i)] for i in indices]


def _checksums(items: Iterable[tuple[str, ...]]) -> UInt64[np.ndarray, " items"]:
    return np.fromiter((text_checksum(*texts) for texts in items), np.uint64)


class TokenBatch(NamedTuple):
    """Token ids, right-padded, and which of them are real (special tokens included).

    A JAX pytree: numpy arrays on the host, jax arrays inside a compiled function.
    """

    ids: Int[Any, "*batch length"]
    mask: Bool[Any, "*batch length"]


class Packing(NamedTuple):
    """Where texts lie that share rows, so that little of what is encoded is padding.

    A JAX pytree, as `TokenBatch` is. The texts, of one or several `TokenBatch`es, are numbered one after the other.

    Attributes:
      text: the number of the text at each position; -1 for padding.
      start: where each text begins, as a position in all rows one after the other.
    """

    text: Int[Any, "rows row_length"]
    start: Int[Any, " texts"]
