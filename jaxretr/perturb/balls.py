"""The perturbations an attack may choose from: balls around word embeddings, and the scale of their radii.

Input: perturbations [queries, length, hidden] and one radius per query. Output: projections, random points, steepest
directions, and the two lengths of a checkpoint that give radii a meaning. Positions that must not change have zeros in
gradients and starting points. No function here moves a zero, so these positions stay zero.

A radius is relative to the model, epsilon = rho * `mean_row_norm`. Otherwise a model would look robust because its
norms are large. Reports give `nearest_row_distance` beside it.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int, Key

Norm = Literal["token_l2", "linf", "frobenius"]
"""The size of a query's perturbation: its longest row (`token_l2`), its largest entry (`linf`), or the length of all
rows as one vector (`frobenius`).

The same Frobenius radius gives each token of a short query more room than each token of a long query."""

_AXES = {"token_l2": (2,), "linf": (1, 2), "frobenius": (1, 2)}


def attackable(
    ids: Int[Array, "queries length"], mask: Bool[Array, "queries length"], special_ids: tuple[int, ...]
) -> Bool[Array, "queries length"]:
    """Return which positions an attack may change: real tokens that are not special tokens such as `<s>` and `</s>`."""
    return mask & ~jnp.isin(ids, jnp.asarray(special_ids, ids.dtype))


def size(delta: Float32[Array, "queries length hidden"], norm: Norm) -> Float32[Array, " queries"]:
    """Return the norm of each query's perturbation."""
    lengths = jnp.abs(delta) if norm == "linf" else _length(delta, norm)
    return jnp.max(lengths, axis=(1, 2))


def dual_norm(gradient: Float32[Array, "queries length hidden"], norm: Norm) -> Float32[Array, " queries"]:
    """Return the largest inner product of each query's gradient with a point of the unit ball."""
    return jnp.sum(gradient * steepest(gradient, norm), axis=(1, 2))


def project(
    delta: Float32[Array, "queries length hidden"], epsilon: Float32[Array, " queries"], norm: Norm
) -> Float32[Array, "queries length hidden"]:
    """Return the nearest point of the ball of radius `epsilon`, up to float32 rounding; exactly 0 for epsilon = 0."""
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
    """Draw a point uniformly from the ball; zero at positions that are not `attackable`.

    Args:
      keys: one per query, so that a query's draw does not depend on its batch.
      attackable: positions that move.
      hidden: width of a word embedding.
      epsilon: radius of each query's ball.
      norm: norm of the ball.
    """
    free = attackable[:, :, None]
    shape = (attackable.shape[1], hidden)
    if norm == "linf":
        uniform = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1, maxval=1))(keys)
        return uniform * epsilon[:, None, None] * free
    both = jax.vmap(jax.random.split)(keys)
    direction = steepest(jax.vmap(lambda key: jax.random.normal(key, shape))(both[:, 0]) * free, norm)
    # In n dimensions, the volume within radius r is proportional to r^n.
    if norm == "token_l2":
        dimensions = jnp.full((1, 1, 1), hidden)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (shape[0], 1)))(both[:, 1])
    else:
        dimensions = hidden * jnp.maximum(attackable.sum(axis=1), 1)[:, None, None]
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (1, 1)))(both[:, 1])
    return epsilon[:, None, None] * uniform ** (1 / dimensions) * direction


def steepest(gradient: Float32[Array, "queries length hidden"], norm: Norm) -> Float32[Array, "queries length hidden"]:
    """Return the point of the unit ball with the largest inner product with `gradient`; 0 for a gradient of 0."""
    if norm == "linf":
        return jnp.sign(gradient)
    # Gradients of saturated losses are so small that their squares underflow.
    largest = jnp.max(jnp.abs(gradient), axis=_AXES[norm], keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    return scaled / jnp.maximum(_length(scaled, norm), 1)


def mean_row_norm(
    embeds: Float32[Array, "queries length hidden"], attackable: Bool[Array, "queries length"]
) -> Float32[Array, ""]:
    """Return the mean L2 norm of the clean word embeddings at `attackable` positions: the unit of relative radii.

    NaN if no position is attackable.
    """
    return jnp.mean(jnp.linalg.norm(embeds, axis=2), where=attackable)


@partial(jax.jit, static_argnames="block")
def nearest_row_distance(
    table: Float32[Array, "vocabulary hidden"], rows: Int[Array, " rows"], *, block: int = 8_192
) -> Float32[Array, ""]:
    """Return the median, over selected rows of an embedding table, of the L2 distance to the nearest other row.

    Args:
      table: all word embeddings, at least two.
      rows: positions in `table`, such as the distinct tokens of the queries.
      block: rows of the table compared at once; `rows * block` distances are in memory.
    """
    selected = table[rows]
    block = min(block, len(table))

    def nearer(
        number: Int[Array, ""], nearest: tuple[Float32[Array, " rows"], Int[Array, " rows"]]
    ) -> tuple[Float32[Array, " rows"], Int[Array, " rows"]]:
        start = jnp.minimum(number * block, len(table) - block)  # the last blocks may overlap
        others = jax.lax.dynamic_slice_in_dim(table, start, block)
        products = jnp.einsum("rh,bh->rb", selected, others, precision=jax.lax.Precision.HIGHEST)
        # squared distances, up to a constant per selected row
        distances = jnp.sum(others**2, axis=1) - 2 * products
        distances = jnp.where(start + jnp.arange(block) == rows[:, None], jnp.inf, distances)
        offset = jnp.argmin(distances, axis=1)
        smallest = jnp.min(distances, axis=1)
        closer = smallest < nearest[0]
        return jnp.where(closer, smallest, nearest[0]), jnp.where(closer, start + offset, nearest[1])

    initial = (jnp.full(len(rows), jnp.inf, table.dtype), jnp.zeros(len(rows), jnp.int32))
    _, neighbor = jax.lax.fori_loop(0, math.ceil(len(table) / block), nearer, initial)
    # Differences of squares find the neighbor, but cancellation makes them too inexact for the distance itself.
    return jnp.median(jnp.linalg.norm(selected - table[neighbor], axis=1))


def _length(x: Float32[Array, "queries length hidden"], norm: Norm) -> Float32[Array, "queries rows 1"]:
    return jnp.sqrt(jnp.sum(x * x, axis=_AXES[norm], keepdims=True))
