"""Centring by language."""

import numpy as np
import pytest

from jaxretr.retrieval.calibration import Calibrated, language_means


def test_a_bias_towards_languages_goes() -> None:
    rng = np.random.default_rng(0)
    meaning = rng.standard_normal((400, 32))
    language = np.arange(2_000) % 5
    places = rng.standard_normal((5, 32))
    rows = (meaning[np.arange(2_000) // 5] + places[language]).astype(np.float32)
    centred = Calibrated(rows, language)[:]

    def own_share(passages: np.ndarray) -> float:
        """In the top 50, over queries that ask in language 2 for meanings 0 to 39."""
        best = np.argsort(-(meaning[:40] + places[2]) @ passages.T.astype(float), axis=1)[:, :50]
        return float(np.mean(language[best] == 2))

    assert own_share(rows) > 0.5
    assert own_share(centred) == pytest.approx(0.2, abs=0.06)
    query = meaning[7] + places[2]
    assert set(np.argsort(-(centred @ query))[:5]) == set(range(35, 40))


def test_the_means_are_those_of_numpy_drawn_to_all() -> None:
    rng = np.random.default_rng(1)
    rows, language = rng.standard_normal((30_000, 8)).astype(np.float32), np.r_[np.zeros(29_999, int), 1]
    centred = Calibrated(rows, language)
    np.testing.assert_allclose(rows[:9] - centred[:9], np.tile(rows[:-1].mean(0), (9, 1)), atol=1e-4)
    single = rows[-1:] - centred[29_999:30_000]
    np.testing.assert_allclose(single[0], (rows[-1] + 10 * rows.mean(0)) / 11, atol=1e-6)


def test_within_a_language_no_order_changes() -> None:
    rng = np.random.default_rng(2)
    rows, language, query = rng.standard_normal((300, 8)).astype(np.float32), np.arange(300) % 3, rng.standard_normal(8)
    before, after = rows @ query, Calibrated(rows, language)[:] @ query
    for number in range(3):
        assert (np.argsort(before[language == number]) == np.argsort(after[language == number])).all()


def test_without_passages_there_is_a_mean() -> None:
    assert (language_means(np.zeros((2, 3)), np.zeros(2, int)) == 0).all()
