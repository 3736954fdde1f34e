"""The contrastive loss, computed by one device of many.

Input: this device's sentence embeddings. Output: the scores of this device's rows against the candidates of all
devices, and the mean loss over these rows. The mean over devices is the loss of the global batch.

To add a loss, write a function with the signature of `info_nce` and add one line to `LOSSES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxretr import parallel

STREAM_ABOVE = 8_192
"""With more candidates than this, scores are computed block by block, and recomputed for the gradient. A device then
never holds the scores of all candidates."""


class LossMetrics(NamedTuple):
    """The loss, and how often the relevant passage ranks first in the global batch; both scalars."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


LossFunction = Callable[..., LossMetrics]
"""(queries, passages, query_content, passage_content, *, temperature, symmetric) -> `LossMetrics`, as `info_nce`."""


class SentenceEmbeddings(NamedTuple):
    """Sentence embeddings of both sides of this device's rows, L2-normalized, float32.

    The first column of `passages` holds the relevant passages, the other columns hold hard negatives.
    """

    queries: Float[Array, "batch dim"]
    passages: Float[Array, "batch columns dim"]


class Scores(NamedTuple):
    """Scores of this device's anchors against their candidates, divided by the temperature.

    Attributes:
      scores: scores over the candidates of the global batch; -inf for a masked candidate.
      positive: column of each anchor's positive.
    """

    scores: Float[Array, "batch candidates"]
    positive: Int[Array, " batch"]

    def cross_entropy(self) -> Float[Array, " batch"]:
        """Return the loss of each anchor."""
        return jax.nn.logsumexp(self.scores, axis=1) - self._at_positive()

    def is_first(self) -> Bool[Array, " batch"]:
        """Return whether no candidate scores higher than the positive."""
        return self._at_positive() >= self.scores.max(axis=1)

    def with_positive(self, scores: Float[Array, " batch"]) -> "Scores":
        """Return a copy with `scores` as the scores of the positives."""
        is_positive = jnp.arange(self.scores.shape[1]) == self.positive[:, None]
        return Scores(jnp.where(is_positive, scores[:, None], self.scores), self.positive)

    def _at_positive(self) -> Float[Array, " batch"]:
        return jnp.take_along_axis(self.scores, self.positive[:, None], axis=1)[:, 0]


def info_nce(
    queries: Float[Array, "batch dim"],
    passages: Float[Array, "batch columns dim"],
    query_content: UInt32[Array, "batch"],
    passage_content: UInt32[Array, "batch columns"],
    *,
    temperature: float,
    symmetric: bool = False,
) -> LossMetrics:
    """InfoNCE over in-batch and hard negatives gathered from all devices (van den Oord et al. 2018, arXiv 1807.03748).

    For query i with relevant passage i, and every negative passage j of the global batch:

        loss_i = -s_ii / T + log(exp(s_ii / T) + sum_j exp(s_ij / T)),    s_ij = <query_i, passage_j>

    Passage j is masked as a false negative of query i if its text equals i's positive, or if it is the positive of a
    query with i's text. Either would penalize a correct answer.

    Args:
      queries: L2-normalized, float32.
      passages: L2-normalized, float32; column 0 holds the relevant passages, the other columns hold hard negatives.
      query_content, passage_content: checksums of the texts; 0 for a missing hard negative, which is masked.
      temperature: T.
      symmetric: also rank all queries for each relevant passage, and average both losses.

    Must run inside `parallel.pmap`.
    """
    both = SentenceEmbeddings(queries, passages)
    directions = [
        _streamed(anchors, candidates, temperature)
        if len(candidates.vectors) > STREAM_ABOVE
        else _unblocked(Scores(_scores(anchors, candidates, 0, temperature), anchors.positive))
        for anchors, candidates in _directions(both, both, query_content, passage_content, symmetric)
    ]
    losses = [jnp.mean(loss) for loss, _ in directions]
    return LossMetrics(sum(losses[1:], losses[0]) / len(losses), jnp.mean(directions[0][1]))


def in_batch_scores(
    anchors: SentenceEmbeddings,
    pool: SentenceEmbeddings,
    query_content: UInt32[Array, "batch"],
    passage_content: UInt32[Array, "batch columns"],
    *,
    temperature: float,
    symmetric: bool,
) -> tuple[Scores, ...]:
    """Return the scores that `info_nce` compares: each query against all passages and, if symmetric, the reverse.

    Args:
      anchors: this device's queries and relevant passages.
      pool: this device's candidates; the function gathers the candidates of all devices. Equal to `anchors` unless one
        of the two is perturbed.
      query_content, passage_content: checksums of this device's texts.
      temperature: divides the scores.
      symmetric: also score each relevant passage against the pool's queries.
    """
    return tuple(
        Scores(_scores(anchor, candidates, 0, temperature), anchor.positive)
        for anchor, candidates in _directions(anchors, pool, query_content, passage_content, symmetric)
    )


