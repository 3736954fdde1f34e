"""The balls around the word embeddings of one device's queries and passages.

Input: clean word embeddings, the special tokens, a relative radius and a norm. Output: perturbations, each
inside its text's ball (`jaxretr.perturb.balls`). Padding and special tokens never move.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

from jaxretr import parallel
from jaxretr.data.batches import PairBatch
from jaxretr.perturb import balls
from jaxretr.perturb.balls import Norm
from jaxretr.train.objective import WordEmbeddings, passage_texts
from jaxretr.types import TokenBatch

Sides = Literal["both", "queries"]
"""The texts of a batch that an adversary may move."""


@dataclass(frozen=True)
class Budget:
    """How far an adversary may move a text.

    Attributes:
      rho: radius of a ball, relative to the mean norm of the clean word embeddings at attackable positions. The mean is
        taken over the global batch, separately for queries and passages. A model cannot weaken the adversary by growing
        its word embeddings, because the radius grows too.
      norm: norm of the ball.
      special_ids: tokens that never move.
      sides: texts that may move; with "queries", passages stay clean.
    """

    rho: float
    norm: Norm
    special_ids: tuple[int, ...]
    sides: Sides = "both"


class Space(NamedTuple):
    """The balls around the word embeddings of both sides.

    Attributes:
      attackable: positions that may move, per side.
      epsilon: radius of each text's ball, in the units of the word embeddings.
      moves: whether the texts of the side move at all, per side.
      norm: norm of the ball.
    """

    attackable: tuple[Bool[Array, "queries query_length"], Bool[Array, "passages passage_length"]]
    epsilon: tuple[Float32[Array, " queries"], Float32[Array, " passages"]]
    moves: tuple[bool, bool]
    norm: Norm

    @classmethod
    def of(cls, words: WordEmbeddings, batch: PairBatch, budget: Budget) -> "Space":
        """Measure the clean word embeddings of all devices; no gradient flows into the radii."""

        def side(tokens: TokenBatch, clean: Array) -> tuple[Array, Array]:
            attackable = balls.attackable(tokens.ids, tokens.mask, budget.special_ids)
            return attackable, jnp.full(len(attackable), budget.rho) * _mean_row_norm(
                jax.lax.stop_gradient(clean), attackable
            )

        queries, query_epsilon = side(batch.queries, words.queries)
        passages, passage_epsilon = side(passage_texts(batch), words.passages)
        moves = (True, budget.sides == "both")
        return cls((queries, passages), (query_epsilon, passage_epsilon), moves, budget.norm)

    def zero(self, words: WordEmbeddings) -> WordEmbeddings:
        """Return the zero perturbation."""
        return jax.tree.map(jnp.zeros_like, words)

    def draw(self, words: WordEmbeddings, key: Key[Array, ""]) -> WordEmbeddings:
        """Draw a point uniformly from each text's ball."""

        def side(clean: Array, attackable: Array, epsilon: Array, keys: Array) -> Array:
            return balls.random_start(keys, attackable, clean.shape[2], epsilon, self.norm)

        return self._each_side(side, words, self.attackable, self.epsilon, self.keys(key))

    def draw_entries(self, words: WordEmbeddings, key: Key[Array, ""]) -> WordEmbeddings:
        """Draw FreeLB's start: every entry is uniform in ± radius / sqrt(n), where the norm covers n entries.

        The point is always in the ball. If n is large, its norm is close to radius / sqrt(3), well inside the ball. Zhu
        et al. (2020), arXiv 1909.11764, algorithm 1, use the norm `frobenius`, where n is the number of attackable
        tokens times the width of a word embedding.
        """

        def side(clean: Array, attackable: Array, epsilon: Array, keys: Array) -> Array:
            shape = clean.shape[1:]
            uniform = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1, maxval=1))(keys)
            tokens = jnp.maximum(attackable.sum(axis=1), 1) if self.norm == "frobenius" else 1
            entries = jnp.float32(1 if self.norm == "linf" else shape[1]) * tokens
            return jnp.where(attackable[:, :, None], uniform * (epsilon / jnp.sqrt(entries))[:, None, None], 0)

        return self._each_side(side, words, self.attackable, self.epsilon, self.keys(key))

    def keys(self, key: Key[Array, ""]) -> tuple[Key[Array, " queries"], Key[Array, " passages"]]:
        """Return one key per text, by its position in the global batch."""
        # A run's keys are "rbg", and under vmap "rbg" keys would draw from the first key alone; threefry keys are
        # independent.
        base = jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl="threefry2x32")
        queries, passages = (
            jax.vmap(jax.random.fold_in, (None, 0))(
                jax.random.fold_in(base, side), parallel.device_index() * len(attackable) + jnp.arange(len(attackable))
            )
            for side, attackable in enumerate(self.attackable)
        )
        return queries, passages

    def steepest(self, gradient: WordEmbeddings) -> WordEmbeddings:
        """Return the direction, of length 1 in the norm, of steepest ascent; zero for texts that cannot move."""

        def side(gradient: Array, attackable: Array) -> Array:
            return balls.steepest(jnp.where(attackable[:, :, None], gradient, 0), self.norm)

        return self._each_side(side, gradient, self.attackable)

    def ascend(self, delta: WordEmbeddings, gradient: WordEmbeddings, size: float) -> WordEmbeddings:
        """Take one step along the steepest direction, `size` radii long, and project onto the ball."""

        def side(delta: Array, direction: Array, epsilon: Array) -> Array:
            return balls.project(delta + size * epsilon[:, None, None] * direction, epsilon, self.norm)

        return self._each_side(side, delta, self.steepest(gradient), self.epsilon)

    def _each_side(
        self, side: Callable[..., Array], words: WordEmbeddings, *others: tuple[Array, Array]
    ) -> WordEmbeddings:
        """Apply `side` to each side of the arguments; a side that does not move is 0.

        These zeros are built without operations, because XLA would evaluate operations on constants when it compiles.
        """
        return WordEmbeddings(
            *(
                side(*arguments) if moves else jnp.zeros_like(arguments[0])
                for moves, *arguments in zip(self.moves, words, *others, strict=True)
            )
        )


def moved(words: WordEmbeddings, delta: WordEmbeddings) -> WordEmbeddings:
    """Return perturbed word embeddings."""
    return jax.tree.map(jnp.add, words, delta)


def _mean_row_norm(words: Array, attackable: Array) -> Float32[Array, ""]:
    """`balls.mean_row_norm` over all devices; 0 if no position is attackable."""
    count = jnp.sum(attackable)
    total = jnp.where(count > 0, count * balls.mean_row_norm(words, attackable), 0)
    total, count = parallel.mean((total, count.astype(jnp.float32)))
    return total / jnp.maximum(count, jnp.finfo(jnp.float32).tiny)
