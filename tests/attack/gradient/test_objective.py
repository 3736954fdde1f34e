"""What attacks maximise, on a small transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxretr.attack.gradient import FGM, PGD, InfoNCE, Margin, QueryObjective, Target
from jaxretr.attack.gradient.objective import (
    LanguageObjective,
    LanguageTarget,
    PassageObjective,
    PassageTarget,
    SplitEncoder,
)
from jaxretr.model.functions import functions, init_params
from jaxretr.perturb import balls
from tests.attack.gradient import reference
from tests.attack.gradient.models import keys, normal
from tests.tiny import TINY

QUERIES, LENGTH, PASSAGES = 4, 6, 12
ENCODER = SplitEncoder(functions(TINY))
OBJECTIVE = QueryObjective(ENCODER, Margin())


@pytest.fixture(scope="module")
def batch() -> tuple[Target, jax.Array, jax.Array, jax.Array]:
    """A target in which every query retrieves its passage, clean embeddings, what may be attacked, and token ids."""
    params = jax.tree.map(lambda leaf: leaf * 5 if leaf.ndim > 1 else leaf, init_params(TINY, jax.random.key(0)))
    lengths = np.array([[3], [4], [5], [6]])
    mask = np.arange(LENGTH) < lengths
    ids = np.where(mask, np.random.default_rng(0).integers(7, TINY.vocab_size, (QUERIES, LENGTH)), TINY.pad_token_id)
    ids[:, 0], ids[np.arange(QUERIES), lengths[:, 0] - 1] = 0, 2
    queries = np.asarray(ENCODER.functions.encode_ids(params, jnp.asarray(ids), jnp.asarray(mask)))
    passages = normal(1, PASSAGES, TINY.hidden_size)
    passages[:QUERIES] = queries + 0.5 * passages[:QUERIES] / np.linalg.norm(passages[:QUERIES], axis=1, keepdims=True)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    relevant = np.eye(QUERIES, PASSAGES, dtype=bool)
    shared = np.broadcast_to(passages, (QUERIES, *passages.shape))
    target = Target(params, *map(jnp.asarray, (mask, shared, relevant, ~relevant)))
    free = balls.attackable(jnp.asarray(ids), jnp.asarray(mask), (0, 1, 2))
    return target, ENCODER.functions.embed_tokens(params, jnp.asarray(ids)), free, jnp.asarray(ids)


def test_the_gradient_is_that_of_finite_differences_in_float64(batch) -> None:
    target, embeds, _, _ = batch
    objective = QueryObjective(ENCODER, InfoNCE(0.2))
    gradient = np.asarray(jax.grad(lambda x: objective(target, x).sum())(embeds))
    mask, passages = np.asarray(target.mask), np.asarray(target.passages, np.float64)

    def loss(x: np.ndarray) -> np.ndarray:
        scores = np.einsum("qd,qpd->qp", reference.encode(TINY, target.params, x, mask), passages) / 0.2
        return special.logsumexp(scores, axis=1) - scores[np.asarray(target.relevant)]

    clean = np.asarray(embeds, np.float64)
    np.testing.assert_allclose(objective(target, embeds), loss(clean), rtol=1e-4)
    for seed in range(3):
        direction = normal(seed, *clean.shape).astype(np.float64)
        difference = (loss(clean + 1e-6 * direction) - loss(clean - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2)), difference, rtol=1e-3, atol=1e-4)


def test_without_a_budget_scores_are_the_clean_ones_bit_for_bit(batch) -> None:
    target, embeds, free, _ = batch
    for delta in (
        FGM(OBJECTIVE, target, embeds, free, 0.0, keys(0, QUERIES), norm="token_l2").delta,
        PGD(OBJECTIVE, target, embeds, free, 0.0, keys(0, QUERIES), norm="token_l2", steps=3).delta,
    ):
        np.testing.assert_array_equal(OBJECTIVE.scores(target, embeds + delta), OBJECTIVE.scores(target, embeds))


def test_both_layers_encode_alike_and_the_first_layer_reads_unit_variance(batch) -> None:
    target, embeds, _, ids = batch
    after = SplitEncoder(ENCODER.functions, "post_ln")
    vectors = after.clean(target.params, ids, target.mask)
    np.testing.assert_allclose(np.var(vectors, axis=2)[np.asarray(target.mask)], 1, rtol=1e-2)
    np.testing.assert_allclose(
        after.encode(target.params, vectors, target.mask),
        ENCODER.encode(target.params, embeds, target.mask),
        rtol=1e-6,
        atol=1e-6,
    )
    np.testing.assert_array_equal(ENCODER.clean(target.params, ids, target.mask), embeds)


def test_the_margin_at_k_is_positive_where_the_relevant_passage_leaves_the_top_k() -> None:
    scores = normal(5, 50, 12)
    relevant = np.zeros((50, 12), bool)
    relevant[:, [0, 7]] = True
    irrelevant = ~relevant
    irrelevant[:, 3] = False  # neither
    for k in (1, 4):
        value = Margin(k)(jnp.asarray(scores), jnp.asarray(relevant), jnp.asarray(irrelevant))
        ahead = (np.where(irrelevant, scores, -np.inf) > scores[:, [0, 7]].max(axis=1)[:, None]).sum(axis=1)
        np.testing.assert_array_equal(np.asarray(value) > 0, ahead >= k)


def test_language_mass_in_closed_form(batch) -> None:
    target, embeds, _, _ = batch
    favoured = np.zeros((QUERIES, PASSAGES), bool)
    favoured[:, 2:5] = True
    scores = np.asarray(OBJECTIVE.scores(target, embeds), np.float64)
    floor = scores[:, 0] + 0.1
    relevant = np.zeros_like(favoured)
    relevant[:, 0] = True
    objective = LanguageObjective(ENCODER, temperature=0.1, weight=2.0)
    fixed = LanguageTarget(
        target.params, target.mask, target.passages, *map(jnp.asarray, (favoured, ~favoured, relevant)),
        jnp.asarray(floor, jnp.float32),
    )  # fmt: skip
    mass = [special.logsumexp(np.where(marks, scores / 0.1, -np.inf), axis=1) for marks in (favoured, ~favoured)]
    np.testing.assert_allclose(objective(fixed, embeds), mass[0] - mass[1] - 2 * 0.1 / 0.1, rtol=1e-4)


@pytest.mark.parametrize("promote", [True, False])
def test_a_passage_is_worth_its_score(batch, promote: bool) -> None:
    target, embeds, _, _ = batch
    queries = target.passages[:, 0]
    value = PassageObjective(ENCODER, promote)(PassageTarget(target.params, target.mask, queries), embeds)
    scores = np.sum(np.asarray(ENCODER.encode(target.params, embeds, target.mask)) * np.asarray(queries), axis=1)
    np.testing.assert_allclose(value, scores if promote else -scores, rtol=1e-5)
