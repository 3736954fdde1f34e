import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxretr.attack.gradient import PGD, pooled_radii
from tests.attack.gradient.models import keys, normal, pooled_margin

QUERIES, PASSAGES, DIM = 12, 60, 8


def unit(seed: int, *shape: int) -> np.ndarray:
    x = normal(seed, *shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def queries() -> np.ndarray:
    return unit(0, QUERIES, DIM)


@pytest.fixture
def passages() -> np.ndarray:
    return unit(1, PASSAGES, DIM)


@pytest.fixture
def best(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """The passage on top of each query's ranking is its relevant one."""
    return (queries @ passages.T).argmax(1)


def to_be_overtaken(query: np.ndarray, ahead: np.ndarray, relevant: np.ndarray) -> float:
    """By scipy, the length of the shortest change of `query` that ranks `ahead` before all of `relevant`."""
    differences = (ahead - relevant).astype(np.float64)
    found = optimize.minimize(
        lambda x: x @ x,
        np.full(len(query), 0.01),
        jac=lambda x: 2 * x,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: differences @ (query + x), "jac": lambda x: differences},
        options={"ftol": 1e-12},
    )
    assert found.success
    return float(np.sqrt(found.fun))


def test_scipy_finds_the_same_radii(queries: np.ndarray, passages: np.ndarray, best: np.ndarray) -> None:
    radii = pooled_radii(queries, passages, best[:, None], 3, passage_block=25)
    assert radii.dtype == np.float32 and radii.shape == (QUERIES, 3)
    for query, top, found in zip(queries[:4], best, radii, strict=False):
        others = np.delete(passages, top, axis=0)
        expected = sorted(to_be_overtaken(query, other, passages[top][None]) for other in others)[:3]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_an_answer_overtakes_with_its_nearest_translation(
    queries: np.ndarray, passages: np.ndarray, best: np.ndarray
) -> None:
    """Answers of one to three passages, spread over the blocks. The answer of the best passage has no other."""
    for query, top in zip(queries[:4], best, strict=False):
        others = np.random.default_rng(0).permutation(np.delete(np.arange(PASSAGES), top))
        answers = [
            [int(top)],
            *([a, b, c] for a, b, c in others[:51].reshape(-1, 3).tolist()),
            *([a] for a in others[51:]),
        ]
        members = np.array([[*answer, *[answer[0]] * (3 - len(answer))] for answer in answers])
        found = pooled_radii(query[None], passages, np.array([[top]]), 3, members=members)
        radii = [
            min(to_be_overtaken(query, passages[one], passages[top][None]) for one in answer) for answer in answers[1:]
        ]
        np.testing.assert_allclose(found[0], sorted(radii)[:3], rtol=1e-4)
        blocks = pooled_radii(query[None], passages, np.array([[top]]), 3, members=members, passage_block=20)
        np.testing.assert_allclose(blocks, found, rtol=1e-5)


def test_several_relevant_passages_give_a_lower_bound(queries: np.ndarray, passages: np.ndarray) -> None:
    order = np.argsort(-(queries @ passages.T), axis=1)
    relevant = order[:, :2].copy()
    relevant[::2, 1] = -1
    radii = pooled_radii(queries, passages, relevant)[:, 0]
    for query, row, found in zip(queries[:4], relevant, radii, strict=False):
        others = np.delete(passages, row[row >= 0], axis=0)
        exact = min(to_be_overtaken(query, other, passages[row[row >= 0]]) for other in others)
        assert found <= exact * (1 + 1e-4)
        if row[1] < 0:
            assert found == pytest.approx(exact, rel=1e-4)


def test_pgd_on_the_pooled_vector_meets_it_within_one_percent(
    queries: np.ndarray, passages: np.ndarray, best: np.ndarray
) -> None:
    radii = pooled_radii(queries, passages, best[:, None])[:, 0]
    context = (jnp.asarray(passages), jnp.asarray(best))
    arguments = (jnp.asarray(queries[:, None]), jnp.ones((QUERIES, 1), bool))

    def margins(share: float) -> np.ndarray:
        epsilon = jnp.asarray(share * radii)
        return np.asarray(
            PGD(
                pooled_margin, context, *arguments, epsilon, keys(0, QUERIES), norm="token_l2", steps=50, restarts=10
            ).loss
        )

    assert np.all(margins(1.01) > 0)
    assert np.all(margins(0.99) < 0)


def test_no_perturbation_below_the_radius_pushes_the_passage_out_of_the_top_k(
    queries: np.ndarray, passages: np.ndarray, best: np.ndarray
) -> None:
    k = 3
    radii = pooled_radii(queries, passages, best[:, None], k)
    draws = unit(2, 500, 1, DIM)
    for place in range(k):
        scores = (queries + 0.999 * radii[:, place, None] * draws) @ passages.T
        relevant = np.take_along_axis(scores, np.broadcast_to(best[None, :, None], (500, QUERIES, 1)), 2)
        assert np.sum(scores > relevant, axis=2).max() <= place


def test_blocks_change_nothing_and_radii_scale_with_the_query(
    queries: np.ndarray, passages: np.ndarray, best: np.ndarray
) -> None:
    whole = pooled_radii(queries, passages, best[:, None], 4)
    blocks = pooled_radii(queries, passages, best[:, None], 4, query_block=5, passage_block=17)
    np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled_radii(3 * queries, passages, best[:, None], 4), 3 * whole, rtol=1e-5, atol=1e-6)


def test_radii_are_negative_for_passages_ahead_and_infinite_for_copies() -> None:
    passages = np.float32([[1, 0], [0, 1], [1, 0]])
    radii = pooled_radii(np.float32([[0.6, 0.8]]), passages, np.array([[0]]), 2)
    np.testing.assert_allclose(radii, [[-0.2 / np.sqrt(2), np.inf]], rtol=1e-5)


def test_no_queries_no_radii(passages: np.ndarray) -> None:
    assert pooled_radii(np.empty((0, DIM), np.float32), passages, np.empty((0, 1), int), 2).shape == (0, 2)


def test_errors_name_what_is_wrong(queries: np.ndarray, passages: np.ndarray, best: np.ndarray) -> None:
    with pytest.raises(ValueError, match="k = 0; expected at least 1"):
        pooled_radii(queries, passages, best[:, None], 0)
    with pytest.raises(ValueError, match="8 dimensions and passage embeddings 5"):
        pooled_radii(queries, passages[:, :5], best[:, None])
    with pytest.raises(ValueError, match="from 60 to 60; expected 0 to 59"):
        pooled_radii(queries[:1], passages, np.array([[60]]))
    with pytest.raises(ValueError, match="query 1 has no relevant passage"):
        pooled_radii(queries[:2], passages, np.array([[0], [-1]]))
