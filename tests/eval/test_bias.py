from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxretr.eval.bias import (
    BIAS_MEASURES,
    BiasMeasure,
    PooledRanking,
    better,
    language_shares,
    max_rank,
    max_rank_norm,
    own_language_share,
    peer,
    rank_distance,
)

# Query 2 has one relevant passage, 3 no judgement, 4 no relevant passage.
QUERY = np.array([0, 0, 0, 1, 1, 2, 2, 4])
RANK = np.array([7, 2, 30, 1, 2, 5, 9, 3])
GRADE = np.array([1, 2, 1, 1, 1, 1, 0, 0])


def test_rank_distance_is_the_spread_of_the_relevant_ranks() -> None:
    np.testing.assert_array_equal(rank_distance(QUERY, RANK, GRADE, 5), [28, 1, np.nan, np.nan, np.nan])


def test_max_rank_is_the_last_relevant_rank() -> None:
    np.testing.assert_array_equal(max_rank(QUERY, RANK, GRADE, 5), [30, 2, 5, np.nan, np.nan])


def test_normalised_max_rank_by_hand() -> None:
    expected = [
        100 * (np.log2(32) - np.log2(30)) / (np.log2(32) - np.log2(3)),
        100,  # both relevant passages on top
        100 * (np.log2(32) - np.log2(5)) / np.log2(32),
        np.nan,
        np.nan,
    ]
    np.testing.assert_allclose(max_rank_norm(QUERY, RANK, GRADE, 5, 32), expected)


def test_normalised_max_rank_has_no_value_where_everything_is_relevant() -> None:
    ones = np.ones(2, int)
    np.testing.assert_array_equal(max_rank_norm(0 * ones, np.array([1, 2]), ones, 1, 2), [np.nan])
    np.testing.assert_array_equal(max_rank_norm(0 * ones, np.array([1, 3]), ones, 1, 3), [0])


def test_language_shares_count_the_top() -> None:
    shares = language_shares(np.array([[2, 0, 0, 2], [1, 1, 1, 1]]), 3)
    np.testing.assert_array_equal(shares, [[0.5, 0, 0.5], [0, 1, 0]])


def one_query_peer(ranks: list[int], languages: list[int], grades: list[int] | None = None) -> float:
    grade = np.ones(len(ranks), int) if grades is None else np.array(grades)
    return peer(np.zeros(len(ranks), int), np.array(ranks), grade, np.array(languages), 1)[0]


def test_peer_of_the_authors_program() -> None:
    """The value that github.com/hltcoe/peer_measure, at commit cb6fb77, gives with weights={1: 1} and cutoff 12."""
    languages = ["abcabc".index(d) for d in "abaabcacbcbc"]
    assert one_query_peer(list(range(1, 13)), languages) == pytest.approx(0.11829007781226486)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_peer_is_the_mean_p_value_of_scipys_kruskal_wallis_test(data: st.DataObject) -> None:
    judged = data.draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 400), st.integers(0, 2), st.integers(0, 3)),
            max_size=40,
            unique_by=lambda row: row[:2],
        )
    )
    expected = []
    for query in range(3):
        p = []
        for grade in (1, 2):
            of_grade = [row for row in judged if row[0] == query and row[2] == grade]
            groups = [[row[1] for row in of_grade if row[3] == language] for language in range(4)]
            groups = [group for group in groups if group]
            if len(groups) > 1 and max(map(len, groups)) > 1:
                p.append(stats.kruskal(*groups).pvalue)
        expected.append(np.mean(p) if p else np.nan)
    columns = np.array(judged, int).reshape(-1, 4).T
    np.testing.assert_allclose(peer(*columns, 3), expected)


def test_peer_tells_fair_from_unfair() -> None:
    interleaved = one_query_peer([1, 4, 5, 8, 2, 3, 6, 7], [0, 0, 0, 0, 1, 1, 1, 1])
    apart = one_query_peer([1, 2, 3, 4, 90, 91, 92, 93], [0, 0, 0, 0, 1, 1, 1, 1])
    assert interleaved == pytest.approx(1) and apart < 0.05


def test_peer_has_no_value_where_the_ranking_cannot_change_it() -> None:
    # One passage in each language: the statistic is n - 1 for any ranks, as scipy agrees.
    assert stats.kruskal([1], [7], [900]).pvalue == pytest.approx(stats.kruskal([900], [1], [7]).pvalue)
    assert np.isnan(one_query_peer([1, 7, 900], [0, 1, 2]))
    assert np.isnan(one_query_peer([1, 7, 900], [1, 1, 1]))
    assert np.isnan(one_query_peer([1, 7], [0, 1], grades=[0, 0]))


def test_own_language_share() -> None:
    top = np.array([[2, 0, 0, 2], [1, 1, 1, 1]])
    np.testing.assert_array_equal(own_language_share(top, 0), [0.5, 0])
    np.testing.assert_array_equal(own_language_share(top, None), [np.nan, np.nan])


@pytest.mark.parametrize("measure", BIAS_MEASURES.values(), ids=lambda measure: measure.name)
def test_each_measure_is_documented_and_has_a_value_per_query(measure: BiasMeasure) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    assert f"`{measure.name}`" in page and measure.source in page
    languages = np.array([0, 1, 0, 0, 1, 0, 1, 0])
    top = np.zeros((5, 10), int)
    values = measure.values(PooledRanking(QUERY, RANK, np.minimum(GRADE, 1), languages, top, 0, num_passages=32))
    assert values.shape == (5,) and not np.isnan(values).all()
    assert better(measure.name) == better(f"pgd@0.1 {measure.name}") == measure.better
