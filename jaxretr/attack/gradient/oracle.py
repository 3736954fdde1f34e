"""The pooled radius: the distance of a query vector from losing its rank, in closed form, without an attack.

Input: query and passage embeddings. Output: signed L2 distances. The query vectors for which a passage is ahead of the
relevant passage form a half space, so the distance to it needs no search. The pooled radius is the reference for
gradient attacks, and a robustness measure by itself. It is exact for one relevant passage and the top 1. For several
relevant passages, or a larger top k, it is a lower bound.

Scaling a query vector does not change its ranking. So the radius is valid with and without normalization after the
perturbation. It is proportional to the norm of the query vector; for unit vectors it is relative.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

from jaxretr.retrieval.blocks import products_of
from jaxretr.retrieval.embeddings import Rows, Subset

_SAME = 1e-5
"""Two passages count as equal if their squared distance is below this share of their squared norms: float32 cannot
decide which of the two a query prefers, and copies of a text tie for every query."""


def pooled_radii(
    queries: Float32[np.ndarray, "queries dim"],
    passages: Rows,
    relevant: Int[np.ndarray, "queries per_query"],
    k: int = 1,
    *,
    members: Int[np.ndarray, "answers members"] | None = None,
    query_block: int = 512,
    passage_block: int = 8_192,
) -> Float32[np.ndarray, "queries k"]:
    """Return the k smallest radii at which irrelevant passages overtake the relevant passages, in ascending order.

    With `members`, return the k smallest radii of distinct answers. An answer overtakes with its nearest translation.

    Passage j overtakes p+ at

        q . (p+ - p_j) / ||p+ - p_j||

    and it overtakes all relevant passages no sooner than at the largest of these values over p+. With one relevant
    passage, column 0 is the exact distance to the nearest query vector that ranks another passage first. Column k - 1
    is a certified lower bound for the top k: under smaller perturbations, fewer than k passages are ahead of the best
    relevant passage. With several relevant passages, every column is such a bound.

    Args:
      queries: query vectors; unit vectors for relative radii.
      passages: passage embeddings, float32 [passages, dim]; only blocks of them are on a device at a time.
      relevant: positions in `passages` of each query's relevant passages, at least one per query; rows are padded with
        -1.
      k: number of radii.
      members: positions of each answer's passages (`jaxretr.attack.victim.members_of`), in rows that are padded with
        copies of the first passage. All passages of a relevant answer must be in `relevant`. None counts passages.
      query_block, passage_block: vectors compared at once; a device holds a few times `query_block * passage_block`
        values.

    Returns:
      Radii in the units of the query vectors. A radius of 0 or below means that the passage is already ahead. Infinity
      means that fewer than k passages or answers are neither relevant nor copies of a relevant passage.

    Raises:
      ValueError: k is not positive, the widths differ, a query has no relevant passage, or a position is out of range.
    """
    _check(queries, passages, relevant, k)
    searched = passages if members is None else Subset(passages, members.ravel())
    width = 1 if members is None else members.shape[1]
    passage_block = max(1, min(passage_block, len(searched)) // width) * width  # a block holds whole answers
    blocks = [slice(start, start + query_block) for start in range(0, len(queries), query_block)]
    radii = [jnp.full((len(queries[block]), k), jnp.inf, jnp.float32) for block in blocks]
    positions, place = np.unique(np.maximum(relevant, 0), return_inverse=True)
    answers, place = Subset(passages, positions)[:], place.reshape(relevant.shape)
    for first in range(0, len(searched), passage_block):
        start = min(first, len(searched) - passage_block)  # all blocks have one shape: the last repeats some passages
        rows = jnp.asarray(searched[start : start + passage_block])
        radii = [
            _nearest(best, queries[block], answers[place[block]], relevant[block] >= 0, rows, first - start, width)
            for best, block in zip(radii, blocks, strict=True)
        ]
    return np.concatenate([np.asarray(best) for best in radii]) if radii else np.empty((0, k), np.float32)


@partial(jax.jit, donate_argnums=0, static_argnums=6)
def _nearest(
    best: Float32[Array, "queries k"],
    queries: Float32[Array, "queries dim"],
    answers: Float32[Array, "queries per_query dim"],
    real: Bool[Array, "queries per_query"],
    passages: Float32[Array, "passages dim"],
    repeated: Int[Array, ""],
    members: int,
) -> Float32[Array, "queries k"]:
    """Merge the radii of one block of passages into the smallest radii so far.

    The first `repeated` passages of the block were merged before. Each `members` consecutive passages are one answer.
    """
    scores = products_of(queries, passages)
    squares = jnp.sum(passages * passages, axis=1)

    def merge_answer(largest: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
        answer, real = column
        sizes = jnp.sum(answer * answer, axis=1)[:, None] + squares
        distance = sizes - 2 * products_of(answer, passages)
        lead = jnp.sum(queries * answer, axis=1)[:, None] - scores
        same = distance <= _SAME * sizes  # the relevant passage itself, or a copy of it
        radius = jnp.where(same, jnp.inf, lead / jnp.sqrt(jnp.where(same, 1, distance)))
        return jnp.where(real[:, None], jnp.maximum(largest, radius), largest), None

    columns = (jnp.moveaxis(answers, 1, 0), real.T)
    radii, _ = jax.lax.scan(merge_answer, jnp.full_like(scores, -jnp.inf), columns)
    radii = jnp.where(jnp.arange(len(passages)) < repeated, jnp.inf, radii)
    radii = jnp.min(radii.reshape(len(queries), -1, members), axis=2)
    return -jax.lax.top_k(-jnp.concatenate([best, radii], axis=1), best.shape[1])[0]


def _check(queries: np.ndarray, passages: Rows, relevant: np.ndarray, k: int) -> None:
    if k < 1:
        raise ValueError(f"k = {k}; expected at least 1")
    if queries.shape[1] != passages.shape[1]:
        raise ValueError(
            f"query vectors have {queries.shape[1]} dimensions and passage embeddings {passages.shape[1]}; "
            "encode both with the same model"
        )
    if relevant.size and not -1 <= relevant.min() <= relevant.max() < len(passages):
        raise ValueError(
            f"relevant holds positions from {relevant.min()} to {relevant.max()}; expected 0 to {len(passages) - 1}, "
            "and -1 as padding"
        )
    without = np.flatnonzero((relevant < 0).all(axis=1))
    if len(without):
        raise ValueError(f"query {without[0]} has no relevant passage, so no radius; leave this query out")
