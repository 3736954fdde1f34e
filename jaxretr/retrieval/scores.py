"""The score of a query and a passage: one definition for the whole package.

A matrix product in float32 rounds in an order that depends on its shape, on the position of the two vectors and on the
device. So two products may give one pair two scores, and a comparison of these scores may put a passage ahead of
itself. The score of a pair is therefore defined as `pair_scores` computes it on the host: the inner product in float64,
summed in a fixed order, rounded to float32. A matrix product only says which passages cannot be among those wanted:
`rounding_error` bounds how far its entries are from the scores.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int

from jaxretr.retrieval.embeddings import Rows, Subset

_AT_ONCE = 1 << 15  # values that are multiplied at once: 0.25 MB in float64, which stays in a core's cache
_READ_AT_ONCE = 4_096  # passages that are not in memory
_UNIT_ROUNDOFF = 2.0**-24  # of float32


def pair_scores(
    queries: Float32[np.ndarray, "*#rows dim"], passages: Float32[np.ndarray, "*#rows dim"]
) -> Float32[np.ndarray, "*rows"]:
    """The score of each query with the passage at the same place; leading axes broadcast.

    Equal pairs of vectors have equal scores, wherever they stand and whatever stands beside them.
    """
    shape = np.broadcast_shapes(queries.shape, passages.shape)
    queries, passages = np.broadcast_to(queries, shape), np.broadcast_to(passages, shape)
    found = np.empty(shape[:-1], np.float32)
    size = max(1, _AT_ONCE // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], size):
        rows = slice(start, start + size)
        left, right = (part[rows].astype(np.float64, order="C") for part in (queries, passages))
        found[rows] = np.einsum("...d,...d->...", left, right)
    return found


def scores_at(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    query: Int[np.ndarray, " pairs"],
    passage: Int[np.ndarray, " pairs"],
) -> Float32[np.ndarray, " pairs"]:
    """The scores of chosen pairs.

    Args:
      queries: query embeddings.
      passages: passage embeddings; some of those asked for are read at once.
      query, passage: positions in `queries` and `passages`.
    """
    found = np.empty(len(query), np.float32)
    if isinstance(passages, np.ndarray):
        size = max(1, _AT_ONCE // queries.shape[1])
        for start in range(0, len(query), size):
            some = slice(start, start + size)
            found[some] = pair_scores(queries[query[some]], passages[passage[some]])
        return found
    by_passage = np.argsort(passage, kind="stable")
    for start in range(0, len(query), _READ_AT_ONCE):
        pairs = by_passage[start : start + _READ_AT_ONCE]
        rows = Subset(passages, passage[pairs])[:]
        found[pairs] = scores_at(queries, rows, query[pairs], np.arange(len(pairs)))
    return found


def rounding_error(
    queries: Float32[np.ndarray, "queries dim"], longest_passage: float
) -> Float64[np.ndarray, " queries"]:
    """How far an entry of a float32 matrix product is at most from the score, for each query.

    A sum of `dim` products in any order is off by at most dim * u / (1 - dim * u) times the sum of their magnitudes
    (Higham 2002, doi 10.1137/1.9780898718027, section 3.1; u = 2 ** -24), which is at most the product of the norms. 16
    more roundings cover the score, the norms, this bound, and the passes that a TPU takes for float32.

    Args:
      queries: query embeddings.
      longest_passage: the largest `norms` of the passages.
    """
    dim = queries.shape[1]
    relative = 1.01 * (dim + 16) * _UNIT_ROUNDOFF
    return relative * norms(queries).astype(np.float64) * longest_passage + dim * float(np.finfo(np.float32).tiny)


def norms(rows: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, " rows"]:
    """The length of each vector."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows))


def largest_norm(rows: Float32[np.ndarray, "rows dim"]) -> float:
    """The length of the longest vector, 0 if there is none."""
    return float(norms(rows).max(initial=0.0))
