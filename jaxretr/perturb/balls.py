"""The perturbations an attack may choose from: balls around word embeddings, and how their radii are measured.

In: perturbations [queries, length, hidden] and one radius a query. Out: projections, random points, steepest
directions, and the two lengths of a checkpoint that give radii a meaning. Positions that must stay as they are have
zeros in gradients and starts; nothing here moves a zero, so they stay zero.

A radius is given relative to the model, epsilon = rho * `mean_row_norm`, so that a model does not look robust because
its norms are large, and is reported next to `nearest_row_distance`.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Key

Norm = Literal["token_l2", "linf", "frobenius"]
"""How large a perturbation of a query is: its longest row, its largest entry, or the length of all rows as one vector.

The same Frobenius radius leaves each token of a short query more room than each of a long one."""

_AXES = {"token_l2": (2,), "linf": (1, 2), "frobenius": (1, 2)}


def attackable(
    ids: Int[Array, "queries length"], mask: Bool[Array, "queries length"], special_ids: tuple[int, ...]
) -> Bool[Array, "queries length"]:
    """Which positions an attack may change: real tokens that are not special ones such as `<s>` and `</s>`."""
    return mask & ~jnp.isin(ids, jnp.asarray(special_ids, ids.dtype))


def size(delta: Float32[Array, "queries length hidden"], norm: Norm) -> Float32[Array, " queries"]:
    """The norm of each query's perturbation."""
    lengths = jnp.abs(delta) if norm == "linf" else _length(delta, norm)
    return jnp.max(lengths, axis=(1, 2))


def project(
    delta: Float32[Array, "queries length hidden"], epsilon: Float32[Array, " queries"], norm: Norm
) -> Float32[Array, "queries length hidden"]:
    """The nearest point of the ball of radius `epsilon`, up to float32's rounding; exactly zero for epsilon = 0."""
    bound = epsilon[:, None, None]
    if norm == "linf":
        return jnp.clip(delta, -bound, bound)
    length = _length(delta, norm)
    outside = length > bound
    return jnp.where(outside, delta * (bound / jnp.where(outside, length, 1)), delta)


def random_start(
    keys: Key[Array, " queries"],
    attackable: Bool[Array, "queries length"],
    hidden: int,
    epsilon: Float32[Array, " queries"],
    norm: Norm,
) -> Float32[Array, "queries length hidden"]:
    """A point drawn uniformly from the ball; zero where not `attackable`.

    Args:
      keys: one a query, so that a query's draw does not depend on the rest of its batch.
      attackable: which positions move.
      hidden: width of a word embedding.
      epsilon: radius of each query's ball.
      norm: which ball.
    """
    free = attackable[:, :, None]
    shape = (attackable.shape[1], hidden)
    if norm == "linf":
        uniform = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1, maxval=1))(keys)
        return uniform * epsilon[:, None, None] * free
    both = jax.vmap(jax.random.split)(keys)
    direction = steepest(jax.vmap(lambda key: jax.random.normal(key, shape))(both[:, 0]) * free, norm)
    # In n dimensions, the volume within radius r grows with r^n.
    if norm == "token_l2":
        dimensions = jnp.full((1, 1, 1), hidden)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (shape[0], 1)))(both[:, 1])
    else:
        dimensions = hidden * jnp.maximum(attackable.sum(axis=1), 1)[:, None, None]
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (1, 1)))(both[:, 1])
    return epsilon[:, None, None] * uniform ** (1 / dimensions) * direction


def steepest(gradient: Float32[Array, "queries length hidden"], norm: Norm) -> Float32[Array, "queries length hidden"]:
    """The point of the unit ball with the largest inner product with `gradient`; zero where the gradient is zero."""
    if norm == "linf":
        return jnp.sign(gradient)
    # Gradients of saturated losses are so small that their squares underflow.
    largest = jnp.max(jnp.abs(gradient), axis=_AXES[norm], keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    return scaled / jnp.maximum(_length(scaled, norm), 1)


def mean_row_norm(
    embeds: Float32[Array, "queries length hidden"], attackable: Bool[Array, "queries length"]
) -> Float32[Array, ""]:
    """The mean L2 norm of the clean word embeddings at `attackable` positions: the unit of relative radii.

    NaN where no position is attackable.
    """
    return jnp.mean(jnp.linalg.norm(embeds, axis=2), where=attackable)


@partial(jax.jit, static_argnames="block")
def nearest_row_distance(
    table: Float32[Array, "vocabulary hidden"], rows: Int[Array, " rows"], *, block: int = 8_192
) -> Float32[Array, ""]:
    """The median, over chosen rows of an embedding table, of the L2 distance to the nearest other row.

    Args:
      table: all word embeddings, at least two.
      rows: positions in `table`, such as the distinct tokens of the queries.
      block: rows of the table looked at together; there are `rows * block` distances in memory.
    """
    chosen = table[rows]
    block = min(block, len(table))

    def nearer(
        number: Int[Array, ""], nearest: tuple[Float32[Array, " rows"], Int[Array, " rows"]]
    ) -> tuple[Float32[Array, " rows"], Int[Array, " rows"]]:
        start = jnp.minimum(number * block, len(table) - block)  # the last blocks may overlap
        others = jax.lax.dynamic_slice_in_dim(table, start, block)
        products = jnp.einsum("rh,bh->rb", chosen, others, precision=jax.lax.Precision.HIGHEST)
        above = jnp.sum(others**2, axis=1) - 2 * products
        above = jnp.where(start + jnp.arange(block) == rows[:, None], jnp.inf, above)
        at = jnp.argmin(above, axis=1)
        found = jnp.min(above, axis=1)
        closer = found < nearest[0]
        return jnp.where(closer, found, nearest[0]), jnp.where(closer, start + at, nearest[1])

    nothing = (jnp.full(len(rows), jnp.inf, table.dtype), jnp.zeros(len(rows), jnp.int32))
    _, neighbour = jax.lax.fori_loop(0, math.ceil(len(table) / block), nearer, nothing)
    # Differences of squares choose the neighbour, but cancel too much to say how far it is.
    return jnp.median(jnp.linalg.norm(chosen - table[neighbour], axis=1))


def _length(x: Float32[Array, "queries length hidden"], norm: Norm) -> Float32[Array, "queries rows 1"]:
    return jnp.sqrt(jnp.sum(x * x, axis=_AXES[norm], keepdims=True))
