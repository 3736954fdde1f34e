"""The attacks on a small transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr.attack.embedding import InfoNCE, Margin, QueryObjective, Target, fgm, pgd
from jaxretr.model.functions import functions, init_params
from jaxretr.perturb import balls
from tests.attack.embedding.models import keys, normal
from tests.tiny import TINY

QUERIES, LENGTH, PASSAGES = 4, 6, 12
ENCODER = functions(TINY)
OBJECTIVE = QueryObjective(ENCODER, Margin())


@pytest.fixture(scope="module")
def batch() -> tuple[Target, jax.Array, jax.Array]:
    """A target in which every query retrieves its passage, clean embeddings and what may be attacked."""
    params = jax.tree.map(lambda leaf: leaf * 5 if leaf.ndim > 1 else leaf, init_params(TINY, jax.random.key(0)))
    lengths = np.array([[3], [4], [5], [6]])
    mask = np.arange(LENGTH) < lengths
    ids = np.where(mask, np.random.default_rng(0).integers(7, TINY.vocab_size, (QUERIES, LENGTH)), TINY.pad_token_id)
    ids[:, 0], ids[np.arange(QUERIES), lengths[:, 0] - 1] = 0, 2
    queries = np.asarray(ENCODER.encode_ids(params, jnp.asarray(ids), jnp.asarray(mask)))
    passages = normal(1, PASSAGES, TINY.hidden_size)
    passages[:QUERIES] = queries + 0.5 * passages[:QUERIES] / np.linalg.norm(passages[:QUERIES], axis=1, keepdims=True)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    relevant = np.eye(QUERIES, PASSAGES, dtype=bool)
    shared = np.broadcast_to(passages, (QUERIES, *passages.shape))
    target = Target(params, *map(jnp.asarray, (mask, shared, relevant, ~relevant)))
    free = balls.attackable(jnp.asarray(ids), jnp.asarray(mask), (0, 1, 2))
    return target, ENCODER.embed_tokens(params, jnp.asarray(ids)), free


def test_the_gradient_is_a_finite_difference(batch) -> None:
    target, embeds, _ = batch
    objective = QueryObjective(ENCODER, InfoNCE(0.2))
    gradient = jax.grad(lambda x: objective(target, x).sum())(embeds)
    direction = jnp.asarray(normal(2, *embeds.shape))
    both = [objective(target, embeds + sign * 1e-2 * direction) for sign in (1, -1)]
    np.testing.assert_allclose(jnp.sum(gradient * direction, axis=(1, 2)), (both[0] - both[1]) / 2e-2, rtol=2e-2)


def test_without_a_budget_scores_are_the_clean_ones_bit_for_bit(batch) -> None:
    target, embeds, free = batch
    for delta in (
        fgm(OBJECTIVE, target, embeds, free, 0.0, norm="token_l2").delta,
        pgd(OBJECTIVE, target, embeds, free, 0.0, keys(0, QUERIES), norm="token_l2", steps=3).delta,
    ):
        np.testing.assert_array_equal(OBJECTIVE.scores(target, embeds + delta), OBJECTIVE.scores(target, embeds))
