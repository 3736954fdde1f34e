"""What goes into an index and what comes out of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

MetadataValue = str | int | float | bool
"""What a passage's metadata may hold; `jaxretr.index.filters` says which values are equal."""

UNKNOWN_LANGUAGE = "und"
"""The language of a passage that has none: ISO 639's "undetermined"."""


class DamagedIndexError(ValueError):
    """A file of an index is missing, or does not hold what it should."""


@dataclass(frozen=True, slots=True)
class IndexedPassage:
    """A passage as an index keeps it.

    Attributes:
      id: unique in its index; BEIR's `_id`.
      text, title: what a search shows; the encoder read `full_text`.
      language: such as "en"; `UNKNOWN_LANGUAGE` where nobody said.
      metadata: more about it, to show and to filter by.
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
class SearchOptions:
    """How one query is to be answered.

    Attributes:
      k: passages wanted; fewer come where fewer fit.
      languages: of the passages; empty for all.
      where: metadata that a passage must have: key -> a value, or several (a tuple or list) of which it must have one.
      per_language: at most so many passages of one language; None for no such limit.
      calibrate: compare a score with what the query scores on average in the passage's language: the mean score of
        that language is taken off, which counters a preference for the query's own language.

    Raises:
      ValueError: for a number below 1, or a value in `where` that metadata cannot hold.
    """

    k: int = 10
    languages: tuple[str, ...] = ()
    where: Mapping[str, MetadataValue | Sequence[MetadataValue]] = field(default_factory=dict)
    per_language: int | None = None
    calibrate: bool = False

    def __post_init__(self) -> None:
        for name in ("k", "per_language"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        for key, value in self.where.items():
            values = wanted_values(value) if isinstance(value, tuple | list) else [value]
            if not values or not all(map(is_metadata_value, values)):
                raise ValueError(
                    f"where {key!r} is {value!r}; expected a text, a finite number, true or false, or a tuple of these "
                    "of which a passage must have one"
                )


def wanted_values(value: MetadataValue | Sequence[MetadataValue]) -> tuple[MetadataValue, ...]:
    """The values of which a passage must have one, for a value of `SearchOptions.where`."""
    return (value,) if isinstance(value, MetadataValue) else tuple(value)


def is_metadata_value(value: Any) -> bool:
    """Whether metadata can hold a value: a text, a finite number, true or false."""
    return isinstance(value, MetadataValue) and not (isinstance(value, float) and not math.isfinite(value))


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found; higher `score` is better: the cosine, or what calibration made of it."""

    passage: IndexedPassage
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The passages found for one query, best first.

    Attributes:
      missing_shards: numbers of the shards that did not answer; the hits are then the best of the others.
    """

    hits: tuple[Hit, ...]
    missing_shards: tuple[int, ...] = ()


@runtime_checkable
class Searchable(Protocol):
    """An index, or several that are searched together. All methods may be called from several threads at once."""

    def search(self, queries: Float32[np.ndarray, "queries dim"], options: Sequence[SearchOptions]) -> list[Answer]:
        """The answer to each query, which has options of its own.

        Raises:
          ValueError: for queries of another width, or a language or metadata key that the index does not have.
        """
        ...

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> None:
        """Adds passages, or replaces those of the same ids. They are on disk when this returns: all of them or none.

        Raises:
          ValueError: for an id twice, or vectors that do not fit.
          OSError: when they cannot be written; nothing has changed then.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Takes passages out; returns how many there were. On disk when this returns."""
        ...

    def compact(self) -> None:
        """Builds the index anew from what it holds, while searches and updates go on."""
        ...

    @property
    def languages(self) -> Mapping[str, int]:
        """The number of passages in each language."""
        ...

    def describe(self) -> dict[str, Any]:
        """Size, settings, measured recall and latency, as JSON; in `since_built` how many passages were upserted and
        deleted since the index was built or compacted."""
        ...

    def __len__(self) -> int: ...
