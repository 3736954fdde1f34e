"""What an index must hold and answer. Input: writes and answers with their times. Output: complaints.

Every passage that is put has a unique `version` in its metadata, so an answer tells which version it found. A write
takes effect between the time it was sent and the time it was accepted. A write that was never answered takes effect at
an unknown time or never; `settle` finds out which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TOLERANCE = 5e-5  # of a score: the batches in which texts are encoded differ in shape
_NEVER = np.inf
_KEPT = 100.0  # seconds to remember a removed passage; longer than any request

Key = tuple[str, int]
"""Id and version of a passage."""


@dataclass(frozen=True)
class Write:
    """One request: the keys that it adds, and the keys that it removes or replaces."""

    added: tuple[Key, ...]
    removed: tuple[Key, ...]


@dataclass(frozen=True)
class Asked:
    """A query: its vector, its options and its times."""

    vector: np.ndarray
    k: int
    sent: float
    received: float
    languages: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    per_language: int | None = None


class Truth:
    """All versions of passages, when each may have been present, and all complaints.

    Args:
      passages: passages as in a request; a passage without a version has version 0.
      vectors: their vectors.
    """

    def __init__(self, passages: Sequence[Mapping[str, Any]], vectors: np.ndarray):
        self.complaints: list[str] = []
        self.current: dict[str, Key] = {}
        self._unknown: list[Write] = []
        self._passages: list[Mapping[str, Any]] = []
        self._row: dict[Key, int] = {}
        self._vectors = np.empty((0, vectors.shape[1]), np.float32)
        # Rows: the times when it may have arrived, surely was present, may have been removed, surely was removed.
        self._times = np.empty((4, 0))
        self.accepted(self.upsert(passages, vectors, -_NEVER), -_NEVER)

    def __len__(self) -> int:
        return len(self.current)

    @property
    def uncertain(self) -> set[str]:
        """Ids that must not be written before the next `settle`."""
        return {id for write in self._unknown for id, _ in (*write.added, *write.removed)}

    def complain(self, what: str) -> None:
        self.complaints.append(what)

    # Writes. Each write is recorded before it is sent and ends in one of three ways.

    def upsert(self, passages: Sequence[Mapping[str, Any]], vectors: np.ndarray, now: float) -> Write:
        added = tuple(_key(passage) for passage in passages)
        self._row |= {key: row for row, key in enumerate(added, len(self._passages))}
        self._passages += passages
        self._vectors = np.concatenate([self._vectors, vectors])
        times = np.repeat([[now], [_NEVER], [_NEVER], [_NEVER]], len(added), 1)
        self._times = np.concatenate([self._times, times], 1)
        return self._begun(added, [id for id, _ in added], now)

    def delete(self, ids: Sequence[str], now: float) -> Write:
        return self._begun((), ids, now)

    def accepted(self, write: Write, now: float) -> None:
        self._times[1, self._rows(write.added)] = now
        self._times[3, self._rows(write.removed)] = now
        for id, _ in write.removed:
            del self.current[id]
        self.current |= {key[0]: key for key in write.added}

    def refused(self, write: Write) -> None:
        self._times[0, self._rows(write.added)] = _NEVER
        self._times[2, self._rows(write.removed)] = _NEVER

    def unanswered(self, write: Write) -> None:
        self._unknown.append(write)

    # Answers.

    def check(self, asked: Asked, hits: Sequence[Mapping[str, Any]]) -> None:
        """Complain about impossible hits, wrong scores, wrong order, and passages missing from the answer."""
        scores = self._vectors @ asked.vector
        rows = self._check_hits(asked, hits, scores)
        found = [hit["score"] for hit in hits]
        if sorted(found, reverse=True) != found:
            self.complain(f"scores are not in order: {found}")
        if len(hits) > asked.k or len({hit["id"] for hit in hits}) < len(hits):
            self.complain(f"{len(hits)} hits for k = {asked.k}, of the passages {[hit['id'] for hit in hits]}")
        if asked.per_language is not None:  # per language, only the number of hits is checked
            languages = [hit["language"] for hit in hits]
            if max(map(languages.count, languages), default=0) > asked.per_language:
                self.complain(f"languages {languages}, expected at most {asked.per_language} of each")
            return
        least = found[-1] + TOLERANCE if len(hits) == asked.k else -_NEVER
        missed = (self._times[1] <= asked.sent) & (self._times[2] > asked.received) & (scores > least)
        missed[rows] = False
        for row in np.flatnonzero(missed).tolist():
            if _fits(self._passages[row], asked):
                self.complain(
                    f"{_key(self._passages[row])} with score {scores[row]:.5f} was not found; the last hit of "
                    f"{len(hits)} for k = {asked.k} has {found[-1:]}"
                )

    def settle(self, hits: Sequence[Mapping[str, Any]], vector: np.ndarray, now: float) -> tuple[int, int]:
        """Compare with the complete content of the index while nothing is written.

        Args:
          hits: answer to a query with a k larger than the number of passages.
          vector: vector of that query.

        Returns:
          How many of the writes without an answer took effect, and how many did not.
        """
        there = {_key(hit) for hit in hits}
        happened = 0
        for write in self._unknown:
            done = {key in there for key in write.added} | {key not in there for key in write.removed}
            if len(done) > 1:
                self.complain(f"only a part of a write has happened: {write}")
            if True in done:
                self.accepted(write, now)
                happened += 1
            else:
                self.refused(write)
        settled = happened, len(self._unknown) - happened
        self._unknown = []
        expected = set(self.current.values())
        for key in sorted(expected - there):
            self.complain(f"{key} was accepted and is lost")
        for key in sorted(there - expected):
            self.complain(f"{key} is there and should not be")
        self.check(Asked(vector, len(hits) + 1, now, now), hits)
        self._forget(now - _KEPT)
        return settled

    def _begun(self, added: tuple[Key, ...], ids: Sequence[str], now: float) -> Write:
        removed = tuple(self.current[id] for id in ids if id in self.current)
        self._times[2, self._rows(removed)] = now
        return Write(added, removed)

    def _check_hits(self, asked: Asked, hits: Sequence[Mapping[str, Any]], scores: np.ndarray) -> list[int]:
        rows = []
        for hit in hits:
            row = self._row.get(_key(hit))
            if row is None:
                self.complain(f"{_key(hit)} was found, but was never put or was deleted long ago")
                continue
            rows.append(row)
            passage = self._passages[row]
            wrong = [name for name in ("text", "title", "language", "metadata") if hit[name] != passage[name]]
            if wrong or not _fits(passage, asked):
                self.complain(f"{_key(hit)} was found with {hit}, expected {passage}, wanted {asked}")
            if not (self._times[0, row] <= asked.received and self._times[3, row] >= asked.sent):
                self.complain(f"{_key(hit)} was found, and was not there at any moment of the request")
            if not abs(hit["score"] - scores[row]) <= TOLERANCE:
                self.complain(f"{_key(hit)} was found with score {hit['score']}, expected {scores[row]}")
        return rows

    def _rows(self, keys: Sequence[Key]) -> list[int]:
        return [self._row[key] for key in keys]

    def _forget(self, before: float) -> None:
        """Forget passages that were removed before `before` or never arrived, so that checks stay fast."""
        kept = (self._times[3] >= before) & (self._times[0] < _NEVER)
        self._passages = [passage for passage, keep in zip(self._passages, kept, strict=True) if keep]
        self._row = {_key(passage): row for row, passage in enumerate(self._passages)}
        self._vectors, self._times = self._vectors[kept], self._times[:, kept]


def _key(passage: Mapping[str, Any]) -> Key:
    return passage["id"], passage["metadata"].get("version", 0)


def _fits(passage: Mapping[str, Any], asked: Asked) -> bool:
    return (not asked.languages or passage["language"] in asked.languages) and all(
        passage["metadata"].get(key) == value for key, value in asked.where.items()
    )
