"""Objectives that a trigger maximizes. Input: embeddings of the texts that contain the trigger. Output: one value.

An objective is hashable and is called as `objective(context, embeddings)`. Its context is a pytree of arrays that may
change without a new compilation.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32


@dataclass(frozen=True)
class Similarity:
    """The mean over the texts of <target, text>; the context is the targets, float32 [texts, dim].

    The mean over queries of <query, text> equals <mean query, text>. So one target stands for all its queries.
    """

    def __call__(
        self, targets: Float32[Array, "texts dim"], embeddings: Float32[Array, "texts dim"]
    ) -> Float32[Array, ""]:
        return jnp.einsum("td,td->", targets, embeddings, precision=jax.lax.Precision.HIGHEST) / len(embeddings)
