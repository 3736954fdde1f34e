"""What an iteration of the search tries: a gradient comes in, candidates go out.

A candidate replaces one token of the trigger. A schedule is a small value; the engine compiles one program for each.
The linear estimate of what a replacement gains is g · e: the gradient with respect to the embedding at a position,
times the embedding of the new token, up to a constant of the position (Ebrahimi et al. 2018, arXiv 1712.06751).

Schedules are compared at equal cost, counted in encodings of one sequence; a gradient costs three.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key

GRADIENT_COST = 3
_POSITIONS_AT_ONCE = 16


class Proposals(NamedTuple):
    """Replacements in rounds: the best one of a round is made before the next round is scored.

    Attributes:
      positions: which slot of the trigger.
      tokens: the new token, as its place among the allowed ones.
      tried: see `Schedule.propose`.
    """

    positions: Int32[Array, "rounds candidates"]
    tokens: Int32[Array, "rounds candidates"]
    tried: Float32[Array, " slots"]


@dataclass(frozen=True)
class Schedule(ABC):
    """How many and which replacements an iteration tries."""

    candidates: int

    @property
    def gradient_flips(self) -> int:
        """The gradient is a mean over so many triggers that differ in one random token; 0 takes the trigger's own."""
        return 0

    def rounds(self, slots: int) -> int:
        """Rounds of an iteration with a trigger of `slots` tokens."""
        return 1

    def scored(self, slots: int, allowed: int) -> int:
        """Candidates of a round, where `allowed` tokens are."""
        return min(self.candidates, slots * allowed)

    @abstractmethod
    def propose(
        self,
        key: Key[Array, ""],
        gradient: Float32[Array, "slots hidden"],
        table: Float32[Array, "allowed hidden"],
        tried: Float32[Array, " slots"],
    ) -> Proposals:
        """Candidates of one iteration for one trigger.

        Args:
          key: of the draws.
          gradient: of the objective with respect to the trigger's embeddings.
          table: embeddings of the allowed tokens.
          tried: for a schedule that goes on where it stopped when nothing was better: of each position, the lowest
            estimate scored since the trigger last changed; infinite where there is none.
        """

    def cost(self, slots: int, allowed: int) -> int:
        """Forward passes of an iteration, for each sequence that the trigger is part of."""
        gradients = max(1, self.gradient_flips)
        return GRADIENT_COST * gradients + self.rounds(slots) * self.scored(slots, allowed)


@dataclass(frozen=True)
class Positionwise(Schedule):
    """At each of some random positions in turn, the best tokens by their estimate.

    Attributes:
      candidates: tokens tried at a position.
      positions: of an iteration, without repetition.
      flips: as `gradient_flips`.
    """

    candidates: int
    positions: int = 1
    flips: int = 0

    @property
    def gradient_flips(self) -> int:
        return self.flips

    def rounds(self, slots: int) -> int:
        return min(self.positions, slots)

    def scored(self, slots: int, allowed: int) -> int:
        return min(self.candidates, allowed)

    def propose(
        self,
        key: Key[Array, ""],
        gradient: Float32[Array, "slots hidden"],
        table: Float32[Array, "allowed hidden"],
        tried: Float32[Array, " slots"],
    ) -> Proposals:
        slots = len(gradient)
        positions = jax.random.permutation(key, slots)[: self.rounds(slots)]
        _, tokens = _best_of_each(gradient[positions], table, self.scored(slots, len(table)))
        return Proposals(jnp.broadcast_to(positions[:, None], tokens.shape), tokens, tried)


@dataclass(frozen=True)
class RankedFirst(Schedule):
    """The best token of every position, then the second best of every position, and so on.

    After an iteration in which none was better, the next ranks follow.
    """

    def propose(
        self,
        key: Key[Array, ""],
        gradient: Float32[Array, "slots hidden"],
        table: Float32[Array, "allowed hidden"],
        tried: Float32[Array, " slots"],
    ) -> Proposals:
        slots, scored = len(gradient), self.scored(len(gradient), len(table))
        ranks = -(-scored // slots)
        estimates, tokens = _best_of_each(gradient, table, ranks, below=tried)
        used = (jnp.arange(ranks * slots) < scored).reshape(ranks, slots)
        lowest = jnp.min(estimates.T, axis=0, where=used, initial=jnp.inf)
        positions = jnp.broadcast_to(jnp.arange(slots), (ranks, slots))
        return Proposals(
            positions.reshape(-1)[None, :scored], tokens.T.reshape(-1)[None, :scored], jnp.minimum(tried, lowest)
        )


@dataclass(frozen=True)
class Sampled(Schedule):
    """Replacements drawn uniformly: a position, then one of its `top` tokens by their estimate."""

    top: int = 256

    def propose(
        self,
        key: Key[Array, ""],
        gradient: Float32[Array, "slots hidden"],
        table: Float32[Array, "allowed hidden"],
        tried: Float32[Array, " slots"],
    ) -> Proposals:
        slots, scored = len(gradient), self.scored(len(gradient), len(table))
        _, tokens = _best_of_each(gradient, table, min(self.top, len(table)))
        position_key, rank_key = jax.random.split(key)
        positions = jax.random.randint(position_key, (1, scored), 0, slots)
        ranks = jax.random.randint(rank_key, (1, scored), 0, tokens.shape[1])
        return Proposals(positions, tokens[positions, ranks], tried)


HOTFLIP = Positionwise(candidates=100)
"""One position at a time (Zhong et al. 2023, arXiv 2310.19156)."""
AGGD = RankedFirst(candidates=100)
"""Approximate greedy gradient descent (Su et al. 2024, arXiv 2406.05087)."""
GCG = Sampled(candidates=512)
"""Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043); here the trigger never gets worse."""
GASLITE = Positionwise(candidates=128, positions=20, flips=50)
"""Ben-Tov and Sharif (2024), arXiv 2412.20953."""


def _best_of_each(
    gradient: Float32[Array, "positions hidden"],
    table: Float32[Array, "allowed hidden"],
    k: int,
    below: Float32[Array, " positions"] | None = None,
) -> tuple[Float32[Array, "positions k"], Int32[Array, "positions k"]]:
    """The k tokens of each position with the highest estimates (below a bound, where there is one).

    A few positions at once: a table of estimates for all would be the largest array of the whole attack, and one
    position after the other would read the embeddings as many times.
    """
    best = jax.lax.approx_max_k if jax.default_backend() == "tpu" else jax.lax.top_k

    def at(position: tuple[Array, Array]) -> tuple[Array, Array]:
        gradient, bound = position
        estimates = jnp.einsum("ah,h->a", table, gradient)
        estimates, tokens = best(jnp.where(estimates < bound, estimates, -jnp.inf), k)
        return estimates, tokens

    bounds = jnp.full(len(gradient), jnp.inf) if below is None else below
    return jax.lax.map(at, (gradient, bounds), batch_size=_POSITIONS_AT_ONCE)
