"""Objectives whose optimum is known, and a batch of made-up queries."""

import jax
import jax.numpy as jnp
import numpy as np

NORMS = ("token_l2", "linf", "frobenius")
QUERIES, LENGTH, HIDDEN = 5, 4, 3


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def some_attackable() -> np.ndarray:
    """Of each query another number of positions, never the first."""
    positions = np.arange(LENGTH)
    return (positions > 0) & (positions <= 1 + np.arange(QUERIES)[:, None] % (LENGTH - 1))


def keys(seed: int = 0, queries: int = QUERIES) -> jax.Array:
    return jax.random.split(jax.random.key(seed), queries)


def linear(weights: jax.Array, embeds: jax.Array) -> jax.Array:
    return jnp.sum(weights * embeds, axis=(1, 2))


def distance(context: tuple[jax.Array, jax.Array], embeds: jax.Array) -> jax.Array:
    """-||A x - b||² of each query: concave, so a local optimum is the optimum."""
    matrices, goals = context
    reached = jnp.einsum("qgn,qn->qg", matrices, embeds.reshape(len(embeds), -1))
    return -jnp.sum((reached - goals) ** 2, axis=1)


def pooled_margin(context: tuple[jax.Array, jax.Array], embeds: jax.Array) -> jax.Array:
    """The margin of pooled query vectors: queries of one position, of which passage 0 is the relevant one."""
    passages, relevant = context
    scores = embeds[:, 0] @ passages.T
    mine = jax.nn.one_hot(relevant, len(passages), dtype=bool)
    return jnp.max(scores, axis=1, where=~mine, initial=-jnp.inf) - jnp.max(
        scores, axis=1, where=mine, initial=-jnp.inf
    )
