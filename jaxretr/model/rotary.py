"""Rotary position embeddings, and windows of attention.

Input: queries, keys and values of all heads as one product writes them, and the position of each token in its text.
Output: rotated queries and keys, and which pairs of positions are near enough to attend to each other.

A rotary embedding turns each pair of coordinates of a query or key by an angle proportional to its position. So a score
depends on the distance between two positions only (Su et al. 2021, RoFormer, arXiv 2104.09864).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32


class Rotary(NamedTuple):
    """The positions of a batch, and how one layer uses them.

    Attributes:
      positions: position of each token in its text, 0, 1, 2, …; one row if all rows have the same positions.
      frequencies: angle per position of each pair of coordinates of a head, in radians, see `frequencies`.
      reach: largest distance between two positions that attend to each other.
    """

    positions: Int[Array, "#batch length"]
    frequencies: Float32[Array, " pairs"]
    reach: Int32[Array, ""]


def frequencies(theta: float, head_dim: int) -> Float32[np.ndarray, " pairs"]:
    """Return theta^(-2i / head_dim) for the pairs i = 0, 1, …, head_dim / 2 - 1."""
    return (theta ** -(np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)


def rotate(qkv: Float[Array, "batch length qkv"], rotary: Rotary, heads: int) -> Float[Array, "batch length qkv"]:
    """Return queries and keys rotated by their positions, and values unchanged.

    Pair i of a head consists of its coordinates i and i + head_dim / 2. Angles and rotations are float32.

    Args:
      qkv: queries, keys and values of all heads, side by side.
      rotary: positions and frequencies.
      heads: number of heads.
    """
    batch, length, _ = qkv.shape
    pairs = rotary.frequencies.shape[0]
    parts = qkv.reshape(batch, length, 3, heads, 2, pairs)
    angles = rotary.positions[:, :, None] * rotary.frequencies
    cosine, sine = (function(angles)[:, :, None, None] for function in (jnp.cos, jnp.sin))
    first, second = (parts[:, :, :2, :, half].astype(jnp.float32) for half in (0, 1))
    rotated = jnp.stack([first * cosine - second * sine, second * cosine + first * sine], axis=4)
    return jnp.concatenate([rotated.astype(qkv.dtype), parts[:, :, 2:]], axis=2).reshape(qkv.shape)


def near(rotary: Rotary) -> Bool[Array, "#batch length length"]:
    """Return which pairs of positions are at most `rotary.reach` apart."""
    positions = rotary.positions
    return jnp.abs(positions[:, :, None] - positions[:, None, :]) <= rotary.reach
