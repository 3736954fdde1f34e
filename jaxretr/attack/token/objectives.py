"""Objectives that a trigger maximizes. Input: embeddings of the texts that contain the trigger. Output: one value.

An objective is hashable and is called as `objective(context, embeddings)`. Its context is a pytree of arrays that may
change without a new compilation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from jaxretr.attack.gradient.losses import Loss, scores_of


@dataclass(frozen=True)
class Similarity:
    """The mean over the texts of <target, text>; the context is the targets, float32 [texts, dim].

    The mean over queries of <query, text> equals <mean query, text>. So one target stands for all its queries.
    """

    def __call__(
        self, targets: Float32[Array, "texts dim"], embeddings: Float32[Array, "texts dim"]
    ) -> Float32[Array, ""]:
        return jnp.einsum("td,td->", targets, embeddings, precision=jax.lax.Precision.HIGHEST) / len(embeddings)


class Judged(NamedTuple):
    """Passages per query that decide whether the query is lost; see `jaxretr.attack.gradient.losses`."""

    passages: Float32[Array, "texts candidates dim"]
    relevant: Bool[Array, "texts candidates"]
    irrelevant: Bool[Array, "texts candidates"]


@dataclass(frozen=True)
class QueryLoss:
    """The mean over queries of a loss of their scores; the context is `Judged`."""

    loss: Loss

    def __call__(self, judged: Judged, embeddings: Float32[Array, "texts dim"]) -> Float32[Array, ""]:
        scores = scores_of(embeddings, judged.passages)
        return jnp.mean(self.loss(scores, judged.relevant, judged.irrelevant))
