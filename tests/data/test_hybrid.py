import numpy as np
import pytest

from jaxretr.data.hybrid import CROSS_LINGUAL, MONOLINGUAL, HybridPlan
from jaxretr.data.pair_index import PairIndex

LANGUAGES = ("en", "de", "el", "ru")


@pytest.fixture(scope="module")
def index() -> PairIndex:
    """300 passages with two queries each; three in ten records are missing."""
    rng = np.random.default_rng(0)
    rows = np.arange(600 * 4, dtype=np.int32).reshape(600, 4)
    rows[rng.random(rows.shape) < 0.3] = -1
    return PairIndex(LANGUAGES, rows, np.repeat(np.arange(300, dtype=np.int32), 2))


def plan(index: PairIndex, **changes) -> HybridPlan:
    return HybridPlan(index, **({"steps": 400, "batch_size": 32, "alpha": 0.5} | changes))


def language(rows: np.ndarray) -> np.ndarray:
    return rows % 4


@pytest.mark.parametrize("pairs_per", ["example", "batch"])
def test_every_batch_is_of_one_kind(index: PairIndex, pairs_per: str) -> None:
    for batch in plan(index, pairs_per=pairs_per):
        asked, answered = language(batch.query_rows), language(batch.passage_rows)
        if batch.kind == MONOLINGUAL:
            assert len({*asked, *answered}) == 1
        else:
            assert batch.kind == CROSS_LINGUAL
            assert (asked != answered).all()
            assert pairs_per == "example" or len({*zip(asked, answered, strict=True)}) == 1


@pytest.mark.parametrize("pairs_per", ["example", "batch"])
def test_rows_exist_and_query_and_passage_belong_together(index: PairIndex, pairs_per: str) -> None:
    for batch in plan(index, pairs_per=pairs_per):
        assert (batch.query_rows >= 0).all() and (batch.passage_rows >= 0).all()
        np.testing.assert_array_equal(batch.query_rows // 4, batch.passage_rows // 4)
        assert np.isin(batch.query_rows, index.rows).all() and np.isin(batch.passage_rows, index.rows).all()


def test_no_passage_twice_in_a_batch_in_any_language(index: PairIndex) -> None:
    for batch in plan(index):
        assert len(np.unique(batch.query_rows // 8)) == 32  # two examples of four rows a passage


def test_a_batch_is_a_function_of_seed_and_step(index: PairIndex) -> None:
    short, long, other = plan(index, steps=50), plan(index, steps=400), plan(index, steps=50, seed=1)
    for step in (49, 0, 7):  # in any order
        np.testing.assert_array_equal(short[step].query_rows, long[step].query_rows)
        np.testing.assert_array_equal(short[step].passage_rows, long[step].passage_rows)
    assert any((a.query_rows != b.query_rows).any() for a, b in zip(short, other, strict=True))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_alpha_is_the_share_of_monolingual_batches(index: PairIndex, alpha: float) -> None:
    share = np.mean([batch.kind == MONOLINGUAL for batch in plan(index, alpha=alpha, steps=2000)])
    assert share == pytest.approx(alpha, abs=4 * np.sqrt(alpha * (1 - alpha) / 2000))


def test_an_epoch_of_a_stream_shows_every_passage_once_and_the_next_its_other_query() -> None:
    rows = np.arange(64, dtype=np.int32)[:, None]
    index = PairIndex(("en",), rows, np.repeat(np.arange(32, dtype=np.int32), 2))
    seen = [
        np.concatenate([b.query_rows for b in list(plan(index, alpha=1.0, batch_size=8, steps=8))[e : e + 4]])
        for e in (0, 4)
    ]
    for epoch in seen:
        np.testing.assert_array_equal(np.sort(epoch // 2), np.arange(32))
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(64))
    assert (seen[0] // 2 != seen[1] // 2).any()  # shuffled anew


def test_language_draw_by_size() -> None:
    rows = np.arange(4000, dtype=np.int32).reshape(1000, 4)
    rows[200:, 1:] = -1  # en 1000, the others 200
    index = PairIndex(LANGUAGES, rows, np.arange(1000, dtype=np.int32))
    for exponent, expected in ((0.0, 1 / 4), (1.0, 5 / 8), (0.5, np.sqrt(5) / (np.sqrt(5) + 3))):
        batches = plan(index, alpha=1.0, language_exponent=exponent, steps=3000)
        share = np.mean([language(batches[i].query_rows)[0] == 0 for i in range(3000)])
        assert share == pytest.approx(expected, abs=0.04)


def test_cross_lingual_pairs_are_drawn_uniformly_over_the_languages_there_are() -> None:
    rows = np.arange(2000, dtype=np.int32).reshape(500, 4)
    index = PairIndex(LANGUAGES, rows, np.arange(500, dtype=np.int32))
    counts = np.zeros((4, 4))
    for batch in plan(index, alpha=0.0):
        np.add.at(counts, (language(batch.query_rows), language(batch.passage_rows)), 1)
    assert (np.diag(counts) == 0).all()
    np.testing.assert_allclose(counts[~np.eye(4, dtype=bool)] / counts.sum(), 1 / 12, rtol=0.15)


def test_too_few_passages_for_a_batch_is_an_error_that_says_where(index: PairIndex) -> None:
    with pytest.raises(
        ValueError, match=r"monolingual batch of 300 needs 300 .*, but the data in en has \d+; lower train.batch_size"
    ):
        plan(index, batch_size=300, alpha=1.0)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_translations_are_of_the_same_example_and_kind(index: PairIndex, alpha: float) -> None:
    for batch in plan(index, alpha=alpha, translations=2, steps=40):
        asked, answered = batch.query_translations, batch.passage_translations
        assert asked.shape == answered.shape == (32, 2)
        assert np.isin(asked, index.rows).all() and np.isin(answered, index.rows).all()
        np.testing.assert_array_equal(asked // 4, np.repeat(batch.query_rows[:, None] // 4, 2, axis=1))
        np.testing.assert_array_equal(asked // 4, answered // 4)
        assert ((language(asked) == language(answered)) == (batch.kind == MONOLINGUAL)).all()


def test_translations_are_different_pairs_of_languages_as_long_as_there_are_any(index: PairIndex) -> None:
    for batch in plan(index, alpha=1.0, translations=3, steps=40):
        for row, others in zip(batch.query_rows, batch.query_translations, strict=True):
            there = index.rows[row // 4]
            assert set(others.tolist()) | {int(row)} == set(there[there >= 0].tolist())


def test_translations_change_nothing_else_of_a_plan_and_are_uniform() -> None:
    rows = np.arange(2000, dtype=np.int32).reshape(500, 4)
    index = PairIndex(LANGUAGES, rows, np.arange(500, dtype=np.int32))
    counts = np.zeros((4, 4))
    for batch, without in zip(plan(index, translations=1), plan(index), strict=True):
        np.testing.assert_array_equal(batch.query_rows, without.query_rows)
        np.testing.assert_array_equal(batch.passage_rows, without.passage_rows)
        assert without.query_translations is None and without.passage_translations is None
        if batch.kind == CROSS_LINGUAL:
            np.add.at(counts, (language(batch.query_translations[:, 0]), language(batch.passage_translations[:, 0])), 1)
    assert (np.diag(counts) == 0).all()
    np.testing.assert_allclose(counts[~np.eye(4, dtype=bool)] / counts.sum(), 1 / 12, rtol=0.15)
