"""Postings: for each term of some consecutive passages, which passages contain the term, and how often.

Postings never change. Those of a segment are built with the segment and read from disk. Those of upserted passages are
in memory, in few blocks: `appended` merges small blocks, so that n updates cost O(n log n) in all. All postings are
computed from the stored passages, so they need no transaction of their own.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from jaxretr.index.terms import VERSION, term_keys, terms

_FILES = ("lengths", "keys", "offsets", "rows", "counts")


@dataclass(frozen=True, eq=False)
class Postings:
    """The postings of consecutive passages.

    Attributes:
      start: number of the first passage, counted from the start of the part of the index.
      lengths: number of terms of each passage.
      keys: key of each distinct term and language, in ascending order.
      offsets: the postings of `keys[i]` are at `offsets[i]` to `offsets[i + 1]`, exclusive.
      rows: passage of each posting, relative to `start`, in ascending order per term.
      counts: how often the term occurs in the passage.
    """

    start: int
    lengths: UInt32[np.ndarray, " passages"]
    keys: UInt64[np.ndarray, " terms"]
    offsets: Int64[np.ndarray, " terms_plus_one"]
    rows: UInt32[np.ndarray, " postings"]
    counts: UInt32[np.ndarray, " postings"]

    def __len__(self) -> int:
        return len(self.lengths)

    def of(self, key: np.uint64) -> tuple[Int64[np.ndarray, " found"], UInt32[np.ndarray, " found"]]:
        """Return the passages that contain a term, counted from the start of the part, and how often each does."""
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            return np.empty(0, np.int64), np.empty(0, np.uint32)
        inside = slice(int(self.offsets[place]), int(self.offsets[place + 1]))
        return self.rows[inside].astype(np.int64) + self.start, np.asarray(self.counts[inside])


def postings_of(texts: Sequence[str], languages: Sequence[str], start: int = 0) -> Postings:
    """Return the postings of passages.

    Args:
      texts: text of each passage.
      languages: language code of each passage; terms of different languages never match.
      start: number of the first passage.
    """
    numbers: dict[str, dict[str, int]] = {}  # language -> term -> number in `all_keys`
    lengths = np.zeros(len(texts), np.uint32)
    found: list[int] = []
    rows: list[int] = []
    counts: list[int] = []
    size = 0
    for row, (text, language) in enumerate(zip(texts, languages, strict=True)):
        of_language = numbers.setdefault(language, {})
        frequencies = Counter(terms(text))
        lengths[row] = frequencies.total()
        for term, count in frequencies.items():
            number = of_language.setdefault(term, size)
            size = max(size, number + 1)
            found.append(number)
            rows.append(row)
            counts.append(count)
    all_keys = np.empty(size, np.uint64)
    for language, of_language in numbers.items():
        all_keys[list(of_language.values())] = term_keys(list(of_language), language)
    return _grouped(
        start,
        lengths,
        all_keys[np.asarray(found, np.int64)],
        np.asarray(rows, np.uint32),
        np.asarray(counts, np.uint32),
    )


def merged(blocks: Sequence[Postings]) -> Postings:
    """Return the postings of consecutive blocks, at least one, as one block."""
    start = blocks[0].start
    return _grouped(
        start,
        np.concatenate([block.lengths for block in blocks]),
        np.concatenate([np.repeat(block.keys, np.diff(block.offsets)) for block in blocks]),
        np.concatenate([block.rows + np.uint32(block.start - start) for block in blocks]),
        np.concatenate([block.counts for block in blocks]),
    )


def appended(blocks: tuple[Postings, ...], last: Postings) -> tuple[Postings, ...]:
    """Return the blocks followed by `last`; small blocks at the end are merged, so that their number stays small."""
    tail = [last]
    total = len(last.rows)
    while len(tail) <= len(blocks) and len(blocks[-len(tail)].rows) <= total:
        tail.append(blocks[-len(tail)])
        total += len(tail[-1].rows)
    return (*blocks[: len(blocks) - len(tail) + 1], merged(tail[::-1]) if len(tail) > 1 else last)


def lexical_directory(segment: int) -> str:
    """Return the name of the directory with the postings of a segment. Postings of another version have other names."""
    return f"lexical-{VERSION}-{segment:05}"


def write_postings(directory: Path, blocks: Iterator[Postings]) -> None:
    """Write the postings of a segment, given in consecutive blocks, to an existing, empty directory."""
    postings = merged(list(blocks))
    for name in _FILES:
        np.save(directory / f"{name}.npy", getattr(postings, name))


def read_postings(directory: Path) -> Postings:
    """Return postings that `write_postings` wrote, memory-mapped.

    Raises:
      OSError, ValueError: a file is missing or damaged.
    """
    return Postings(0, *(np.load(directory / f"{name}.npy", mmap_mode="r") for name in _FILES))


def _grouped(start: int, lengths: np.ndarray, keys: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> Postings:
    """Return postings from one key, passage and count per posting, of which equal keys are in order of passages."""
    order = np.argsort(keys, kind="stable")
    distinct, first = np.unique(keys[order], return_index=True)
    offsets = np.append(first, len(keys)).astype(np.int64)
    return Postings(start, lengths, distinct, offsets, rows[order], counts[order])
