"""The balls around the word embeddings of one device's batch, both sides at once.

In: clean word embeddings, which tokens are special, a relative radius and a norm. Out: perturbations, each text's in
a ball of its own (`jaxretr.perturb.balls`). Padding and special tokens are never moved.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from jaxretr import parallel
from jaxretr.data.batches import PairBatch
from jaxretr.perturb import balls
from jaxretr.perturb.balls import Norm
from jaxretr.train.objective import Words, passage_texts
from jaxretr.types import TokenBatch


@dataclass(frozen=True)
class Budget:
    """How far an adversary may move a text.

    Attributes:
      rho: radius as a share of the mean row norm of the clean word embeddings of that side of the global batch, so
        that a model gains nothing by growing its norms.
      norm: what the radius bounds.
      special_ids: tokens that stay as they are.
    """

    rho: float
    norm: Norm
    special_ids: tuple[int, ...]


class Space(NamedTuple):
    """Attributes:

    attackable: which positions of which texts may move.
    epsilon: the radius of each text's ball, in the units of the word embeddings.
    norm: what it bounds.
    """

    attackable: tuple[Bool[Array, "queries query_length"], Bool[Array, "passages passage_length"]]
    epsilon: tuple[Float32[Array, " queries"], Float32[Array, " passages"]]
    norm: Norm

    @classmethod
    def of(cls, words: Words, batch: PairBatch, budget: Budget) -> "Space":
        """Measures the clean word embeddings of all devices; no gradient flows into the radii."""
        sides = (batch.queries, passage_texts(batch))
        attackable = tuple(balls.attackable(side.ids, side.mask, budget.special_ids) for side in sides)
        epsilon = tuple(
            jnp.full(len(free), budget.rho) * _mean_row_norm(jax.lax.stop_gradient(clean), free)
            for clean, free in zip(words, attackable, strict=True)
        )
        return cls(attackable, epsilon, budget.norm)

    def clean(self, words: Words) -> Words:
        """No perturbation."""
        return jax.tree.map(jnp.zeros_like, words)

    def ascend(self, delta: Words, gradient: Words, size: float) -> Words:
        """One step along the steepest direction, `size` radii long, and back into the ball."""

        def side(delta: Array, gradient: Array, free: Array, epsilon: Array) -> Array:
            direction = balls.steepest(jnp.where(free[:, :, None], gradient, 0), self.norm)
            return balls.project(delta + size * epsilon[:, None, None] * direction, epsilon, self.norm)

        return Words(*map(side, delta, gradient, self.attackable, self.epsilon))


def moved(words: Words, delta: Words) -> Words:
    """Perturbed word embeddings."""
    return jax.tree.map(jnp.add, words, delta)


def _mean_row_norm(words: Array, attackable: Array) -> Float32[Array, ""]:
    """`balls.mean_row_norm` over all devices; 0 where no position is attackable."""
    count = jnp.sum(attackable)
    total = jnp.where(count > 0, count * balls.mean_row_norm(words, attackable), 0)
    total, count = parallel.mean((total, count.astype(jnp.float32)))
    return total / jnp.maximum(count, jnp.finfo(jnp.float32).tiny)
