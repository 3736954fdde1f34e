"""The candidates of one iteration of the search. Input: a gradient. Output: replacements.

A candidate replaces one token of the trigger. A schedule is a small hashable value; the engine compiles one program per
schedule. The linear estimate of the gain of a replacement is g · e: the gradient with respect to the embedding at a
position, times the embedding of the new token, up to a constant per position (Ebrahimi et al. 2018, arXiv 1712.06751).

Compare schedules at equal cost. The cost counts encodings of one sequence; a gradient counts as three.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key

GRADIENT_COST = 3
_POSITIONS_AT_ONCE = 16


class Proposals(NamedTuple):
    """Replacements in rounds: the search applies the best replacement of a round before it scores the next round.

    Attributes:
      positions: slot of the trigger.
      tokens: the new token, as a position among the allowed tokens.
      tried: see `Schedule.propose`.
    """

    positions: Int32[Array, "rounds candidates"]
    tokens: Int32[Array, "rounds candidates"]
    tried: Float32[Array, " slots"]


@dataclass(frozen=True)
class Schedule(ABC):
    """Which replacements an iteration tries, and how many.

    Attributes:
      candidates: replacements per round.
      iterations: default length of a search.
      fewest: shortest search whose low success says something about the model; a shorter search prints a warning.
    """

    candidates: int
    iterations: int = field(default=500, kw_only=True)
    fewest: int = field(default=100, kw_only=True)

    @property
    def gradient_flips(self) -> int:
        """Number of triggers, each with one random token changed, whose gradients are averaged; 0 uses the trigger's
        own gradient.
        """
        return 0

    def rounds(self, slots: int) -> int:
        """Return the number of rounds per iteration for a trigger of `slots` tokens."""
        return 1

    def scored(self, slots: int, allowed: int) -> int:
        """Return the number of candidates per round if `allowed` tokens exist."""
        return min(self.candidates, slots * allowed)

    @abstractmethod
    def propose(
        self,
        key: Key[Array, ""],
        gradient: Float32[Array, "slots hidden"],
        table: Float32[Array, "allowed hidden"],
        tried: Float32[Array, " slots"],
    ) -> Proposals:
        """Return the candidates of one iteration for one trigger.

        Args:
          key: random key of the draws.
          gradient: gradient of the objective with respect to the trigger's embeddings.
          table: embeddings of the allowed tokens.
          tried: per position, the lowest estimate scored since the trigger last changed; infinite if none was scored.
            Schedules use it to continue after an iteration without improvement.
        """

    def cost(self, slots: int, allowed: int) -> int:
        """Return the forward passes per iteration, for each sequence that the trigger is part of."""
        gradients = max(1, self.gradient_flips)
        return GRADIENT_COST * gradients + self.rounds(slots) * self.scored(slots, allowed)


@dataclass(frozen=True)
class Positionwise(Schedule):
    """Try the tokens with the highest estimates at a few random positions in turn.

    Attributes:
      candidates: tokens tried per position.
      positions: positions per iteration, without repetition.
      flips: see `gradient_flips`.
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
    """Try the best token of every position, then the second best of every position, and so on.

    After an iteration without improvement, the next iteration continues with the following ranks.
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
    """Draw replacements uniformly: a position, then one of its `top` tokens by estimate."""

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
"""One position at a time (Zhong et al. 2023, arXiv 2310.19156). The published program runs 5,000 iterations."""
AGGD = RankedFirst(candidates=100)
"""Approximate greedy gradient descent (Su et al. 2024, arXiv 2406.05087); 1,000 iterations in the published program."""
GCG = Sampled(candidates=512)
"""Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043), 500 iterations as published. Unlike in the original,
triggers never get worse."""
GASLITE = Positionwise(candidates=128, positions=20, flips=50, iterations=100, fewest=30)
"""Ben-Tov and Sharif (2024), arXiv 2412.20953; 100 iterations as published."""


def _best_of_each(
    gradient: Float32[Array, "positions hidden"],
    table: Float32[Array, "allowed hidden"],
    k: int,
    below: Float32[Array, " positions"] | None = None,
) -> tuple[Float32[Array, "positions k"], Int32[Array, "positions k"]]:
    """Return the k tokens per position with the highest estimates, below a bound if one is given.

    A few positions run at a time: the table of all estimates would be the largest array of the whole attack, and one
    position at a time would read the embeddings once per position.
    """
    best = jax.lax.approx_max_k if jax.default_backend() == "tpu" else jax.lax.top_k

    def at(position: tuple[Array, Array]) -> tuple[Array, Array]:
        gradient, bound = position
        estimates = jnp.einsum("ah,h->a", table, gradient)
        estimates, tokens = best(jnp.where(estimates < bound, estimates, -jnp.inf), k)
        return estimates, tokens

    bounds = jnp.full(len(gradient), jnp.inf) if below is None else below
    return jax.lax.map(at, (gradient, bounds), batch_size=_POSITIONS_AT_ONCE)
