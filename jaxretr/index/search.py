"""Search the parts of an index: return row numbers and scores for each query.

Every part returns candidates, found by ScaNN or by exact search. All candidates are then scored in the same way, from
the stored vectors, in float64 rounded to float32. So a score does not depend on the searcher that found the passage, on
other queries, or on how the corpus is split into parts and shards. Equal scores are ordered by the keys of the
passages.
"""

import functools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt16, UInt64

from jaxretr.index.approximate import EXACT_UP_TO, ScannSearcher
from jaxretr.index.postings import Postings
from jaxretr.index.types import SearchOptions
from jaxretr.index.vectors import Vectors
from jaxretr.retrieval.calibration import language_means
from jaxretr.retrieval.scores import largest_norm, pair_scores, rounding_error

_SCORES_AT_ONCE = 1 << 24  # products of queries and passages computed at once
_MASKS = 8  # number of filters whose masks a snapshot caches
_DEPTH_FACTOR = 4  # growth factor of the number of candidates in each further search
_MAX_DEPTH = 10_000  # an answer with this many candidates per part is returned even if it is not settled (`_answer`)


@dataclass(frozen=True)
class Part:
    """Consecutive rows of an index: one segment, or the upserted rows.

    Attributes:
      start: number of the first row.
      vectors: vectors of the rows, on disk; in memory for upserted rows.
      searcher: ScaNN searcher; None if every row is scored.
      language: language number of each row.
      keys: key of each row; breaks ties.
      alive: which rows are neither deleted nor quarantined.
      postings: terms of the rows, in consecutive blocks; none if the index has no lexical part.
    """

    start: int
    vectors: Vectors | Float32[np.ndarray, "rows dim"]
    searcher: ScannSearcher | None
    language: UInt16[np.ndarray, " rows"]
    keys: UInt64[np.ndarray, " rows"]
    alive: Bool[np.ndarray, " rows"]
    postings: tuple[Postings, ...] = ()

    def __len__(self) -> int:
        return len(self.language)

    @functools.cached_property
    def largest_norm(self) -> float:
        """Largest L2 norm of a vector; it bounds the rounding error of matrix products."""
        return self.vectors.largest_norm if isinstance(self.vectors, Vectors) else largest_norm(self.vectors)

    def live_terms(self, language: int) -> int:
        """Return the number of terms in the live rows of a language."""
        return int(self._live_terms[language]) if language < len(self._live_terms) else 0

    @functools.cached_property
    def _live_terms(self) -> Int[np.ndarray, " languages"]:
        lengths = np.concatenate([np.empty(0, np.uint32), *(block.lengths for block in self.postings)])
        return np.bincount(self.language[self.alive], lengths[self.alive]).astype(np.int64)

    def take(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """Gather vectors by row position in this part."""
        return self.vectors.take(rows) if isinstance(self.vectors, Vectors) else self.vectors[rows]


class _Masks:
    """Cache of the masks of recently used filters. Thread-safe."""

    def __init__(self) -> None:
        self._lock, self._kept = threading.Lock(), dict[Any, list[np.ndarray]]()

    def get(self, key: Any) -> list[np.ndarray] | None:
        with self._lock:
            masks = self._kept.pop(key, None)
            if masks is not None:
                self._kept[key] = masks  # move it to the end, as most recently used
            return masks

    def put(self, key: Any, masks: list[np.ndarray]) -> None:
        with self._lock:
            self._kept[key] = masks
            while len(self._kept) > _MASKS:
                del self._kept[next(iter(self._kept))]


@dataclass(frozen=True)
class Snapshot:
    """All state that one search uses. It never changes, so a search sees all of an update or none.

    Attributes:
      parts: parts of the index, in row order.
      languages: name of each language, by number.
      sums: sum of the live vectors in each language.
      counts: number of live vectors in each language.
      quarantined: numbers of the rows that the gate holds back, in ascending order; they are not alive.
    """

    parts: tuple[Part, ...]
    languages: tuple[str, ...]
    sums: Float64[np.ndarray, "languages dim"]
    counts: Int[np.ndarray, " languages"]
    quarantined: Int[np.ndarray, " quarantined"] = field(default_factory=lambda: np.empty(0, np.int64))
    _masks: _Masks = field(default_factory=_Masks, compare=False, repr=False)  # see `allowed`

    @functools.cached_property
    def means(self) -> Float32[np.ndarray, "languages dim"]:
        """Mean vector of each language, shrunk toward the mean of all vectors."""
        return language_means(self.sums, self.counts)

    def allowed(self, options: SearchOptions, matching: Any) -> list[Bool[np.ndarray, " rows"]]:
        """Return, for each part, a mask of the rows that may be in an answer. The last few masks are cached.

        Args:
          options: options of a query; only its filters are used.
          matching: metadata filter -> rows that match it.
        """
        key = filter_of(options)
        if key == filter_of(SearchOptions()):
            return [part.alive for part in self.parts]
        masks = self._masks.get(key)
        if masks is None:
            masks = self._masks_of(options, matching)
            self._masks.put(key, masks)
        return masks

    def _masks_of(self, options: SearchOptions, matching: Any) -> list[Bool[np.ndarray, " rows"]]:
        numbers = [self.languages.index(name) for name in options.languages if name in self.languages]
        rows = np.sort(matching(options.where)) if options.where else None
        masks = []
        for part in self.parts:
            mask = part.alive & np.isin(part.language, numbers) if options.languages else part.alive.copy()
            if rows is not None:
                inside = rows[np.searchsorted(rows, part.start) : np.searchsorted(rows, part.start + len(part))]
                has = np.zeros(len(part), bool)
                has[inside - part.start] = True
                mask &= has
            masks.append(mask)
        return masks


class RowHits(NamedTuple):
    """Rows of an index and their scores, best first."""

    rows: Int[np.ndarray, " hits"]
    scores: Float32[np.ndarray, " hits"]


def search(
    snapshot: Snapshot,
    queries: Float32[np.ndarray, "queries dim"],
    options: Sequence[SearchOptions],
    *,
    matching: Any,
    means: Float32[np.ndarray, "languages dim"] | None = None,
) -> list[RowHits]:
    """Return the best rows for each query.

    Args:
      snapshot: state of the index to search.
      queries: query vectors.
      options: options of each query.
      matching: metadata filter -> rows that match it.
      means: mean vector of each language. Pass it to use means over more than this snapshot, such as over all shards.
        None uses the means of the snapshot.
    """
    means = snapshot.means if means is None else means
    answers: dict[int, RowHits] = {}
    todo: dict[tuple[int, int, Any], list[int]] = {}  # queries with equal k, depth and filters share a search
    for number, option in enumerate(options):
        # A power of two above k + 3, at least 16: more than k, since rescoring may reorder nearly equal scores.
        depth = max(16, 1 << (option.k + 3).bit_length())
        todo.setdefault((option.k, depth, filter_of(option)), []).append(number)
    while todo:
        (k, depth, filter_key), numbers = todo.popitem()
        allowed = snapshot.allowed(options[numbers[0]], matching)
        candidates_of_parts = [
            _candidates(part, queries[numbers], in_part, k, depth)
            for part, in_part in zip(snapshot.parts, allowed, strict=True)
        ]
        for place, number in enumerate(numbers):
            candidates = [of_part[place] for of_part in candidates_of_parts]
            answers[number], settled = _answer(snapshot, queries[number], candidates, depth, options[number], means)
            if not settled and depth < _MAX_DEPTH:
                todo.setdefault((k * _DEPTH_FACTOR, depth * _DEPTH_FACTOR, filter_key), []).append(number)
    return [answers[number] for number in range(len(queries))]


def filter_of(options: SearchOptions) -> tuple[Any, ...]:
    """Return a key of the filters in `options`. Options with equal keys allow the same passages."""
    return frozenset(options.languages), tuple(sorted((name, repr(value)) for name, value in options.where.items()))


def _answer(
    snapshot: Snapshot,
    query: np.ndarray,
    candidates: Sequence[np.ndarray],
    depth: int,
    options: SearchOptions,
    means: np.ndarray,
) -> tuple[RowHits, bool]:
    """Return the best candidates, and whether the answer is settled.

    The answer is settled if no passage outside the candidates can belong to it. For a part with a ScaNN searcher, this
    assumes that the searcher missed none of the best `depth` rows.
    """
    rows, scores, keys, languages = [], [], [], []
    unseen = np.float32(-np.inf)  # upper bound on the score of passages that are not candidates
    penalty = np.zeros(len(snapshot.languages), np.float32)
    if options.calibrate:  # `pair_scores`, not a matrix product: a penalty must not depend on the other languages
        penalty = pair_scores(query, means)
    for part, part_rows in zip(snapshot.parts, candidates, strict=True):
        if not len(part_rows):
            continue
        exact = pair_scores(query, part.take(part_rows))
        if len(part_rows) >= depth:  # if the searcher is right, the other allowed rows score less than this candidate
            below = np.nextafter(np.partition(exact, -depth)[-depth], np.float32(-np.inf))
            unseen = max(unseen, below - penalty.min())
        rows.append(part.start + part_rows)
        scores.append(exact - penalty[part.language[part_rows]])
        keys.append(part.keys[part_rows])
        languages.append(part.language[part_rows])
    if not rows:
        return RowHits(np.empty(0, np.int64), np.empty(0, np.float32)), True
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((np.concatenate(keys), -all_scores))
    if options.per_language is not None:
        order = order[_place_among_equals(np.concatenate(languages)[order]) < options.per_language]
    order = order[: options.k]
    settled = unseen == -np.inf or (len(order) == options.k and all_scores[order[-1]] > unseen)
    return RowHits(all_rows[order], all_scores[order]), bool(settled)


def _place_among_equals(values: UInt16[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return, for each value, how many equal values precede it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    place = np.empty(len(values), np.int64)
    place[order] = np.arange(len(values)) - np.repeat(first, np.diff(np.r_[first, len(values)]))
    return place


def _candidates(part: Part, queries: np.ndarray, allowed: np.ndarray, k: int, depth: int) -> list[np.ndarray]:
    """Return, for each query, the best `depth` allowed rows of a part, or all allowed rows if there are fewer.

    The best `k` have the recall that the searcher was tuned for. The further candidates may have a lower recall.
    """
    count = int(np.count_nonzero(allowed))
    if part.searcher is None or count <= EXACT_UP_TO:
        return exact_candidates(part, queries, allowed, depth)
    candidates: list[np.ndarray] = [np.empty(0, np.int64)] * len(queries)
    pending = np.arange(len(queries))
    requested = depth if count == len(part) else 8 + int(1.5 * depth * len(part) / count)
    reach = k * len(part) / count  # approximate rank of the k-th allowed row among all rows
    while len(pending) and requested <= len(part) // _DEPTH_FACTOR:
        settings = part.searcher.settings.for_depth(math.ceil(reach))
        for number, rows in zip(pending, part.searcher.search(queries[pending], requested, settings)[0], strict=True):
            rows = rows[rows >= 0]
            candidates[number] = rows[allowed[rows]][:depth]
        pending = pending[[len(candidates[number]) < depth for number in pending]]
        requested, reach = requested * _DEPTH_FACTOR, reach * _DEPTH_FACTOR
    if len(pending):
        for number, rows in zip(pending, exact_candidates(part, queries[pending], allowed, depth), strict=True):
            candidates[number] = rows
    return candidates


def exact_candidates(
    part: Part,
    queries: Float32[np.ndarray, "queries dim"],
    allowed: Bool[np.ndarray, " rows"],
    depth: int,
) -> list[Int[np.ndarray, " found"]]:
    """Return, for each query, at least the rows with the best `depth` scores, including ties with the last one.

    A row is dropped if its product is below the `depth`-th product by more than twice the rounding error: `depth`
    other rows then certainly have higher scores.
    """
    count = int(np.count_nonzero(allowed))
    selected = np.flatnonzero(allowed) if count < len(part) // 4 else None
    total = len(part) if selected is None else count
    longest = part.largest_norm if selected is None else 0.0
    block = min(65_536, max(1_024, _SCORES_AT_ONCE // max(1, len(queries))))
    rows: list[np.ndarray] = [np.empty(0, np.int64)] * len(queries)
    products: list[np.ndarray] = [np.empty(0, np.float32)] * len(queries)

    for start in range(0, total, block):
        if selected is None:
            numbers = np.arange(start, min(start + block, total))
            block_products = queries @ part.vectors[start : start + block].T
            block_products[:, ~allowed[start : start + block]] = -np.inf
        else:
            numbers = selected[start : start + block]
            vectors = part.take(numbers)
            block_products, longest = queries @ vectors.T, max(longest, largest_norm(vectors))
        margin = 2 * rounding_error(queries, longest)
        for number, query_products in enumerate(block_products):
            threshold = max(_nth(products[number], depth), _nth(query_products, depth)) - margin[number]
            kept = np.flatnonzero((query_products >= threshold) & (query_products > -np.inf))
            kept_products = np.concatenate([products[number], query_products[kept]])
            rows[number] = np.concatenate([rows[number], numbers[kept]])
            best = kept_products >= _nth(kept_products, depth) - margin[number]
            products[number], rows[number] = kept_products[best], rows[number][best]
    return rows


def _nth(values: Float32[np.ndarray, " n"], place: int) -> float:
    """Return the `place`-th largest value, counted from 1; -inf if there are fewer values."""
    return float(np.partition(values, -place)[-place]) if len(values) >= place else -np.inf
