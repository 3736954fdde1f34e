"""The score of a pair, and how far matrix products may be from it."""

from fractions import Fraction

import numpy as np
import pytest

from jaxretr.retrieval.blocks import products_of
from jaxretr.retrieval.scores import largest_norm, pair_scores, rounding_error, scores_at


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exactly(query: np.ndarray, passage: np.ndarray) -> Fraction:
    return sum(Fraction(float(q)) * Fraction(float(p)) for q, p in zip(query, passage, strict=True))


@pytest.mark.parametrize("dim", [1, 7, 384])
def test_a_score_is_the_exact_inner_product_rounded_once(dim: int) -> None:
    queries, passages = normal((20, dim), 0), normal((20, dim), 1)
    expected = [np.float32(float(exactly(*pair))) for pair in zip(queries, passages, strict=True)]
    np.testing.assert_array_equal(pair_scores(queries, passages), expected)


@pytest.mark.parametrize("dim", [3, 384, 1_024])
def test_a_score_does_not_depend_on_what_stands_beside_it(dim: int) -> None:
    queries, passages = normal((40, dim), 2), normal((60, dim), 3)
    table = pair_scores(queries[:, None], passages)
    for start, size in ((0, 1), (3, 7), (20, 40)):
        np.testing.assert_array_equal(pair_scores(queries[5], passages[start : start + size]), table[5, start:][:size])
    columns = np.asfortranarray(passages)
    np.testing.assert_array_equal(pair_scores(queries[5], columns), table[5])
    query, passage = (grid.ravel() for grid in np.indices(table.shape))
    order = np.random.default_rng(4).permutation(len(query))
    found = scores_at(queries, passages, query[order], passage[order])
    np.testing.assert_array_equal(found, table[query, passage][order])


@pytest.mark.parametrize("dim", [1, 16, 384, 1_024])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_no_product_is_further_from_its_score_than_the_rounding_error(dim: int, scale: float) -> None:
    queries, passages = normal((32, dim), 5), scale * normal((256, dim), 6)
    queries[0], passages[0] = 1, -scale  # all terms have one sign
    passages[1] = scale * np.where(np.arange(dim) % 2, 1, -1) * np.abs(passages[1])
    scores = pair_scores(queries[:, None], passages)
    error = rounding_error(queries, largest_norm(passages))[:, None]
    for products in (queries @ passages.T, np.asarray(products_of(queries, passages))):
        assert (np.abs(products.astype(np.float64) - scores) <= error).all()
    assert (error <= 1e-3 * np.linalg.norm(queries, axis=1, keepdims=True) * largest_norm(passages)).all()
