"""What an attack on a query maximises: scores of a fixed set of passages come in, one value a query goes out.

Larger is better for the attacker, that is worse for retrieval: every loss rises as relevant passages fall behind.
An attacker who promotes passages marks them as the irrelevant ones. There is no mean over queries, so no query in a
batch influences another. The losses are values: equal ones compare and hash equal, and share a compilation.

A passage may be neither relevant nor irrelevant to a query (batch padding, an unjudged translation of the answer);
then it does not count. Every query needs at least one of each kind; the values of one that has not mean nothing.
Where there are several relevant passages, the best one counts (in InfoNCE, their sum).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

Scores = Float32[Array, "queries passages"]
Marks = Bool[Array, "queries passages"]

Loss = Callable[[Array, Array, Array], Array]
"""(scores, relevant, irrelevant) -> one value a query; hashable."""


@dataclass(frozen=True)
class InfoNCE:
    """-log(sum over relevant of exp(s/T) / sum over all of exp(s/T)) (van den Oord et al. 2018, arXiv 1807.03748).

    Computed as softplus(logsumexp(irrelevant) - logsumexp(relevant)), which keeps a gradient where the usual form
    rounds to zero: at low temperatures, a clean query would otherwise look robust.

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
    """The k-th best irrelevant passage's score minus the best relevant one's: positive where the top k are lost.

    It never saturates, whatever the temperature a model was trained with.

    Attributes:
      k: ranks that a relevant passage must be driven out of.
    """

    k: int = 1

    def __call__(self, scores: Scores, relevant: Marks, irrelevant: Marks) -> Float32[Array, " queries"]:
        kth = jax.lax.top_k(jnp.where(irrelevant, scores, -jnp.inf), self.k)[0][:, -1]
        return kth - _best(scores, relevant)


@dataclass(frozen=True)
class SmoothRank:
    """sum over irrelevant j of sigmoid((s_j - s+) / T), s+ the best relevant score: as T -> 0, the passages ahead.

    Attributes:
      temperature: T, in units of the scores.
    """

    temperature: float

    def __call__(self, scores: Scores, relevant: Marks, irrelevant: Marks) -> Float32[Array, " queries"]:
        behind = scores - _best(scores, relevant)[:, None]
        return jnp.sum(jax.nn.sigmoid(behind / self.temperature), axis=1, where=irrelevant)


def _best(scores: Scores, among: Marks) -> Float32[Array, " queries"]:
    return jnp.max(scores, axis=1, where=among, initial=-jnp.inf)