class _Anchors(NamedTuple):
    """Anchor vectors, checksums of each row's query and relevant passage, and the position of its positive."""

    vectors: Float[Array, "batch dim"]
    query_content: UInt32[Array, " batch"]
    passage_content: UInt32[Array, " batch"]
    positive: Int[Array, " batch"]


class _Candidates(NamedTuple):
    """Candidate vectors, checksums of each candidate's passage and of its query, and whether it is a hard negative.

    A checksum of 0 marks a missing hard negative.
    """

    vectors: Float[Array, "candidates dim"]
    query_content: UInt32[Array, " candidates"]
    passage_content: UInt32[Array, " candidates"]
    is_hard_negative: Bool[Array, " candidates"]


def _directions(
    anchors: SentenceEmbeddings,
    pool: SentenceEmbeddings,
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
    directions = [(_Anchors(anchors.queries, query_content, relevant, row * columns), passages)]
    if symmetric:
        queries = _Candidates(
            parallel.gather(pool.queries), all_queries, all_passages[:, 0], jnp.zeros(len(all_queries), bool)
        )
        directions.append((_Anchors(anchors.passages[:, 0], query_content, relevant, row), queries))
    return directions


def _unblocked(scores: Scores) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """Return the loss of each anchor, and whether no candidate scores higher than its positive."""
    return scores.cross_entropy(), scores.is_first()


def _streamed(
    anchors: _Anchors, candidates: _Candidates, temperature: float
) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """Compute the result of `_unblocked` block by block over the candidates.

    The scan carries the maximum, the sum and the positive's score.
    """
    total = len(candidates.vectors)
    blocks = -(-total // STREAM_ABOVE)
    size = -(-total // blocks)

    def blocked(leaf: Array, padding: int = 0) -> Array:
        widths = [(0, blocks * size - total)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=padding).reshape(blocks, size, *leaf.shape[1:])

    # Padding is masked like missing hard negatives.
    padded = _Candidates(
        blocked(candidates.vectors),
        blocked(candidates.query_content),
        blocked(candidates.passage_content),
        blocked(candidates.is_hard_negative, True),
    )

    @jax.checkpoint
    def add(state: tuple[Array, Array, Array], block: tuple[Array, _Candidates]) -> tuple[tuple[Array, ...], None]:
        best, summed, at_positive = state
        start, part = block
        scores = _scores(anchors, part, start, temperature)
        new_best = jnp.maximum(best, scores.max(1))
        shift = jax.lax.stop_gradient(jnp.where(new_best == -jnp.inf, 0.0, new_best))
        summed = summed * jnp.exp(jax.lax.stop_gradient(best) - shift) + jnp.exp(scores - shift[:, None]).sum(1)
        # `at_positive >= best` needs equal rounding: take the positive's score from `scores`, not from a new product.
        at_positive += jnp.where(_is_positive(anchors, part, start), scores, 0.0).sum(1)
        return (jax.lax.stop_gradient(new_best), summed, at_positive), None

    zeros = jnp.zeros(len(anchors.positive))
    initial = (jnp.full(len(anchors.positive), -jnp.inf), zeros, zeros)
    (best, summed, at_positive), _ = jax.lax.scan(add, initial, (jnp.arange(blocks) * size, padded))
    return best + jnp.log(summed) - at_positive, at_positive >= best


def _scores(
    anchors: _Anchors, candidates: _Candidates, start: Int[Array, ""] | int, temperature: float
) -> Float[Array, "batch candidates"]:
    """Return scores over candidates from position `start` on; -inf for masked candidates."""
    same_passage = anchors.passage_content[:, None] == candidates.passage_content
    # If another row has the anchor's query, mask that row's positive but keep its hard negatives.
    same_query = (anchors.query_content[:, None] == candidates.query_content) & ~candidates.is_hard_negative
    missing = (candidates.passage_content == 0) & candidates.is_hard_negative
    scores = jnp.matmul(anchors.vectors, candidates.vectors.T, precision=jax.lax.Precision.HIGHEST) / temperature
    is_positive = _is_positive(anchors, candidates, start)
    return jnp.where((same_passage | same_query | missing) & ~is_positive, -jnp.inf, scores)


def _is_positive(
    anchors: _Anchors, candidates: _Candidates, start: Int[Array, ""] | int
) -> Bool[Array, "batch candidates"]:
    """Mark each anchor's positive among candidates from position `start` on."""
    return start + jnp.arange(len(candidates.vectors)) == anchors.positive[:, None]


LOSSES: dict[str, LossFunction] = {"info_nce": info_nce}
"""Losses by name; the setting `train.loss` selects one."""


def loss_by_name(name: str) -> LossFunction:
    """Return a loss of `LOSSES`.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in LOSSES:
        raise ValueError(f"train.loss={name!r} is not allowed; expected one of {', '.join(LOSSES)}.")
    return LOSSES[name]
