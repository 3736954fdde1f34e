"""Measure the recall and speed of an index's ScaNN searchers, and tune their settings to reach a target recall."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from jaxretr.index import approximate
from jaxretr.index.approximate import ScannSearcher, ScannSettings
from jaxretr.retrieval.embeddings import Rows
from jaxretr.retrieval.exact import search as exact_search
from jaxretr.tracking import say

K = 10
_DEEP = 100
_REORDERING = (20, 50, 100, 200, 500, 1_000, 2_000)  # numbers of candidates to rescore that tuning tries
_STEP = 1.25  # ratio of successive shares of the leaves
_SHARES = 40  # number of steps down from all leaves
_TOO_SLOW = 1.5  # multiple of the best time so far; slower settings are not tried with more leaves
_REPEATS = 3  # timings per setting; tuning uses their median
_CONFIDENCE = 1.645  # standard errors between a target and the recall measured; new queries reach it in 95 % of cases
_SINGLE = 200  # queries searched one by one to measure latency


def measure(
    generation: Path,
    segments: list[dict[str, Any]],
    rows: Rows,
    queries: Float32[np.ndarray, "queries dim"],
    options: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Tune the searchers of a generation if a target recall is set, and measure them.

    The first half of the queries tunes and the second half measures, so the reported recall holds for new queries.

    Args:
      generation: directory of the searchers.
      segments: `rows` and ScaNN settings of each segment.
      rows: the vectors, in the highest precision available.
      queries: at least two query vectors.
      options: `BuildOptions`.

    Returns:
      The segments with their final settings, and the measurements.
    """
    if not (approximate.available() and any(segment["scann"] for segment in segments)):
        return segments, {"search": "exact"}
    k, deep = min(K, len(rows)), min(_DEEP, len(rows))
    _, truth = exact_search(queries, rows, deep)
    half = len(queries) // 2
    index = Searchers(generation, segments, rows)
    report: dict[str, Any] = {"search": "ScaNN", "against": "exact search, float32", "queries": len(queries) - half}
    if options.target_recall is not None:
        tuned = tune(index, queries[:half], truth[:half], options.target_recall)
        report["target_recall"] = options.target_recall
        for segment in segments:
            if segment["scann"]:
                leaves = max(1, math.ceil(tuned.share * segment["scann"]["num_leaves"]))
                segment["scann"] |= {
                    "num_leaves_to_search": leaves,
                    "reordering_num_neighbors": tuned.reordering,
                    "leaves_growth": tuned.growth,
                }
        index = Searchers(generation, segments, rows)
    test_queries, test_truth = queries[half:], truth[half:]
    for depth in (k, deep):
        report[f"recall@{depth}"] = recall(index.search(test_queries, depth), test_truth[:, :depth])
    started = time.perf_counter()
    index.search(test_queries, k)
    report["queries_per_second"] = len(test_queries) / (time.perf_counter() - started)
    seconds = []
    for query in test_queries[:_SINGLE]:
        started = time.perf_counter()
        index.search(query[None], k)
        seconds.append(time.perf_counter() - started)
    report["latency_ms"] = {"p50": 1e3 * float(np.median(seconds)), "p99": 1e3 * float(np.quantile(seconds, 0.99))}
    return segments, report


class Searchers:
    """The searchers of all segments, searched as one."""

    def __init__(self, generation: Path, segments: Sequence[Mapping[str, Any]], rows: Rows):
        self._rows, self._parts, start = rows, [], 0
        for number, segment in enumerate(segments):
            searcher = None
            if segment["scann"]:
                searcher = ScannSearcher(generation / f"scann-{number:05}", ScannSettings(**segment["scann"]))
            self._parts.append((start, segment["rows"], searcher))
            start += segment["rows"]

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], depth: int, share: float | None = None, reordering: int = 0
    ) -> Int[np.ndarray, "queries depth"]:
        """Return the `depth` best rows for each query, in any order.

        Args:
          queries: query vectors.
          depth: number of rows per query.
          share: share of the leaves to search; None uses the settings of each searcher.
          reordering: number of candidates to rescore if `share` is given.
        """
        rows, scores = [], []
        for start, size, searcher in self._parts:
            if searcher is None:
                best = min(depth, size)
                part_scores, part_rows = exact_search(queries, self._rows[start : start + size], best)
            else:
                settings = searcher.settings.for_depth(depth)
                if share is not None:
                    leaves = max(1, math.ceil(share * settings.num_leaves))
                    settings = dataclasses.replace(
                        settings, num_leaves_to_search=leaves, reordering_num_neighbors=reordering
                    )
                part_rows, part_scores = searcher.search(queries, depth, settings)
            rows.append(np.where(part_rows < 0, -1, part_rows + start))
            scores.append(part_scores)
        all_rows, all_scores = np.concatenate(rows, 1), np.concatenate(scores, 1)
        if len(self._parts) == 1:
            return all_rows
        best_first = np.argsort(-all_scores, axis=1)[:, :depth]
        return np.take_along_axis(all_rows, best_first, 1)


