"""Find the candidates of queries with a lexical part, and score each of them by vectors and by words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from jaxretr.index.fusion import depth
from jaxretr.index.lexical import best_rows, bm25, query_keys, term_statistics
from jaxretr.index.search import Snapshot, search
from jaxretr.index.types import LexicalQuery, SearchOptions, TermStatistics
from jaxretr.retrieval.scores import pair_scores


class Candidates(NamedTuple):
    """Rows of an index with both scores, in ascending order of row."""

    rows: Int[np.ndarray, " candidates"]
    vector_scores: Float32[np.ndarray, " candidates"]
    lexical_scores: Float32[np.ndarray, " candidates"]


def search_candidates(
    snapshot: Snapshot,
    queries: Float32[np.ndarray, "queries dim"],
    options: Sequence[SearchOptions],
    *,
    matching: Any,
    means: Float32[np.ndarray, "languages dim"] | None = None,
    statistics: Sequence[TermStatistics] | None = None,
) -> list[Candidates]:
    """Return the candidates of each query, which `fusion.fuse` needs.

    Args:
      snapshot, queries, matching, means: as for `search`.
      options: options of each query, all with a lexical part.
      statistics: statistics of each query over all shards; None uses the statistics of the snapshot.
    """
    means = snapshot.means if means is None else means
    vector_options = [replace(one, k=depth(one), per_language=None, lexical=None) for one in options]
    # With a limit per language, an answer may hold passages below the first `depth`.
    limited = [number for number, one in enumerate(options) if one.per_language is not None]
    vector_options += [replace(options[number], lexical=None) for number in limited]
    searched = [*range(len(options)), *limited]
    hits = search(snapshot, queries[searched], vector_options, matching=matching, means=means)
    candidates = []
    for number, (query, query_options) in enumerate(zip(queries, options, strict=True)):
        assert query_options.lexical is not None
        allowed = snapshot.allowed(query_options, matching)
        known = None if statistics is None else statistics[number]
        lexical_scores = _bm25_of_parts(snapshot, query_options.lexical, known)
        found = [one.rows for one, of in zip(hits, searched, strict=True) if of == number]
        for part, mask, scores in zip(snapshot.parts, allowed, lexical_scores, strict=True):
            found.append(part.start + best_rows(scores, mask, depth(query_options)))
        rows = np.unique(np.concatenate(found))
        vector_scores = _vector_scores(snapshot, query, rows, means if query_options.calibrate else None)
        candidates.append(Candidates(rows, vector_scores, np.concatenate(lexical_scores)[rows]))
    return candidates


def _bm25_of_parts(snapshot: Snapshot, query: LexicalQuery, statistics: TermStatistics | None) -> list[np.ndarray]:
    keys = query_keys(query)
    statistics = statistics or term_statistics(snapshot, keys, query.language)
    return [bm25(part, keys, statistics) for part in snapshot.parts]


def _vector_scores(
    snapshot: Snapshot,
    query: Float32[np.ndarray, " dim"],
    rows: Int[np.ndarray, " rows"],
    means: Float32[np.ndarray, "languages dim"] | None,
) -> Float32[np.ndarray, " rows"]:
    """Return the scores that `search` gives to rows; calibrated with `means` unless they are None."""
    scores = np.empty(len(rows), np.float32)
    penalty = None if means is None else pair_scores(query, means)
    for part in snapshot.parts:
        inside = (rows >= part.start) & (rows < part.start + len(part))
        positions = rows[inside] - part.start
        if len(positions):
            scores[inside] = pair_scores(query, part.take(positions))
            if penalty is not None:
                scores[inside] -= penalty[part.language[positions]]
    return scores
