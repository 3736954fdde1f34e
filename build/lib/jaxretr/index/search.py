"""Search the parts of an index: return row numbers and scores for each query.

Every part returns candidates: ScaNN's, or the exact best. All candidates are then scored in the same way, from the
stored vectors, in float64 rounded to float32. So a score does not depend on which searcher found the passage, on other
queries, or on how the corpus is split into parts and shards. Equal scores are ordered by the keys of the passages.
"""

import functools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt16, UInt64

from jaxretr.index.approximate import EXACT_BELOW, ScannSearcher
from jaxretr.index.types import SearchOptions
from jaxretr.index.vectors import Vectors
from jaxretr.retrieval.calibration import language_means
from jaxretr.retrieval.scores import largest_norm, pair_scores, rounding_error

_SCORES_AT_ONCE = 1 << 24  # products of queries and passages computed at once
_MASKS = 8  # number of filters whose masks a snapshot caches
_DEEPER = 4  # factor by which the number of candidates grows while they do not settle the answer
_DEEPEST = 10_000  # candidates per part from which an answer is returned even if it is not settled


@dataclass(frozen=True)
class Part:
    """Consecutive rows of an index.

    Attributes:
      start: number of the first row.
      vectors: vectors of the rows, on disk; in memory for upserted rows.
      searcher: ScaNN searcher; None if every row is scored.
      language: language number of each row.
      keys: key of each row; breaks ties.
      alive: which rows are not deleted.
    """

    start: int
    vectors: Vectors | Float32[np.ndarray, "rows dim"]
    searcher: ScannSearcher | None
    language: UInt16[np.ndarray, " rows"]
    keys: UInt64[np.ndarray, " rows"]
    alive: Bool[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.language)

    @functools.cached_property
    def largest_norm(self) -> float:
        """Largest L2 norm of a vector; it bounds the rounding error of matrix products."""
        return self.vectors.largest_norm if isinstance(self.vectors, Vectors) else largest_norm(self.vectors)

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
    """

    parts: tuple[Part, ...]
    languages: tuple[str, ...]
    sums: Float64[np.ndarray, "languages dim"]
    counts: Int[np.ndarray, " languages"]
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


class Found(NamedTuple):
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
) -> list[Found]:
    """Return the best rows for each query.

    Args:
      snapshot: state of the index to search.
      queries: query vectors.
      options: options of each query.
      matching: metadata filter -> rows that match it.
      means: mean vector of each language of the snapshot, if it is computed over more than the snapshot, such as over
        all shards.
    """
    means = snapshot.means if means is None else means
    answers: dict[int, Found] = {}
    todo: dict[tuple[int, int, Any], list[int]] = {}  # queries with equal k, depth and filters share a search
    for number, option in enumerate(options):
        # A little more than k, since near-equal scores may change places when they are rescored.
        depth = max(16, 1 << (option.k + 3).bit_length())
        todo.setdefault((option.k, depth, filter_of(option)), []).append(number)
    while todo:
        (k, depth, alike), numbers = todo.popitem()
        allowed = snapshot.allowed(options[numbers[0]], matching)
        of_parts = [
            _candidates(part, queries[numbers], in_part, k, depth)
            for part, in_part in zip(snapshot.parts, allowed, strict=True)
        ]
        for place, number in enumerate(numbers):
            candidates = [found[place] for found in of_parts]
            answers[number], settled = _answer(snapshot, queries[number], candidates, depth, options[number], means)
            if not settled and depth < _DEEPEST:
                todo.setdefault((k * _DEEPER, depth * _DEEPER, alike), []).append(number)
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
) -> tuple[Found, bool]:
    """Return the best candidates, and whether the answer is settled.

    It is settled if no passage outside the candidates can be better.
    """
    rows, scores, keys, languages = [], [], [], []
    unseen = np.float32(-np.inf)  # upper bound on the score of passages that are not candidates
    penalty = np.zeros(len(snapshot.languages), np.float32)
    if options.calibrate:  # `pair_scores`, so that a penalty does not depend on the other languages of the index
        penalty = pair_scores(query, means)
    for part, found in zip(snapshot.parts, candidates, strict=True):
        if not len(found):
            continue
        exact = pair_scores(query, part.take(found))
        if len(found) >= depth:  # every other passage of the part scores less than the `depth`-th candidate
            below = np.nextafter(np.partition(exact, -depth)[-depth], np.float32(-np.inf))
            unseen = max(unseen, below - penalty.min())
        rows.append(part.start + found)
        scores.append(exact - penalty[part.language[found]])
        keys.append(part.keys[found])
        languages.append(part.language[found])
    if not rows:
        return Found(np.empty(0, np.int64), np.empty(0, np.float32)), True
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((np.concatenate(keys), -all_scores))
    if options.per_language is not None:
        order = order[_place_among_equals(np.concatenate(languages)[order]) < options.per_language]
    order = order[: options.k]
    settled = unseen == -np.inf or (len(order) == options.k and all_scores[order[-1]] > unseen)
    return Found(all_rows[order], all_scores[order]), bool(settled)


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

    The best `k` are found with the recall that the searcher was tuned to. The other candidates are a by-product.
    """
    count = int(np.count_nonzero(allowed))
    if part.searcher is None or count <= EXACT_BELOW:
        return exact_candidates(part, queries, allowed, depth)
    found: list[np.ndarray] = [np.empty(0, np.int64)] * len(queries)
    pending = np.arange(len(queries))
    wanted = depth if count == len(part) else 8 + int(1.5 * depth * len(part) / count)
    reach = k * len(part) / count  # approximate rank of the k-th allowed row among all rows
    while len(pending) and wanted <= len(part) // _DEEPER:
        settings = part.searcher.settings.for_depth(math.ceil(reach))
        for number, rows in zip(pending, part.searcher.search(queries[pending], wanted, settings)[0], strict=True):
            rows = rows[rows >= 0]
            found[number] = rows[allowed[rows]][:depth]
        pending = pending[[len(found[number]) < depth for number in pending]]
        wanted, reach = wanted * _DEEPER, reach * _DEEPER
    if len(pending):
        for number, rows in zip(pending, exact_candidates(part, queries[pending], allowed, depth), strict=True):
            found[number] = rows
    return found