class Tuned(NamedTuple):
    """Result of tuning.

    Attributes:
      share: share of the leaves to search.
      reordering: number of candidates to rescore.
      growth: `ScannSettings.leaves_growth`.
    """

    share: float
    reordering: int
    growth: float


def tune(
    index: Searchers,
    queries: Float32[np.ndarray, "queries dim"],
    truth: Int[np.ndarray, "queries deep"],
    target: float,
) -> Tuned:
    """Find the fastest settings that reach the target recall of the true best ten.

    Also find how the leaves must grow to reach this recall of the best hundred.

    For every number of candidates to rescore, find the fewest leaves that reach the target; return the fastest of these
    pairs. Settings reach the target if their recall exceeds it by 1.645 standard errors, so that other queries of the
    same kind reach it too. If no settings reach the target, return the settings with the highest recall and log it.

    Args:
      index: searchers to tune.
      queries: query vectors.
      truth: rows of the true best passages, best first; more of them improve the estimate of the growth.
      target: recall to reach.
    """
    k, deep = min(K, truth.shape[1]), truth.shape[1]
    shares = [_STEP**-power for power in range(_SHARES, -1, -1)]

    def attempt(depth: int, place: int, reordering: int) -> tuple[bool, float]:
        """Return whether settings reach the target, and the CPU seconds that they take.

        CPU seconds, unlike elapsed seconds, hardly depend on other work on the machine.
        """
        started = time.process_time()
        rows = index.search(queries, depth, shares[place], reordering)
        return surely_reaches(rows, truth[:, :depth], target), time.process_time() - started

    def fewest(depth: int, reordering: int, least: int, budget: float) -> int | None:
        """Return the index of the smallest share, from `least` on, that reaches the target.

        Return None if an attempt takes longer than `budget`, or no share reaches the target.

        Recall and time grow with the leaves. So the search starts from below, where attempts are cheap.
        """
        below, place, leap = least - 1, least, 1
        while True:
            enough, seconds = attempt(depth, place, reordering)
            if enough:
                break
            if place == _SHARES or seconds > budget:
                return None
            below, place, leap = place, min(place + leap, _SHARES), leap * 2
        while place - below > 1:
            middle = (below + place) // 2
            below, place = (below, middle) if attempt(depth, middle, reordering)[0] else (middle, place)
        return place

    best: tuple[float, int, int] | None = None
    least = 0
    for reordering in sorted((r for r in _REORDERING if r >= k), reverse=True):
        place = fewest(k, reordering, least, _TOO_SLOW * best[0] if best else math.inf)
        if place is None:  # fewer rescored candidates would need even more leaves
            break
        least = place
        seconds = float(np.median([attempt(k, place, reordering)[1] for _ in range(_REPEATS)]))
        best = min(best, (seconds, place, reordering)) if best else (seconds, place, reordering)
    if best is None:
        most = recall(index.search(queries, k, 1.0, _REORDERING[-1]), truth[:, :k])
        say(f"No settings reach a recall of {target}; all leaves will be searched, with a recall of {most:.4f}")
        return Tuned(1.0, _REORDERING[-1], 0.0)
    seconds, place, reordering = best
    growth = ScannSettings.leaves_growth
    if deep > k:
        deep_place = fewest(deep, max(reordering, 2 * deep), place, math.inf)
        deep_share = shares[_SHARES if deep_place is None else deep_place]
        growth = math.log(deep_share / shares[place]) / math.log(deep / k)
    say(
        f"Tuned to a recall of {target}: {shares[place]:.2%} of the leaves, {reordering} candidates rescored, "
        f"{len(queries) / seconds:,.0f} queries per CPU second"
    )
    return Tuned(shares[place], reordering, growth)


def recall(retrieved: Int[np.ndarray, "queries depth"], truth: Int[np.ndarray, "queries k"]) -> float:
    """Return the mean share of the true rows among the retrieved rows."""
    return float(np.mean(_recalls(retrieved, truth)))


def surely_reaches(
    retrieved: Int[np.ndarray, "queries depth"], truth: Int[np.ndarray, "queries k"], target: float
) -> bool:
    """Return whether the recall is at least `target` plus 1.645 of its standard errors over the queries."""
    recalls = _recalls(retrieved, truth)
    error = np.std(recalls, ddof=1) / math.sqrt(len(recalls)) if len(recalls) > 1 else 0.0
    return bool(np.mean(recalls) - _CONFIDENCE * error >= target)


def _recalls(retrieved: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, " queries"]:
    return np.array([np.isin(true, rows).mean() for true, rows in zip(truth, retrieved, strict=True)])
