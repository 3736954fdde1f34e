"""The contrastive loss, as one device of many sees it.

In: this device's sentence embeddings. Out: the scores of its rows over the candidates of all devices, and its share of
the loss; the mean over devices is the loss of the global batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxretr import parallel

STREAM_ABOVE = 8_192
"""Candidates from which their scores are made block by block, and made again for the gradient: a device never holds the
scores of all of them."""


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

    def is_first(self) -> Bool[Array, " batch"]:
        """Whether nothing scores higher than the counterpart."""
        return self._at_own() >= self.scores.max(axis=1)

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
    directions = [
        _streamed(anchors, candidates, temperature)
        if len(candidates.vectors) > STREAM_ABOVE
        else _whole(Scores(_scores(anchors, candidates, 0, temperature), anchors.own))
        for anchors, candidates in _directions(both, both, query_content, passage_content, symmetric)
    ]
    losses = [jnp.mean(loss) for loss, _ in directions]
    return Contrast(sum(losses[1:], losses[0]) / len(losses), jnp.mean(directions[0][1]))


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
    return tuple(
        Scores(_scores(of, candidates, 0, temperature), of.own)
        for of, candidates in _directions(anchors, pool, query_content, passage_content, symmetric)
    )


class _Anchors(NamedTuple):
    """What is ranked for: vectors, checksums of each row's query and relevant passage, the place of its counterpart."""

    vectors: Float[Array, "batch dim"]
    query_content: UInt32[Array, " batch"]
    passage_content: UInt32[Array, " batch"]
    own: Int[Array, " batch"]


class _Candidates(NamedTuple):
    """What is ranked: vectors, the checksums of the passage and of the query that it answers or is, 0 for none."""

    vectors: Float[Array, "candidates dim"]
    query_content: UInt32[Array, " candidates"]
    passage_content: UInt32[Array, " candidates"]
    is_hard_negative: Bool[Array, " candidates"]


def _directions(
    anchors: Sentences,
    pool: Sentences,
    query_content: UInt32[Array, "batch"],
    passage_content: UInt32[Array, "batch columns"],
    symmetric: bool,
) -> list[tuple[_Anchors, _Candidates]]:
    batch, columns, dim = pool.passages.shape
    row = parallel.device_index() * batch + jnp.arange(batch)
    relevant = passage_content[:, 0]
    all_queries, all_passages = parallel.gather(query_content), parallel.gather(passage_content)
    is_hard_negative = jnp.arange(all_passages.size) % columns > 0
    passages = _Candidates(
        parallel.gather(pool.passages).reshape(-1, dim),
        jnp.repeat(all_queries, columns),
        all_passages.reshape(-1),
        is_hard_negative,
    )
    found = [(_Anchors(anchors.queries, query_content, relevant, row * columns), passages)]
    if symmetric:
        queries = _Candidates(
            parallel.gather(pool.queries), all_queries, all_passages[:, 0], jnp.zeros(len(all_queries), bool)
        )
        found.append((_Anchors(anchors.passages[:, 0], query_content, relevant, row), queries))
    return found


def _whole(scores: Scores) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """The loss of each anchor, and whether nothing scores higher than its counterpart."""
    return scores.cross_entropy(), scores.is_first()


def _streamed(
    anchors: _Anchors, candidates: _Candidates, temperature: float
) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """As `_whole`, block by block of the candidates: a running maximum, sum of exponentials and own score."""
    total = len(candidates.vectors)
    blocks = -(-total // STREAM_ABOVE)
    size = -(-total // blocks)

    def blocked(leaf: Array, padding: int = 0) -> Array:
        widths = [(0, blocks * size - total)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=padding).reshape(blocks, size, *leaf.shape[1:])

    # Padding counts as missing hard negatives.
    padded = _Candidates(
        blocked(candidates.vectors),
        blocked(candidates.query_content),
        blocked(candidates.passage_content),
        blocked(candidates.is_hard_negative, True),
    )

    @jax.checkpoint
    def add(state: tuple[Array, Array, Array], block: tuple[Array, _Candidates]) -> tuple[tuple[Array, ...], None]:
        best, summed, at_own = state
        start, some = block
        scores = _scores(anchors, some, start, temperature)
        new_best = jnp.maximum(best, scores.max(1))
        shift = jax.lax.stop_gradient(jnp.where(new_best == -jnp.inf, 0.0, new_best))
        summed = summed * jnp.exp(jax.lax.stop_gradient(best) - shift) + jnp.exp(scores - shift[:, None]).sum(1)
        # Another product could round the own score differently from the same score within the best.
        at_own += jnp.where(_is_own(anchors, some, start), scores, 0.0).sum(1)
        return (jax.lax.stop_gradient(new_best), summed, at_own), None

    zeros = jnp.zeros(len(anchors.own))
    nothing = (jnp.full(len(anchors.own), -jnp.inf), zeros, zeros)
    (best, summed, at_own), _ = jax.lax.scan(add, nothing, (jnp.arange(blocks) * size, padded))
    return best + jnp.log(summed) - at_own, at_own >= best


def _scores(
    anchors: _Anchors, candidates: _Candidates, start: Int[Array, ""] | int, temperature: float
) -> Float[Array, "batch candidates"]:
    """Scores over candidates, the first of which has place `start`; -inf for what is no candidate of an anchor."""
    same_passage = anchors.passage_content[:, None] == candidates.passage_content
    # Only what answers that row's query is excluded with it; its hard negatives are not.
    same_query = (anchors.query_content[:, None] == candidates.query_content) & ~candidates.is_hard_negative
    missing = (candidates.passage_content == 0) & candidates.is_hard_negative
    scores = jnp.matmul(anchors.vectors, candidates.vectors.T, precision=jax.lax.Precision.HIGHEST) / temperature
    is_own = _is_own(anchors, candidates, start)
    return jnp.where((same_passage | same_query | missing) & ~is_own, -jnp.inf, scores)


def _is_own(anchors: _Anchors, candidates: _Candidates, start: Int[Array, ""] | int) -> Bool[Array, "batch candidates"]:
    """Where each anchor's counterpart is among candidates, the first of which has place `start`."""
    return start + jnp.arange(len(candidates.vectors)) == anchors.own[:, None]
