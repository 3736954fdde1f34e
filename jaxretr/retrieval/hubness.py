"""Scores of passages by how many queries they answer: hubness, for filters and for the gate of an index.

A passage that is among the best k of many unrelated queries is a hub (Radovanović et al. 2010, JMLR 11). Passages that
are optimized to poison a corpus become hubs. All functions score passages against reference queries.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from jaxretr.retrieval.embeddings import Rows
from jaxretr.retrieval.exact import search
from jaxretr.retrieval.scores import largest_norm, pair_scores, rounding_error, scores_at

_AT_ONCE = 1 << 24  # similarities in memory


def kth_scores(queries: Float32[np.ndarray, "queries dim"], corpus: Rows, k: int) -> Float32[np.ndarray, " queries"]:
    """Return, for each query, the score of the k-th best passage of the corpus.

    Raises:
      ValueError: the corpus has fewer than k passages.
    """
    _, positions = search(queries, corpus, k)
    return scores_at(queries, corpus, np.arange(len(queries)), positions[:, -1])


def occurrences(
    passages: Rows, queries: Float32[np.ndarray, "queries dim"], kth: Float32[np.ndarray, " queries"]
) -> Int64[np.ndarray, " passages"]:
    """Return the k-occurrence of each passage: the number of reference queries with this passage in their top k.

    The cost is one matrix product. A count depends neither on the other passages nor on how they are read.

    Args:
      passages: passages of the corpus, or new passages. Each new passage is counted as if it were the only addition.
      queries: reference queries, such as past queries, but not the queries that an attack was optimized on.
      kth: `kth_scores` of the queries in the corpus of clean passages.

    Returns:
      The number of queries for which fewer than k passages of the corpus score higher; a tie counts for the passage.
    """
    counts = []
    for rows in row_blocks(passages, len(queries)):
        error = rounding_error(queries, largest_norm(rows))
        products = rows @ queries.T
        count = (products > kth + error).sum(axis=1)
        # Products round differently from scores. Near the k-th score, scores decide.
        row, query = np.nonzero(np.abs(products - kth) <= error)
        np.add.at(count, row, scores_at(queries, rows, query, row) >= kth[query])
        counts.append(count)
    return np.concatenate(counts)


def mean_similarity(passages: Rows, queries: Float32[np.ndarray, "queries dim"]) -> Float32[np.ndarray, " passages"]:
    """Return the mean similarity of each passage to the reference queries, which is its similarity to their mean."""
    mean = queries.mean(axis=0)
    return np.concatenate([pair_scores(rows, mean) for rows in row_blocks(passages, passages.shape[1])])


def hub_scores(
    passages: Rows, queries: Float32[np.ndarray, "queries dim"], kth: Float32[np.ndarray, " queries"]
) -> Float64[np.ndarray, " passages"]:
    """Return the `occurrences` of each passage, plus a tie-break between 0 and 1.

    The tie-break increases with `mean_similarity`. Without the tie-break, many passages of a large corpus have equal
    counts, and no threshold is exceeded by the wanted share of the passages.
    """
    tie_break = 0.5 + np.arctan(mean_similarity(passages, queries).astype(np.float64)) / np.pi
    return occurrences(passages, queries, kth) + tie_break


def threshold(clean: Float[np.ndarray, " clean"], max_false_positive_rate: float) -> float:
    """Return the lowest score such that at most this share of the clean scores is above it."""
    return float(np.sort(clean)[::-1][int(max_false_positive_rate * len(clean))])


def row_blocks(rows: Rows, width: int) -> Iterator[Float32[np.ndarray, "block dim"]]:
    """Yield blocks of rows whose products with `width` other rows fit into memory; one empty block for no rows."""
    size = max(1, _AT_ONCE // max(width, 1))
    for start in range(0, max(len(rows), 1), size):
        yield rows[start : start + size]
