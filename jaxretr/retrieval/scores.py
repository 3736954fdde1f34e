"""The score of a query and a passage: one definition for the whole package.

A float32 matrix product rounds in an order that depends on its shape, on the positions of the two vectors and on the
device. So two products may give one pair two scores, and comparing these scores may rank a passage ahead of itself. The
score of a pair is therefore defined as `pair_scores` computes it on the host: the inner product in float64, summed in a
fixed order, rounded to float32. A matrix product only tells which passages cannot be in the result: `rounding_error`
bounds how far its entries are from the scores.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int

from jaxretr.retrieval.embeddings import Rows, Subset

_AT_ONCE = 1 << 15  # values multiplied at once: 0.25 MB in float64, which fits into a core's cache
_READ_AT_ONCE = 4_096  # pairs whose passages are read at once if they are not in memory
_UNIT_ROUNDOFF = 2.0**-24  # of float32


def pair_scores(
    queries: Float32[np.ndarray, "*#rows dim"], passages: Float32[np.ndarray, "*#rows dim"]
) -> Float32[np.ndarray, "*rows"]:
    """Return the score of each query with the passage at the same index; leading axes broadcast.

    Equal pairs of vectors have equal scores, whatever their index and their neighbors.
    """
    shape = np.broadcast_shapes(queries.shape, passages.shape)
    queries, passages = np.broadcast_to(queries, shape), np.broadcast_to(passages, shape)
    scores = np.empty(shape[:-1], np.float32)
    size = max(1, _AT_ONCE // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], size):
        rows = slice(start, start + size)
        left, right = (part[rows].astype(np.float64, order="C") for part in (queries, passages))
        scores[rows] = np.einsum("...d,...d->...", left, right)
    return scores


def scores_at(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    query: Int[np.ndarray, " pairs"],
    passage: Int[np.ndarray, " pairs"],
) -> Float32[np.ndarray, " pairs"]:
    """Return the scores of selected pairs.

    Args:
      queries: query embeddings.
      passages: passage embeddings; unless they are an array, the passages of 4,096 pairs are read at once.
      query, passage: positions in `queries` and `passages`.
    """
    scores = np.empty(len(query), np.float32)
    if isinstance(passages, np.ndarray):
        size = max(1, _AT_ONCE // queries.shape[1])
        for start in range(0, len(query), size):
            chunk = slice(start, start + size)
            scores[chunk] = pair_scores(queries[query[chunk]], passages[passage[chunk]])
        return scores
    by_passage = np.argsort(passage, kind="stable")
    for start in range(0, len(query), _READ_AT_ONCE):
        pairs = by_passage[start : start + _READ_AT_ONCE]
        rows = Subset(passages, passage[pairs])[:]
        scores[pairs] = scores_at(queries, rows, query[pairs], np.arange(len(pairs)))
    return scores


def rounding_error(
    queries: Float32[np.ndarray, "queries dim"], longest_passage: float
) -> Float64[np.ndarray, " queries"]:
    """Return, for each query, how far an entry of a float32 matrix product can be from the score.

    A sum of `dim` products in any order is off by at most dim * u / (1 - dim * u) times the sum of their magnitudes
    (Higham 2002, doi 10.1137/1.9780898718027, section 3.1; u = 2 ** -24). That sum is at most the product of the two
    norms. 16 more roundings cover the score, the norms, this bound, and the passes that a TPU takes for float32.

    Args:
      queries: query embeddings.
      longest_passage: the largest `norms` of the passages.
    """
    dim = queries.shape[1]
    relative = 1.01 * (dim + 16) * _UNIT_ROUNDOFF
    return relative * norms(queries).astype(np.float64) * longest_passage + dim * float(np.finfo(np.float32).tiny)


def norms(rows: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, " rows"]:
    """Return the L2 norm of each row."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows))


def largest_norm(rows: Float32[np.ndarray, "rows dim"]) -> float:
    """Return the largest L2 norm of a row; 0 if there are no rows."""
    return float(norms(rows).max(initial=0.0))