def exact_candidates(
    part: Part,
    queries: Float32[np.ndarray, "queries dim"],
    allowed: Bool[np.ndarray, " rows"],
    depth: int,
) -> list[Int[np.ndarray, " found"]]:
    """Return, for each query, at least the rows with the best `depth` scores, and all rows tied with the last of them.

    A row is dropped if its product is more than twice the rounding error below the `depth`-th product, since `depth`
    rows then have higher scores.
    """
    count = int(np.count_nonzero(allowed))
    chosen = np.flatnonzero(allowed) if count < len(part) // 4 else None
    total = len(part) if chosen is None else count
    longest = part.largest_norm if chosen is None else 0.0
    block = min(65_536, max(1_024, _SCORES_AT_ONCE // max(1, len(queries))))
    rows: list[np.ndarray] = [np.empty(0, np.int64)] * len(queries)
    products: list[np.ndarray] = [np.empty(0, np.float32)] * len(queries)

    for start in range(0, total, block):
        if chosen is None:
            numbers = np.arange(start, min(start + block, total))
            of_block = queries @ part.vectors[start : start + block].T
            of_block[:, ~allowed[start : start + block]] = -np.inf
        else:
            numbers = chosen[start : start + block]
            vectors = part.take(numbers)
            of_block, longest = queries @ vectors.T, max(longest, largest_norm(vectors))
        margin = 2 * rounding_error(queries, longest)
        for number, of_query in enumerate(of_block):
            least = max(_nth(products[number], depth), _nth(of_query, depth)) - margin[number]
            kept = np.flatnonzero((of_query >= least) & (of_query > -np.inf))
            of_both = np.concatenate([products[number], of_query[kept]])
            rows[number] = np.concatenate([rows[number], numbers[kept]])
            best = of_both >= _nth(of_both, depth) - margin[number]
            products[number], rows[number] = of_both[best], rows[number][best]
    return rows


def _nth(values: Float32[np.ndarray, " n"], place: int) -> float:
    """Return the `place`-th largest value, counted from 1; -inf if there are fewer values."""
    return float(np.partition(values, -place)[-place]) if len(values) >= place else -np.inf
