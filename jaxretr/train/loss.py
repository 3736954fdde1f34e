"""The contrastive loss, as one device of many sees it.

In: this device's sentence embeddings. Out: the scores of its rows over the candidates of all devices, and its share of
the loss; the mean over devices is the loss of the global batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxretr import parallel


class Contrast(NamedTuple):
    """Loss and how often the relevant passage came first among all of the global batch, both scalars."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


class Sentences(NamedTuple):
    """Sentence embeddings of both sides of this device's rows, L2-normalised, float32.

    The first column of `passages` holds the relevant ones, then come hard negatives.
    """

    queries: Float[Array, "batch dim"]
    passages: Float[Array, "batch columns dim"]


class Scores(NamedTuple):
    """What this device's anchors and their candidates score, divided by the temperature.

    Attributes:
      scores: over the candidates of the global batch; -inf for what is no candidate of an anchor.
      own: the column of each anchor's counterpart.
    """

    scores: Float[Array, "batch candidates"]
    own: Int[Array, " batch"]

    def cross_entropy(self) -> Float[Array, " batch"]:
        """The loss of each anchor."""
        return jax.nn.logsumexp(self.scores, axis=1) - self._at_own()

    def accuracy(self) -> Float[Array, ""]:
        """How often nothing scores higher than the counterpart."""
        return jnp.mean(self._at_own() >= self.scores.max(axis=1))

    def with_own(self, scores: Float[Array, " batch"]) -> "Scores":
        """The same, but for the scores of the counterparts."""
        is_own = jnp.arange(self.scores.shape[1]) == self.own[:, None]
        return Scores(jnp.where(is_own, scores[:, None], self.scores), self.own)

    def _at_own(self) -> Float[Array, " batch"]:
        return jnp.take_along_axis(self.scores, self.own[:, None], axis=1)[:, 0]


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
    both = Sentences(queries, passages)
    directions = in_batch_scores(
        both, both, query_content, passage_content, temperature=temperature, symmetric=symmetric
    )
    losses = [jnp.mean(direction.cross_entropy()) for direction in directions]
    return Contrast(sum(losses[1:], losses[0]) / len(losses), directions[0].accuracy())


def in_batch_scores(
    anchors: Sentences,
    pool: Sentences,
    query_content: UInt32[Array, "batch"],
    passage_content: UInt32[Array, "batch columns"],
    *,
    temperature: float,
    symmetric: bool,
) -> tuple[Scores, ...]:
    """The scores that `info_nce` compares, of each query over all passages and, if symmetric, the other way round.

    Args:
      anchors: what is ranked for: this device's queries, and its relevant passages.
      pool: what is ranked, gathered from all devices; the same as `anchors` unless those were perturbed.
      query_content, passage_content: of the pool.
      temperature: divides the scores.
      symmetric: also rank the pool's queries for each relevant passage.
    """
    batch, columns, dim = pool.passages.shape
    own = parallel.device_index() * batch + jnp.arange(batch)
    all_passages = parallel.gather(pool.passages)
    all_query_content, all_passage_content = parallel.gather(query_content), parallel.gather(passage_content)

    same_passage = passage_content[:, :1] == all_passage_content.reshape(1, -1)
    same_query = query_content[:, None] == all_query_content[None, :]
    is_relevant = jax.nn.one_hot(own * columns, all_passage_content.size, dtype=bool)
    excluded = same_passage | (all_passage_content.reshape(1, -1) == 0)
    # Only the first column holds the answer to that row's query.
    excluded |= jnp.pad(same_query[:, :, None], ((0, 0), (0, 0), (0, columns - 1))).reshape(batch, -1)
    over_passages = _scores(anchors.queries, all_passages.reshape(-1, dim), excluded & ~is_relevant, temperature)
    if not symmetric:
        return (Scores(over_passages, own * columns),)
    same_answer = passage_content[:, :1] == all_passage_content[None, :, 0]
    is_own = jax.nn.one_hot(own, all_query_content.size, dtype=bool)
    all_queries = parallel.gather(pool.queries)
    over_queries = _scores(anchors.passages[:, 0], all_queries, (same_query | same_answer) & ~is_own, temperature)
    return Scores(over_passages, own * columns), Scores(over_queries, own)


def _scores(
    anchors: Float[Array, "batch dim"],
    candidates: Float[Array, "candidates dim"],
    excluded: Bool[Array, "batch candidates"],
    temperature: float,
) -> Float[Array, "batch candidates"]:
    scores = jnp.matmul(anchors, candidates.T, precision=jax.lax.Precision.HIGHEST) / temperature
    return jnp.where(excluded, -jnp.inf, scores)
