"""Building blocks of gradient attacks: the objective over perturbations of a batch, and the best point found.

Input: an objective, clean embeddings, radii and a norm. Output: values, gradients, steps that stay in the ball, and the
`BestPerturbation`. A gradient attack is a search that combines these blocks, and an `Algorithm` that names the search
and counts its cost.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from jaxretr.perturb.balls import Norm, dual_norm, project, random_start, size, steepest

Objective = Callable[[Any, Array], Array]
"""(context, float32 [queries, length, hidden]) -> float32 [queries]."""

Epsilon = Float[Array, " queries"] | Float[Array, ""] | float
"""One radius for all queries, or one per query."""


GradientDtype = Literal["float32", "bfloat16"]
"""Compute dtype of the gradients of a search. In bfloat16, a search verifies its best points in float32."""

Search = Callable[["PerturbationSpace", Key[Array, " queries"], int, int], "BestPerturbation"]
"""(space, one random key per query, steps, restarts) -> the best perturbation."""


@dataclass(frozen=True)
class Algorithm:
    """A search for the best perturbation, and its cost.

        best = PGD(objective, context, embeds, attackable, epsilon, keys, norm="token_l2", steps=20, restarts=2)

    Attributes:
      name: name of the attack, as users spell it.
      search: the search.
      gradients: (steps, restarts) -> gradients per query.
      values: (steps, restarts) -> evaluations per query of the objective alone, without its gradient.
      minimal: the search returns the smallest perturbation that makes the objective positive, instead of the largest
        objective within the ball.
      uses_directions: the context must hold `directions`, each of which costs one more value.
      verifications: restarts -> further evaluations per query if the gradients are computed in bfloat16.
    """

    name: str
    search: Search
    gradients: Callable[[int, int], int]
    values: Callable[[int, int], int]
    minimal: bool = False
    uses_directions: bool = False
    verifications: Callable[[int], int] = lambda restarts: 0

    @partial(jax.jit, static_argnames=("self", "objective", "norm", "steps", "restarts", "dtype"))
    def __call__(
        self,
        objective: Objective,
        context: Any,
        embeds: Float32[Array, "queries length hidden"],
        attackable: Bool[Array, "queries length"],
        epsilon: Epsilon,
        keys: Key[Array, " queries"],
        *,
        norm: Norm,
        steps: int = 30,
        restarts: int = 1,
        dtype: GradientDtype = "float32",
    ) -> "BestPerturbation":
        """Run the search; one compiled function of a batch of queries.

        Radii, embeddings and everything in `context` may change without a new compilation.

        Args:
          objective: (context, embeds) -> one value per query, to be maximized; hashable, such as `QueryObjective`. The
            value of a query may depend on its own embeddings only.
          context: a pytree of everything else that the objective needs, such as `Target`.
          embeds: clean embeddings.
          attackable: the positions that may change; at other positions the perturbation is exactly zero.
          epsilon: radius, a scalar or one per query. At 0 the perturbation is exactly zero. For a minimum-norm search,
            the largest radius that counts.
          keys: one random key per query. The result of a query does not depend on its batch.
          norm: norm of the ball, see `jaxretr.perturb.balls`.
          steps: steps of each run; some searches ignore this value.
          restarts: number of runs from different starting points; some searches ignore this value.
          dtype: compute dtype of the gradients. bfloat16 needs an objective of this package, whose encoder it replaces.
        """
        space = PerturbationSpace(objective, context, embeds, attackable, epsilon, norm, dtype)
        return self.search(space, keys, steps, restarts)


class BestPerturbation(NamedTuple):
    """The best perturbation of each query.

    Attributes:
      delta: the perturbation; the attacked embeddings are `embeds + delta`.
      loss: the objective at the perturbation.
      zero_gradients: number of points at which the gradient was exactly zero. If there are many, the objective is
        saturated, and a failed attack proves nothing.
    """

    delta: Float32[Array, "queries length hidden"]
    loss: Float32[Array, " queries"]
    zero_gradients: Int32[Array, " queries"]

    def or_better(
        self,
        delta: Float32[Array, "queries length hidden"],
        loss: Float32[Array, " queries"],
        zero_gradients: Int32[Array, " queries"] | int = 0,
    ) -> "BestPerturbation":
        """Keep the point with the larger objective per query, the older point on a tie; add up the zero gradients."""
        better = loss > self.loss
        return BestPerturbation(
            choose(better, delta, self.delta),
            jnp.where(better, loss, self.loss),
            self.zero_gradients + zero_gradients,
        )


class PerturbationSpace:
    """The objective of a batch as a function of the perturbation; exists only while an attack is traced."""

    def __init__(
        self,
        objective: Objective,
        context: Any,
        embeds: Float32[Array, "queries length hidden"],
        attackable: Bool[Array, "queries length"],
        epsilon: Epsilon,
        norm: Norm,
        dtype: GradientDtype = "float32",
    ) -> None:
        self.epsilon = jnp.broadcast_to(jnp.asarray(epsilon, jnp.float32), len(embeds))
        self.objective, self.context, self.embeds = objective, context, embeds
        self.attackable, self.zero = attackable, jnp.zeros_like(embeds)
        self._norm, self._dtype = norm, dtype
        self._ascended = objective if self.is_exact else _in_dtype(objective, dtype)

    @property
    def is_exact(self) -> bool:
        """Whether `ascend` computes in float32, as `value` always does."""
        return self._dtype == "float32"

    def value(self, delta: Float32[Array, "queries length hidden"]) -> Float32[Array, " queries"]:
        """Return the objective in float32."""
        return self.objective(self.context, self.embeds + delta)

    def verified(self, best: BestPerturbation) -> BestPerturbation:
        """Return the point with its objective in float32; costs nothing if the space is exact."""
        return best if self.is_exact else best._replace(loss=self.value(best.delta))

    def ascend(
        self, delta: Float32[Array, "queries length hidden"]
    ) -> tuple[Float32[Array, " queries"], Float32[Array, "queries length hidden"], Int32[Array, " queries"]]:
        """Return values, gradients (zero at positions that are not attackable), and 1 per zero gradient, else 0.

        Values and gradients are computed in the dtype of the space.
        """

        def total(delta: Array) -> tuple[Array, Array]:
            values = self._ascended(self.context, self.embeds + delta)
            return values.sum(), values  # the sum's gradient holds the gradient of each query

        gradient, values = jax.grad(total, has_aux=True)(delta)
        gradient = jnp.where(self.attackable[:, :, None], gradient, 0)
        return values, gradient, jnp.all(gradient == 0, axis=(1, 2)).astype(jnp.int32)

    def step(
        self,
        delta: Float32[Array, "queries length hidden"],
        gradient: Float32[Array, "queries length hidden"],
        step_size: Float32[Array, " queries"],
    ) -> Float32[Array, "queries length hidden"]:
        """Take one step along the steepest direction and project it onto the ball."""
        return self.project(delta + step_size[:, None, None] * self.steepest(gradient))

    def steepest(self, gradient: Float32[Array, "queries length hidden"]) -> Float32[Array, "queries length hidden"]:
        """Return the point of the unit ball with the largest inner product with `gradient`."""
        return steepest(gradient, self._norm)

    def project(self, delta: Float32[Array, "queries length hidden"]) -> Float32[Array, "queries length hidden"]:
        return project(delta, self.epsilon, self._norm)

    def size(self, delta: Float32[Array, "queries length hidden"]) -> Float32[Array, " queries"]:
        """Return the norm of each query's perturbation."""
        return size(delta, self._norm)

    def slope(self, gradient: Float32[Array, "queries length hidden"]) -> Float32[Array, " queries"]:
        """Return the rate at which a step along the steepest direction raises the objective."""
        return dual_norm(gradient, self._norm)

    def within(self, radius: Float32[Array, " queries"]) -> "PerturbationSpace":
        """Return the same space with balls of another radius."""
        return PerturbationSpace(
            self.objective, self.context, self.embeds, self.attackable, radius, self._norm, self._dtype
        )

    def aimed(self, objective: Objective, context: Any) -> "PerturbationSpace":
        """Return the same balls with another objective and its context."""
        return PerturbationSpace(
            objective, context, self.embeds, self.attackable, self.epsilon, self._norm, self._dtype
        )

    def draw(self, keys: Key[Array, " queries"]) -> Float32[Array, "queries length hidden"]:
        """Draw a random point of each query's ball."""
        return random_start(keys, self.attackable, self.embeds.shape[2], self.epsilon, self._norm)

    def nothing(self) -> BestPerturbation:
        """Return the zero perturbation with the objective -inf, which every point improves."""
        lowest = jnp.full(len(self.zero), -jnp.inf, jnp.float32)
        return BestPerturbation(self.zero, lowest, jnp.zeros(len(self.zero), jnp.int32))

    def clean(self) -> BestPerturbation:
        """Return the zero perturbation, the first candidate for the best point."""
        return BestPerturbation(self.zero, self.value(self.zero), jnp.zeros(len(self.zero), jnp.int32))


def _in_dtype(objective: Objective, dtype: GradientDtype) -> Objective:
    """Return an objective of `jaxretr.attack.gradient.objective` whose encoder computes in another dtype."""
    of_encoder = cast(Any, objective)
    functions = dataclasses.replace(of_encoder.encoder.functions, dtype=dtype)
    encoder = dataclasses.replace(of_encoder.encoder, functions=functions)
    return cast(Objective, dataclasses.replace(of_encoder, encoder=encoder))


def choose(
    condition: Bool[Array, " queries"],
    values: Float32[Array, "queries length hidden"],
    otherwise: Float32[Array, "queries length hidden"],
) -> Float32[Array, "queries length hidden"]:
    """Select `values` for queries that meet `condition`, and `otherwise` for the others."""
    return jnp.where(condition[:, None, None], values, otherwise)


def split_keys(keys: Key[Array, " queries"], count: int) -> Key[Array, "count queries"]:
    """Split the key of each query into `count` keys."""
    return jax.vmap(partial(jax.random.split, num=count), out_axes=1)(keys)
