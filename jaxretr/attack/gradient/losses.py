"""Losses that an attack on a query maximizes. Input: scores of a fixed set of passages. Output: one value per query.

A larger value is better for the attacker and worse for retrieval: every loss rises as relevant passages fall.
An attacker who promotes passages marks them as the irrelevant passages. No loss averages over queries, so a query does
not influence the other queries of a batch. Losses are value objects: equal losses compare and hash equal, and share a
compilation.

If distinct answers are counted, a "passage" of a loss is an answer, and its score is the best score of its translations
(`QueryObjective.scores`).

A passage may be neither relevant nor irrelevant to a query (batch padding, an unjudged translation of the answer). Such
a passage does not count. Every query needs at least one passage of each kind; otherwise its value means nothing. If
there are several relevant passages, the best one counts (in InfoNCE, their sum).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

Scores = Float32[Array, "queries passages"]
Marks = Bool[Array, "queries passages"]

Loss = Callable[[Array, Array, Array], Array]
"""(scores, relevant, irrelevant) -> one value per query; hashable."""


def scores_of(
    queries: Float32[Array, "queries dim"], passages: Float32[Array, "queries *passages dim"]
) -> Float32[Array, "queries *passages"]:
    """Return the inner products of each query with its own passages, in full float32."""
    return jnp.einsum("qd,q...d->q...", queries, passages, precision=jax.lax.Precision.HIGHEST)


@dataclass(frozen=True)
class InfoNCE:
    """-log(sum over relevant of exp(s/T) / sum over all of exp(s/T)) (van den Oord et al. 2018, arXiv 1807.03748).

    Computed as softplus(logsumexp(irrelevant) - logsumexp(relevant)). The usual form rounds to zero at low
    temperatures, and a clean query would look robust because its gradient vanishes; this form keeps the gradient.

    Attributes:
      temperature: T.
    """

    temperature: float

    def __call__(self, scores: Scores, relevant: Marks, irrelevant: Marks) -> Float32[Array, " queries"]:
        scaled = scores / self.temperature
        return jax.nn.softplus(
            jax.nn.logsumexp(scaled, axis=1, where=irrelevant) - jax.nn.logsumexp(scaled, axis=1, where=relevant)
        )


@dataclass(frozen=True)
class Margin:
    """Score of the k-th best irrelevant passage minus the best relevant score: positive if the top k is lost.

    The margin never saturates, at any training temperature.

    Attributes:
      k: size of the top k that every relevant passage must leave.
    """

    k: int = 1

    def __call__(self, scores: Scores, relevant: Marks, irrelevant: Marks) -> Float32[Array, " queries"]:
        kth = jax.lax.top_k(jnp.where(irrelevant, scores, -jnp.inf), self.k)[0][:, -1]
        return kth - _best(scores, relevant)


@dataclass(frozen=True)
class SmoothRank:
    """sum over irrelevant j of sigmoid((s_j - s+) / T), where s+ is the best relevant score.

    As T -> 0, the sum becomes the number of irrelevant passages ahead of the best relevant passage.

    Attributes:
      temperature: T, in units of the scores.
    """

    temperature: float

    def __call__(self, scores: Scores, relevant: Marks, irrelevant: Marks) -> Float32[Array, " queries"]:
        behind = scores - _best(scores, relevant)[:, None]
        return jnp.sum(jax.nn.sigmoid(behind / self.temperature), axis=1, where=irrelevant)


def _best(scores: Scores, among: Marks) -> Float32[Array, " queries"]:
    return jnp.max(scores, axis=1, where=among, initial=-jnp.inf)
