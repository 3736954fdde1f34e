import numpy as np

from jaxretr.eval.bias import own_language_share, rank_distance


def test_rank_distance_is_the_spread_of_the_relevant_ranks() -> None:
    query = np.array([0, 0, 0, 1, 1, 2, 2, 4])
    rank = np.array([7, 2, 30, 1, 2, 5, 9, 3])
    grade = np.array([1, 2, 1, 1, 1, 1, 0, 0])
    # Query 2 has one relevant passage, 3 no judgement, 4 no relevant passage: no distance.
    np.testing.assert_array_equal(rank_distance(query, rank, grade, 5), [28, 1, np.nan, np.nan, np.nan])


def test_own_language_share_counts_the_top() -> None:
    is_own = np.array([[True, True, False, False], [False] * 4, [True] * 4])
    np.testing.assert_array_equal(own_language_share(is_own), [0.5, 0, 1])
