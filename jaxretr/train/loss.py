"""The contrastive loss, as one device of many sees it.

In: this device's sentence embeddings. Out: this device's share of the loss; the mean over devices is the loss of the
global batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from jaxretr import parallel


class Contrast(NamedTuple):
    """Loss and how often the relevant passage came first among all of the global batch, both scalars."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def info_nce(
    queries: Float[Array, "batch dim"],
    passages: Float[Array, "batch columns dim"],
    query_content: UInt32[Array, "batch"],
    passage_content: UInt32[Array, "batch columns"],
    *,
    temperature: float,
    symmetric: bool = False,
) -> Contrast:
    """InfoNCE over in-batch and hard negatives gathered from all devices (van den Oord et al. 2018, arXiv 1807.03748).

    For query i with relevant passage i, and every passage j of the global batch that is a negative of it:

        loss_i = -s_ii / T + log(exp(s_ii / T) + sum_j exp(s_ij / T)),    s_ij = <query_i, passage_j>

    A passage is no negative of query i where it has the text of i's relevant passage, or is the relevant passage of a
    query with i's text: both would punish a right answer.

    Args:
      queries: L2-normalised, float32.
      passages: columns = 1 + hard negatives; the relevant one first, then hard negatives; L2-normalised, float32.
      query_content, passage_content: checksums of the texts, 0 for a missing hard negative (which never counts).
      temperature: T.
      symmetric: average with the same loss for each relevant passage over all queries.

    Must run inside `parallel.pmap`.
    """
    batch, columns, dim = passages.shape
    own = parallel.device_index() * batch + jnp.arange(batch)
    all_passages = parallel.gather(passages)
    all_query_content, all_passage_content = parallel.gather(query_content), parallel.gather(passage_content)

    same_passage = passage_content[:, :1] == all_passage_content.reshape(1, -1)
    same_query = query_content[:, None] == all_query_content[None, :]
    is_relevant = jax.nn.one_hot(own * columns, all_passage_content.size, dtype=bool)
    excluded = same_passage | (all_passage_content.reshape(1, -1) == 0)
    # Only the first column holds the answer to that row's query.
    excluded |= jnp.pad(same_query[:, :, None], ((0, 0), (0, 0), (0, columns - 1))).reshape(batch, -1)
    loss, accuracy = _cross_entropy(
        queries, all_passages.reshape(-1, dim), own * columns, excluded & ~is_relevant, temperature
    )
    if symmetric:
        same_answer = passage_content[:, :1] == all_passage_content[None, :, 0]
        is_own = jax.nn.one_hot(own, all_query_content.size, dtype=bool)
        backward, _ = _cross_entropy(
            passages[:, 0], parallel.gather(queries), own, (same_query | same_answer) & ~is_own, temperature
        )
        loss = (loss + backward) / 2
    return Contrast(loss, accuracy)


def _cross_entropy(
    anchors: Float[Array, "batch dim"],
    candidates: Float[Array, "candidates dim"],
    positive: Int[Array, "batch"],
    excluded: Array,
    temperature: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    scores = jnp.matmul(anchors, candidates.T, precision=jax.lax.Precision.HIGHEST) / temperature
    scores = jnp.where(excluded, -jnp.inf, scores)
    at_positive = jnp.take_along_axis(scores, positive[:, None], axis=1)[:, 0]
    loss = jnp.mean(jax.nn.logsumexp(scores, axis=1) - at_positive)
    return loss, jnp.mean(at_positive >= scores.max(axis=1))
