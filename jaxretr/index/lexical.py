"""BM25 over the passages of an index, each query in its own language.

The score of a passage is the sum over the distinct terms of the query of idf * tf / (tf + k1 * (1 - b + b * n / mean)),
with idf = log(1 + (N - df + 0.5) / (df + 0.5)), as in Lucene (Robertson and Zaragoza 2009, doi 10.1561/1500000019). tf
is how often the passage contains the term, n its number of terms. N, df and the mean of n count the live passages in
the language of the query. So deleted and quarantined passages, filters and segments change no score.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from jaxretr.index.search import Part, Snapshot
from jaxretr.index.terms import term_keys, terms
from jaxretr.index.types import LexicalQuery, SearchOptions, TermStatistics

K1, B = 1.2, 0.75
HOW_TO_ADD = "add one with `jaxretr build-index --index DIR --lexical`, which encodes nothing"

_MAX_TERMS = 1_024  # distinct terms of a query; further terms are ignored, which bounds the work of a query


def check_lexical(options: Sequence[SearchOptions], available: bool) -> None:
    """Raise ValueError if a query has a lexical part and the index has none."""
    if not available and any(one.lexical is not None for one in options):
        raise ValueError(f"the index has no lexical part, so it cannot be searched by words; {HOW_TO_ADD}")


def query_keys(query: LexicalQuery) -> UInt64[np.ndarray, " terms"]:
    """Return the keys of the distinct terms of a query, in order of occurrence."""
    return term_keys(list(dict.fromkeys(terms(query.text)))[:_MAX_TERMS], query.language)


def term_statistics(snapshot: Snapshot, keys: UInt64[np.ndarray, " terms"], language: str) -> TermStatistics:
    """Return the statistics of the live passages of a snapshot.

    Args:
      snapshot: state of the index.
      keys: result of `query_keys`.
      language: language of the query.
    """
    frequencies = np.zeros(len(keys), np.int64)
    passages = total = 0
    if language in snapshot.languages:
        number = snapshot.languages.index(language)
        passages = int(snapshot.counts[number])
        for part in snapshot.parts:
            total += part.live_terms(number)
            for block in part.postings:
                for place, key in enumerate(keys):
                    frequencies[place] += np.count_nonzero(part.alive[block.of(key)[0]])
    return TermStatistics(passages, total, tuple(frequencies.tolist()))


def bm25(part: Part, keys: UInt64[np.ndarray, " terms"], statistics: TermStatistics) -> Float32[np.ndarray, " rows"]:
    """Return the score of every row of a part; 0 for rows without a term of the query or in another language.

    Scores are summed in float64, in the order of the terms, and rounded once. So a score does not depend on how the
    passages are split into parts.
    """
    scores = np.zeros(len(part))
    mean = statistics.terms / max(1, statistics.passages)
    for key, frequency in zip(keys, statistics.frequencies, strict=True):
        if not frequency:  # a term of no live passage
            continue
        idf = np.log1p((statistics.passages - frequency + 0.5) / (frequency + 0.5))
        for block in part.postings:
            rows, counts = block.of(key)
            length = block.lengths[rows - block.start]
            scores[rows] += idf * counts / (counts + K1 * (1 - B + B * length / mean))
    return scores.astype(np.float32)


def best_rows(
    scores: Float32[np.ndarray, " rows"], allowed: Bool[np.ndarray, " rows"], depth: int
) -> Int64[np.ndarray, " found"]:
    """Return the `depth` allowed rows with the best scores above 0, and all rows that tie with the last of them."""
    matching = np.flatnonzero((scores > 0) & allowed)
    if len(matching) <= depth:
        return matching
    return matching[scores[matching] >= np.partition(scores[matching], -depth)[-depth]]
