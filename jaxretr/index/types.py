"""Data types of an index: passages, search options, answers, and the `Searchable` protocol."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float32

MetadataValue = str | int | float | bool
"""Types of metadata values; `jaxretr.index.filters` defines which values are equal."""

UNKNOWN_LANGUAGE = "und"
"""Language of a passage whose language is unknown: "undetermined" in ISO 639."""


Fusion = Literal["rrf", "convex"]
"""How the results of vectors and words are combined; `jaxretr.index.fusion` defines them."""

LEXICAL_WEIGHT = 0.5
"""Default weight of the BM25 scores in a convex combination."""


class DamagedIndexError(ValueError):
    """A file of an index is missing, or its content is invalid."""


@dataclass(frozen=True, slots=True)
class IndexedPassage:
    """A passage as an index stores it.

    Attributes:
      id: unique identifier in the index; `_id` in BEIR's format.
      text, title: text and title that a search returns; the encoder reads `full_text`.
      language: language code such as "en"; `UNKNOWN_LANGUAGE` if the language is unknown.
      metadata: further values, to show and to filter by.
    """

    id: str
    text: str
    title: str = ""
    language: str = UNKNOWN_LANGUAGE
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def full_text(self) -> str:
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """The lexical part of a query: its words, to search by BM25 in passages of its language.

    Attributes:
      text: text of the query.
      language: language of the query. Only passages with this language code are searched by words.
      fusion: how the results of vectors and words are combined.
      weight: weight of the BM25 scores in a convex combination, from 0 to 1; None for `LEXICAL_WEIGHT`.

    Raises:
      ValueError: the language is empty, the fusion is unknown, the weight is out of range, or `fusion` is "rrf" and
        there is a weight.
    """

    text: str
    language: str
    fusion: Fusion = "rrf"
    weight: float | None = None

    def __post_init__(self) -> None:
        if not self.language:
            raise ValueError("the language of the query is empty; expected a language code of the passages, such as en")
        if self.fusion not in get_args(Fusion):
            raise ValueError(f"fusion is {self.fusion!r}; expected one of {', '.join(get_args(Fusion))}")
        if self.weight is not None and self.fusion != "convex":
            raise ValueError(
                f"the weight is {self.weight}, but {self.fusion} has no weight; leave it out, or use convex"
            )
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise ValueError(f"the weight is {self.weight}; expected a number from 0 to 1")


@dataclass(frozen=True, slots=True)
class TermStatistics:
    """What BM25 needs to know about the passages in the language of a query. Statistics of shards can be added.

    Attributes:
      passages: number of passages in the language.
      terms: total number of terms in these passages.
      frequencies: number of these passages that contain each term of the query, in the order of the terms.
    """

    passages: int
    terms: int
    frequencies: tuple[int, ...]

    def __add__(self, other: "TermStatistics") -> "TermStatistics":
        frequencies = tuple(map(sum, zip(self.frequencies, other.frequencies, strict=True)))
        return TermStatistics(self.passages + other.passages, self.terms + other.terms, frequencies)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Options of one query.

    Attributes:
      k: number of passages to return; fewer are returned if fewer match.
      languages: languages of the passages to return; empty for all languages.
      where: metadata filter. Maps each key to the value that a passage must have, or to a tuple or list of values of
        which it must have one.
      per_language: maximum number of passages of one language; None for no limit.
      calibrate: subtract from each score the query's mean score in the passage's language. This counters a preference
        for the query's own language.
      lexical: also search by words, and fuse the results; None for vectors alone.

    Raises:
      ValueError: `k` or `per_language` is below 1, or `where` has a value that metadata cannot hold.
    """

    k: int = 10
    languages: tuple[str, ...] = ()
    where: Mapping[str, MetadataValue | Sequence[MetadataValue]] = field(default_factory=dict)
    per_language: int | None = None
    calibrate: bool = False
    lexical: LexicalQuery | None = None

    def __post_init__(self) -> None:
        for name in ("k", "per_language"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        for key, value in self.where.items():
            values = wanted_values(value) if isinstance(value, tuple | list) else [value]
            if not values or not all(map(is_metadata_value, values)):
                raise ValueError(
                    f"where {key!r} is {value!r}; expected a text, a finite number, true or false, or a tuple of such "
                    "values (a passage must have one of them)"
                )


def wanted_values(value: MetadataValue | Sequence[MetadataValue]) -> tuple[MetadataValue, ...]:
    """Return the values that an entry of `SearchOptions.where` allows, as a tuple."""
    return (value,) if isinstance(value, MetadataValue) else tuple(value)


def is_metadata_value(value: Any) -> bool:
    """Return whether metadata can hold `value`: a text, a finite number, true or false."""
    return isinstance(value, MetadataValue) and not (isinstance(value, float) and not math.isfinite(value))


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found.

    Attributes:
      passage: the passage.
      score: inner product of the query and passage vectors (their cosine if both are L2-normalized), minus the
        language's mean score if `SearchOptions.calibrate` is set. For a query with a lexical part, the fused score.
        A higher score is better.
      vector_score: for a query with a lexical part, the score of the vectors; None for other queries.
      lexical_score: for a query with a lexical part, the BM25 score, or 0 if the passage shares no term with the query
        or is in another language; None for other queries.
      rerank_score: score of the reranker, by which the answer is then ordered; None without reranking.
    """

    passage: IndexedPassage
    score: float
    vector_score: float | None = None
    lexical_score: float | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The passages found for one query.

    Attributes:
      hits: passages and their scores, best first; after reranking, best first by the reranker's score.
      missing_shards: numbers of the shards that did not answer; `hits` then holds the best passages of the other
        shards.
    """

    hits: tuple[Hit, ...]
    missing_shards: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the gate of an index rejects a passage; `jaxretr.index.gate` defines the score.

    Attributes:
      count: number of sentinel queries that the passage answers.
      score: the count plus a tie-break below 1.
      threshold: highest score that is admitted.
      language: language whose passages set the threshold; None if it was set by the passages of all languages.
      sentinels: sentinel queries that the passage answers best.
    """

    count: int
    score: float
    threshold: float
    language: str | None
    sentinels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A passage that is stored, but not served, because the gate rejected it."""

    passage: IndexedPassage
    verdict: Verdict


@runtime_checkable
class Searchable(Protocol):
    """An index, or several shards that are searched as one index. All methods are thread-safe."""

    def search(self, queries: Float32[np.ndarray, "queries dim"], options: Sequence[SearchOptions]) -> list[Answer]:
        """Return one answer per query; `options[i]` belongs to `queries[i]`.

        Raises:
          ValueError: the queries do not have the width of the index, a filter names a language or metadata key that
            the index does not have, or a query has a lexical part and the index has none.
        """
        ...

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> list[str]:
        """Add passages; replace passages whose ids already exist. The update is atomic, and on disk when this returns.

        If the index has a gate, it judges every passage, except a released passage that keeps its title and text.

        Returns:
          The ids of the passages that the gate quarantined. They replace existing passages, but searches skip them.

        Raises:
          ValueError: an id occurs twice, or the vectors do not match the passages.
          OSError: the update cannot be written; nothing has changed.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Delete the passages with these ids and return how many existed. The deletion is on disk when this returns.

        Quarantined passages are deleted, too.
        """
        ...

    def quarantine(self, limit: int, after: str = "") -> list[Quarantined]:
        """Return at most `limit` quarantined passages in order of id; only ids above `after`, for the next page.

        Raises:
          ValueError: the index has no gate.
        """
        ...

    def release(self, ids: Sequence[str]) -> int:
        """Serve quarantined passages until their text changes; skip other ids. On disk when this returns.

        Returns:
          The number of passages released.

        Raises:
          ValueError: the index has no gate.
        """
        ...

    def compact(self) -> None:
        """Rebuild the index from its current passages. Searches and updates continue meanwhile."""
        ...

    @property
    def languages(self) -> Mapping[str, int]:
        """Number of passages per language, without quarantined passages."""
        ...

    @property
    def has_lexical(self) -> bool:
        """Whether queries may have a lexical part."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return size, settings, measured recall and latency, as JSON.

        `since_built` has the numbers of passages upserted and deleted since the index was built or compacted. `gate`
        has the settings and thresholds of the gate, and the number of quarantined passages; None without a gate.
        `lexical` is true if the index has a lexical part.
        """
        ...

    def __len__(self) -> int: ...
