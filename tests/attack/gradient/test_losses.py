import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxretr.attack.gradient.losses import InfoNCE, Loss, Margin, SmoothRank
from tests.attack.gradient.models import normal

RELEVANT = np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], bool)
IRRELEVANT = np.array([[0, 1, 1, 1, 1], [1, 0, 0, 1, 0], [1, 1, 0, 0, 0]], bool)
LOSSES = (InfoNCE(0.1), Margin(), SmoothRank(0.1))


def scores(seed: int = 0) -> np.ndarray:
    return normal(seed, 3, 5)


def value(loss: Loss, scores: np.ndarray) -> np.ndarray:
    return np.asarray(loss(jnp.asarray(scores), jnp.asarray(RELEVANT), jnp.asarray(IRRELEVANT)))


def test_info_nce_is_scipys() -> None:
    scaled = scores().astype(np.float64) / 0.1
    relevant = special.logsumexp(scaled, axis=1, b=RELEVANT)
    expected = special.logsumexp(scaled, axis=1, b=RELEVANT | IRRELEVANT) - relevant
    np.testing.assert_allclose(value(InfoNCE(0.1), scores()), expected, rtol=1e-5)


def test_margin_is_positive_where_an_irrelevant_passage_is_on_top() -> None:
    for seed in range(20):
        counted = np.where(RELEVANT | IRRELEVANT, scores(seed), -np.inf)
        on_top = np.take_along_axis(IRRELEVANT, counted.argmax(1)[:, None], 1)[:, 0]
        np.testing.assert_array_equal(value(Margin(), scores(seed)) > 0, on_top)


def test_smooth_rank_becomes_the_number_of_passages_ahead() -> None:
    s = scores()
    ahead = [np.sum(row[no] > row[yes].max()) for row, yes, no in zip(s, RELEVANT, IRRELEVANT, strict=True)]
    np.testing.assert_allclose(value(SmoothRank(1e-3), s), ahead, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_rise_when_relevant_passages_fall_and_ignore_unmarked_ones(loss: Loss) -> None:
    worse = scores() - 0.1 * RELEVANT
    assert np.all(value(loss, worse) > value(loss, scores()))
    other = np.where(RELEVANT | IRRELEVANT, scores(), 100).astype(np.float32)
    np.testing.assert_array_equal(value(loss, other), value(loss, scores()))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_differences_and_stay_within_a_query(loss: Loss) -> None:
    s = scores()
    jacobian = np.asarray(jax.jacobian(lambda s: loss(s, jnp.asarray(RELEVANT), jnp.asarray(IRRELEVANT)))(s))
    step = np.float32(1e-3)
    for query in range(3):
        for passage in range(5):
            moved = np.zeros_like(s)
            moved[query, passage] = step
            difference = (value(loss, s + moved) - value(loss, s - moved)) / (2 * step)
            np.testing.assert_allclose(jacobian[:, query, passage], difference, atol=2e-2, rtol=2e-2)
            assert not np.any(np.delete(jacobian[:, query, passage], query))


def test_info_nce_keeps_a_gradient_where_cross_entropy_rounds_to_zero() -> None:
    """A lead of .8 at temperature .02: exp(-40) is lost next to 1 in float32."""
    s, yes = jnp.array([[0.9, 0.1]]), jnp.array([[True, False]])
    slope = jax.grad(lambda s: InfoNCE(0.02)(s, yes, ~yes).sum())(s)
    np.testing.assert_allclose(slope[0, 1], np.exp(-40.0) / 0.02, rtol=1e-3)
    usual = jax.nn.logsumexp(s / 0.02, axis=1) - s[:, 0] / 0.02
    assert float(usual[0]) == 0


def test_equal_losses_are_equal_and_hash_equal() -> None:
    assert InfoNCE(0.1) == InfoNCE(0.1) != InfoNCE(0.2)
    assert len({Margin(), Margin(), SmoothRank(1.0), SmoothRank(1.0)}) == 2
