"""Search in the parts of an index: queries and options come in, rows and scores go out.

Every part finds candidates, ScaNN's or the exact best. All candidates are then scored alike, from the stored vectors,
in float64 rounded to float32; so a score does not depend on who found the passage, on other queries, or on how the
corpus is cut into parts and shards. Equal scores fall by the passages' keys.
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

_SCORES_AT_ONCE = 1 << 24
_MASKS = 8  # filters whose masks a snapshot keeps
_DEEPER = 4  # times as many candidates are looked at where those found do not settle the answer
_DEEPEST = 10_000  # candidates of a part, by which an answer is given even if it is not settled


@dataclass(frozen=True)
class Part:
    """Consecutive rows of an index.

    Attributes:
      start: number of the first row.
      vectors: on disk, or in memory where they were upserted.
      searcher: None where every row is scored.
      language: number of the language of each row.
      keys: what breaks ties.
      alive: which rows were not taken out.
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
        """The length of the longest vector, which says how far a matrix product may be off."""
        return self.vectors.largest_norm if isinstance(self.vectors, Vectors) else largest_norm(self.vectors)

    def take(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        return self.vectors.take(rows) if isinstance(self.vectors, Vectors) else self.vectors[rows]


class _Masks:
    """The masks of the filters used last; may be used from several threads."""

    def __init__(self) -> None:
        self._lock, self._kept = threading.Lock(), dict[Any, list[np.ndarray]]()

    def get(self, key: Any) -> list[np.ndarray] | None:
        with self._lock:
            masks = self._kept.pop(key, None)
            if masks is not None:
                self._kept[key] = masks  # as the newest
            return masks

    def put(self, key: Any, masks: list[np.ndarray]) -> None:
        with self._lock:
            self._kept[key] = masks
            while len(self._kept) > _MASKS:
                del self._kept[next(iter(self._kept))]


@dataclass(frozen=True)
class Snapshot:
    """All that one search looks at; it never changes, so a search sees all of an update or none.

    Attributes:
      languages: names by number.
      sums: of the vectors alive in each language.
      counts: how many these are.
    """

    parts: tuple[Part, ...]
    languages: tuple[str, ...]
    sums: Float64[np.ndarray, "languages dim"]
    counts: Int[np.ndarray, " languages"]
    _masks: _Masks = field(default_factory=_Masks, compare=False, repr=False)  # see `allowed`

    @functools.cached_property
    def means(self) -> Float32[np.ndarray, "languages dim"]:
        """The mean vector of each language, drawn to that of all."""
        return language_means(self.sums, self.counts)

    def allowed(self, options: SearchOptions, matching: Any) -> list[Bool[np.ndarray, " rows"]]:
        """Which rows of each part an answer may hold. The last few masks are kept.

        Args:
          matching: metadata -> rows that have it.
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
    """Rows of an index, best first."""

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
    """The answer to each query.

    Args:
      options: of each query.
      matching: metadata -> rows that have it.
      means: of the languages, where they are more than those of the snapshot: of all shards, say.
    """
    means = snapshot.means if means is None else means
    answers: dict[int, Found] = {}
    todo: dict[tuple[int, int, Any], list[int]] = {}  # queries alike in what they want are looked for together
    for number, option in enumerate(options):
        depth = max(
            16, 1 << (option.k + 3).bit_length()
        )  # a little more than k, where near-equal scores may change place
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
    """Equal for options that allow the same passages."""
    return frozenset(options.languages), tuple(sorted((name, repr(value)) for name, value in options.where.items()))


def _answer(
    snapshot: Snapshot,
    query: np.ndarray,
    candidates: Sequence[np.ndarray],
    depth: int,
    options: SearchOptions,
    means: np.ndarray,
) -> tuple[Found, bool]:
    """The best of the candidates, and whether no passage that is not among them could be better."""
    rows, scores, keys, languages = [], [], [], []
    unseen = np.float32(-np.inf)  # the highest score that a passage which is no candidate may have
    penalty = np.zeros(len(snapshot.languages), np.float32)
    if options.calibrate:  # like the scores, the same whatever languages are beside
        penalty = pair_scores(query, means)
    for part, found in zip(snapshot.parts, candidates, strict=True):
        if not len(found):
            continue
        exact = pair_scores(query, part.take(found))
        if len(found) >= depth:  # every other passage of the part scores less than the `depth`-th of those found
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
    """How many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    place = np.empty(len(values), np.int64)
    place[order] = np.arange(len(values)) - np.repeat(first, np.diff(np.r_[first, len(values)]))
    return place


def _candidates(part: Part, queries: np.ndarray, allowed: np.ndarray, k: int, depth: int) -> list[np.ndarray]:
    """For each query, the best `depth` of the rows of a part that are allowed; all of them where they are fewer.

    The best `k` are found with the recall that the searcher was tuned to, the others by the way.
    """
    count = int(np.count_nonzero(allowed))
    if part.searcher is None or count <= EXACT_BELOW:
        return exact_candidates(part, queries, allowed, depth)
    found: list[np.ndarray] = [np.empty(0, np.int64)] * len(queries)
    pending = np.arange(len(queries))
    wanted = depth if count == len(part) else 8 + int(1.5 * depth * len(part) / count)
    reach = k * len(part) / count  # the place among all rows that the k-th of those allowed has, about
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
    """At least the rows with the best `depth` scores of every query, and all that score as the last of them.

    A row is left out if its product is more than twice the rounding error below the `depth`-th product: `depth` rows
    then have higher scores.
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
    """The value at a place counted from 1, the largest first; -inf if there are fewer."""
    return float(np.partition(values, -place)[-place]) if len(values) >= place else -np.inf
