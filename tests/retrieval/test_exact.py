import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxretr.retrieval import exact
from jaxretr.retrieval.exact import ranks, search


def reference_order(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Full rankings in float64 numpy: score descending, then position ascending."""
    scores = queries.astype(np.float64) @ passages.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")


def normal(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Small integers make exact products and many ties, negative zeros among them; few sizes make few compilations.
integers = st.tuples(st.sampled_from([1, 5]), st.sampled_from([1, 9, 40])).flatmap(
    lambda sizes: st.tuples(
        hnp.arrays(np.float32, (sizes[0], 2), elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0])),
        hnp.arrays(np.float32, (sizes[1], 2), elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0])),
    )
)


@pytest.mark.parametrize(("passage_block", "query_block"), [(65_536, 256), (100, 256), (64, 3), (7, 1)])
def test_search_finds_the_top_k_of_numpy(passage_block: int, query_block: int) -> None:
    queries, passages = normal((10, 16), 0), normal((300, 16), 1)
    scores, positions = search(queries, passages, 12, passage_block=passage_block, query_block=query_block)
    expected = reference_order(queries, passages)[:, :12]
    assert scores.dtype == np.float32 and positions.dtype == np.int32
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ passages.T, expected, 1), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(integers, st.sampled_from([1, 7, 40]), st.sampled_from([4, 64]))
def test_equal_scores_keep_the_order_of_the_passages(pair: tuple[np.ndarray, np.ndarray], k: int, block: int) -> None:
    queries, passages = pair
    k = min(k, len(passages))
    _, positions = search(queries, passages, k, passage_block=block, query_block=8)
    np.testing.assert_array_equal(positions, reference_order(queries, passages)[:, :k])


@settings(deadline=None, max_examples=40)
@given(integers)
def test_ranks_are_the_inverse_of_the_full_ranking(pair: tuple[np.ndarray, np.ndarray]) -> None:
    queries, passages = pair
    order = reference_order(queries, passages)
    query, rank = (grid.ravel() for grid in np.indices(order.shape))
    found = ranks(queries, passages, query, order[query, rank])
    np.testing.assert_array_equal(found, rank + 1)


def test_passages_of_equal_text_tie() -> None:
    """Equal embeddings score equally wherever they stand in the matrix product, so they keep their order."""
    queries, passages = normal((20, 384), 14), np.tile(normal((101, 384), 15), (3, 1))
    _, positions = search(queries, passages, 303, passage_block=250)
    copies = positions.reshape(20, 101, 3)
    np.testing.assert_array_equal(copies - copies[:, :, :1], np.broadcast_to([0, 101, 202], copies.shape))
    query, rank = (grid.ravel() for grid in np.indices(positions.shape))
    np.testing.assert_array_equal(ranks(queries, passages, query, positions[query, rank]), rank + 1)


def test_ranks_of_unevenly_many_passages_per_query_come_in_the_order_asked() -> None:
    queries, passages = normal((700, 8), 2), normal((500, 8), 3)
    random = np.random.default_rng(4)
    query, passage = random.integers(0, 350, 2000), random.integers(0, 500, 2000)  # none for the other 350
    place = np.argsort(reference_order(queries, passages), axis=1)
    np.testing.assert_array_equal(ranks(queries, passages, query, passage), place[query, passage] + 1)


def test_ranks_do_not_depend_on_how_many_scores_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, passages = normal((9, 8), 5), normal((300, 8), 6)
    query, passage = np.arange(9), np.arange(9) * 30
    expected = ranks(queries, passages, query, passage)
    monkeypatch.setattr(exact, "_SCORES_AT_ONCE", 1)
    np.testing.assert_array_equal(ranks(queries, passages, query, passage), expected)


def test_all_blocks_share_one_compilation() -> None:
    queries, passages = normal((11, 5), 7), normal((103, 5), 8)
    before = exact._merge._cache_size()
    search(queries, passages, 4, passage_block=10, query_block=4)
    assert exact._merge._cache_size() - before == 1


def test_a_memory_mapped_corpus_is_searched(tmp_path) -> None:
    queries, passages = normal((3, 4), 9), normal((50, 4), 10)
    np.save(tmp_path / "passages.npy", passages)
    mapped = np.load(tmp_path / "passages.npy", mmap_mode="r")
    np.testing.assert_array_equal(search(queries, mapped, 5)[1], reference_order(queries, passages)[:, :5])


def test_no_queries_give_empty_lists() -> None:
    scores, positions = search(np.empty((0, 4), np.float32), normal((5, 4), 11), 2)
    assert scores.shape == positions.shape == (0, 2)


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_names_the_limits(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} must lie between 1 and the number of passages, 5"):
        search(normal((2, 4), 12), normal((5, 4), 13), k)
