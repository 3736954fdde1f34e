"""What every attack in the embedding space is made of: a batch's objective over perturbations, and the best found.

In: an objective, clean embeddings, radii and a norm. Out: values, gradients and steps that stay in the ball, and
`Attack`, what an attack returns. See `jaxretr.attack.embedding.gradient` for what the arguments are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from jaxretr.perturb.balls import Norm, project, random_start, steepest

Objective = Callable[[Any, Array], Array]
"""(context, float32 [queries, length, hidden]) -> float32 [queries]."""

Epsilon = Float[Array, " queries"] | Float[Array, ""] | float
"""A radius for all queries, or one for each."""


class Attack(NamedTuple):
    """What an attack has found.

    Attributes:
      delta: the perturbation; the attacked embeddings are `embeds + delta`.
      loss: the objective there.
      zero_gradients: at how many points the gradient was exactly zero. Where it often is, the objective has
        saturated, and a failed attack says nothing.
    """

    delta: Float32[Array, "queries length hidden"]
    loss: Float32[Array, " queries"]
    zero_gradients: Int32[Array, " queries"]

    def or_better(
        self,
        delta: Float32[Array, "queries length hidden"],
        loss: Float32[Array, " queries"],
        zero_gradients: Int32[Array, " queries"] | int = 0,
    ) -> "Attack":
        """For each query the point with the larger objective, the older one of equals; zero gradients add up."""
        better = loss > self.loss
        return Attack(
            choose(better, delta, self.delta),
            jnp.where(better, loss, self.loss),
            self.zero_gradients + zero_gradients,
        )


class Space:
    """A batch's objective as a function of the perturbation; lives while an attack is traced."""

    def __init__(
        self,
        objective: Objective,
        context: Any,
        embeds: Float32[Array, "queries length hidden"],
        attackable: Bool[Array, "queries length"],
        epsilon: Epsilon,
        norm: Norm,
    ) -> None:
        self.epsilon = jnp.broadcast_to(jnp.asarray(epsilon, jnp.float32), len(embeds))
        self._objective, self._context, self._embeds = objective, context, embeds
        self._attackable, self._norm = attackable, norm

    def value(self, delta: Float32[Array, "queries length hidden"]) -> Float32[Array, " queries"]:
        return self._objective(self._context, self._embeds + delta)

    def ascend(
        self, delta: Float32[Array, "queries length hidden"]
    ) -> tuple[Float32[Array, " queries"], Float32[Array, "queries length hidden"], Int32[Array, " queries"]]:
        """Values; gradients, zero where not attackable; and 1 for each query whose gradient is zero everywhere."""

        def total(delta: Array) -> tuple[Array, Array]:
            values = self.value(delta)
            return values.sum(), values  # each depends on its own query: the sum's gradient holds each one's

        gradient, values = jax.grad(total, has_aux=True)(delta)
        gradient = jnp.where(self._attackable[:, :, None], gradient, 0)
        return values, gradient, jnp.all(gradient == 0, axis=(1, 2)).astype(jnp.int32)

    def step(
        self,
        delta: Float32[Array, "queries length hidden"],
        gradient: Float32[Array, "queries length hidden"],
        step_size: Float32[Array, " queries"],
    ) -> Float32[Array, "queries length hidden"]:
        """One projected step along the steepest direction."""
        return self.project(delta + step_size[:, None, None] * steepest(gradient, self._norm))

    def project(self, delta: Float32[Array, "queries length hidden"]) -> Float32[Array, "queries length hidden"]:
        return project(delta, self.epsilon, self._norm)

    def draw(self, keys: Key[Array, " queries"]) -> Float32[Array, "queries length hidden"]:
        """A random point of each query's ball."""
        return random_start(keys, self._attackable, self._embeds.shape[2], self.epsilon, self._norm)

    def clean(self) -> Attack:
        """No perturbation, as the first of the points to choose the best from."""
        zero = jnp.zeros_like(self._embeds)
        return Attack(zero, self.value(zero), jnp.zeros(len(zero), jnp.int32))


def choose(
    first: Bool[Array, " queries"],
    these: Float32[Array, "queries length hidden"],
    others: Float32[Array, "queries length hidden"],
) -> Float32[Array, "queries length hidden"]:
    """`these` for the queries where `first`, `others` for the rest."""
    return jnp.where(first[:, None, None], these, others)


def split_keys(keys: Key[Array, " queries"], count: int) -> Key[Array, "count queries"]:
    """`count` new keys of each query."""
    return jax.vmap(partial(jax.random.split, num=count), out_axes=1)(keys)
