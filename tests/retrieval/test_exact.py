import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxretr.retrieval import blocks, exact, scores
from jaxretr.retrieval.embeddings import Subset
from jaxretr.retrieval.exact import ranks, search


def reference_order(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Full rankings in float64 numpy: score descending, then position ascending."""
    scores = queries.astype(np.float64) @ passages.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")


def normal(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(seed: int, passages: int) -> tuple[np.ndarray, np.ndarray]:
    """Small integers make exact products and many ties, negative zeros among them."""
    random = np.random.default_rng(seed)
    queries = random.choice(np.float32([-1, -0.0, 0, 1]), (5, 2))
    return queries, random.choice(np.float32([-1, -0.0, 0, 1, 2])[: random.integers(2, 6)], (passages, 2))


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks visit the same device, one after the other."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


@pytest.mark.parametrize(("passage_block", "query_block"), [(16_384, 256), (256, 256), (100, 3)])
def test_search_finds_the_top_k_of_numpy(passage_block: int, query_block: int) -> None:
    queries, passages = normal((40, 16), 0), normal((700, 16), 1)
    scores, positions = search(queries, passages, 12, passage_block=passage_block, query_block=query_block)
    expected = reference_order(queries, passages)[:, :12]
    assert scores.dtype == np.float32 and positions.dtype == np.int32
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ passages.T, expected, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("order", ["random", "best first", "best last", "equal"])
def test_search_is_exact_however_many_passages_of_a_block_enter_the_lists(order: str) -> None:
    """Blocks of more groups than the longest short list: with the best last every passage enters, then none does."""
    queries, passages = np.abs(normal((3, 4), 2)), normal((9_000, 4), 3)
    if order != "random":
        passages = np.abs(passages[:1]) * np.linspace(1, 2, len(passages), dtype=np.float32)[:, None]
    if order == "best first":
        passages = passages[::-1].copy()
    if order == "equal":
        passages[:] = passages[0]
    _, positions = search(queries, passages, 20, passage_block=2048)
    scores = queries @ passages.T
    np.testing.assert_array_equal(positions, np.argsort(-scores, axis=1, kind="stable")[:, :20])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([7, 600]))
def test_equal_scores_keep_the_order_of_the_passages(seed: int, k: int) -> None:
    queries, passages = integers(seed, 600)
    _, positions = search(queries, passages, k, passage_block=256)
    np.testing.assert_array_equal(positions, reference_order(queries, passages)[:, :k])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_ranks_are_the_inverse_of_the_full_ranking(seed: int) -> None:
    queries, passages = integers(seed, 300)
    order = reference_order(queries, passages)
    query, rank = (grid.ravel() for grid in np.indices(order.shape))
    found = ranks(queries, passages, query, order[query, rank], passage_block=256)
    np.testing.assert_array_equal(found, rank + 1)


def test_passages_of_equal_text_tie() -> None:
    """Equal embeddings score equally wherever they stand in the matrix product, so they keep their order."""
    queries, passages = normal((20, 384), 14), np.tile(normal((101, 384), 15), (3, 1))
    _, positions = search(queries, passages, 303, passage_block=250)
    copies = positions.reshape(20, 101, 3)
    np.testing.assert_array_equal(copies - copies[:, :, :1], np.broadcast_to([0, 101, 202], copies.shape))
    query, rank = (grid.ravel() for grid in np.indices(positions.shape))
    np.testing.assert_array_equal(ranks(queries, passages, query, positions[query, rank]), rank + 1)


def near_ties(dim: int, seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Passages in four kinds of company: copies, vectors that float32 products cannot tell apart, and opposites."""
    queries, base = normal((9, dim), seed), normal((80, dim), seed + 1)
    nudged = base * (1 + 2e-7 * np.random.default_rng(seed + 2).normal(size=base.shape))
    passages = scale * np.concatenate([base, nudged, base, -base]).astype(np.float32)
    return queries, passages[np.random.default_rng(seed + 3).permutation(len(passages))]


@pytest.mark.parametrize(("dim", "scale"), [(3, 1.0), (384, 1.0), (384, 50.0)])
def test_near_ties_fall_as_in_float64_whatever_the_blocks(dim: int, scale: float) -> None:
    queries, passages = near_ties(dim, 20, scale)
    scores = (queries.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")
    query, rank = (grid.ravel() for grid in np.indices(order.shape))
    for query_block, passage_block in ((512, 8_192), (3, 256)):
        blocks = {"query_block": query_block, "passage_block": passage_block}
        for k in (1, 30, len(passages)):
            np.testing.assert_array_equal(search(queries, passages, k, **blocks)[1], order[:, :k])
        np.testing.assert_array_equal(ranks(queries, passages, query, order[query, rank], **blocks), rank + 1)


def test_no_rounding_of_the_products_changes_a_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product is off by nearly all that is allowed, by another amount wherever it stands in its block."""
    queries, passages = near_ties(37, 30)  # no other test has compiled for this width
    largest = scores.largest_norm(passages)
    relative = float(scores.rounding_error(queries[:1], largest)[0] / np.linalg.norm(queries[0]) * 0.9)
    product_of = blocks.products_of.__wrapped__

    def rounded_badly(some_queries, some_passages):
        place = jnp.arange(len(some_queries))[:, None] * 7 + jnp.arange(len(some_passages))
        norms = jnp.linalg.norm(some_queries, axis=1, keepdims=True)
        return product_of(some_queries, some_passages) + relative * norms * jnp.sin(place.astype(jnp.float32))

    for module in (blocks, exact):
        monkeypatch.setattr(module, "products_of", rounded_badly)
    of_all = (queries.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-of_all, axis=1, kind="stable")
    np.testing.assert_array_equal(search(queries, passages, 30, passage_block=256)[1], order[:, :30])
    query, rank = (grid.ravel() for grid in np.indices(order.shape))
    found = ranks(queries, passages, query, order[query, rank], passage_block=256)
    np.testing.assert_array_equal(found, rank + 1)


def test_passages_ahead_of_a_score_are_counted_without_the_one_that_stands_there() -> None:
    queries, passages = near_ties(384, 40)
    random = np.random.default_rng(41)
    query, position, of_score = random.integers(0, 9, 200), *random.integers(0, len(passages), (2, 200))
    of_all = (queries.astype(np.float64) @ passages.astype(np.float64).T).astype(np.float32)
    score = of_all[query, of_score]
    others, row = of_all[query], np.arange(len(passages))
    is_ahead = (others > score[:, None]) | ((others == score[:, None]) & (row < position[:, None]))
    expected = (is_ahead & (row != position[:, None])).sum(1)
    found = exact.count_ahead(queries, passages, query, position, score, passage_block=256)
    np.testing.assert_array_equal(found, expected)


def test_ranks_of_unevenly_many_passages_per_query_come_in_the_order_asked() -> None:
    queries, passages = normal((700, 8), 2), normal((500, 8), 3)
    random = np.random.default_rng(4)
    query, passage = random.integers(0, 350, 2000), random.integers(0, 500, 2000)  # none for the other 350
    place = np.argsort(reference_order(queries, passages), axis=1)
    np.testing.assert_array_equal(ranks(queries, passages, query, passage), place[query, passage] + 1)


def test_ranks_do_not_depend_on_the_blocks() -> None:
    queries, passages = normal((70, 8), 5), np.tile(normal((250, 8), 6), (3, 1))
    query, passage = np.arange(70).repeat(3), np.random.default_rng(7).integers(0, 750, 210)
    expected = ranks(queries, passages, query, passage)
    np.testing.assert_array_equal(ranks(queries, passages, query, passage, query_block=32, passage_block=256), expected)


@pytest.mark.usefixtures("one_device")
def test_all_blocks_share_one_compilation() -> None:
    queries, passages = normal((65, 5), 7), normal((1030, 5), 8)
    before = exact._merge._cache_size()
    search(queries, passages, 4, passage_block=256, query_block=40)
    assert exact._merge._cache_size() - before == 1


@pytest.mark.usefixtures("one_device")
def test_only_blocks_of_the_corpus_are_read() -> None:
    class Recorded:
        shape = (2000, 4)
        read: list[slice] = []  # noqa: RUF012

        def __len__(self) -> int:
            return 2000

        def __getitem__(self, rows: slice, /) -> np.ndarray:
            self.read.append(rows)
            return passages[rows]

    queries, passages = normal((3, 4), 9), normal((2000, 4), 10)
    found = search(queries, Recorded(), 5, passage_block=512)[1]  # no array, so nothing but its slices can be read
    np.testing.assert_array_equal(found, reference_order(queries, passages)[:, :5])
    assert [rows.start for rows in Recorded.read] == [0, 512, 1024, 1536]
    Recorded.read.clear()
    rank = ranks(queries, Recorded(), np.repeat(np.arange(3), 5), found.ravel(), passage_block=512)
    np.testing.assert_array_equal(rank, np.tile(np.arange(1, 6), 3))
    assert [rows.start for rows in Recorded.read[-4:]] == [0, 512, 1024, 1536]


def test_a_memory_mapped_corpus_is_searched(tmp_path) -> None:
    queries, passages = normal((3, 4), 9), normal((50, 4), 10)
    np.save(tmp_path / "passages.npy", passages)
    mapped = np.load(tmp_path / "passages.npy", mmap_mode="r")
    np.testing.assert_array_equal(search(queries, mapped, 5)[1], reference_order(queries, passages)[:, :5])


def test_a_subset_is_searched_like_its_rows() -> None:
    queries, passages = normal((4, 6), 16), normal((40_000, 6), 17)
    positions = np.random.default_rng(18).permutation(40_000)[:300]
    subset = Subset(passages, positions)
    assert subset.shape == (300, 6) and len(subset) == 300
    np.testing.assert_array_equal(subset[10:200], passages[positions[10:200]])
    np.testing.assert_array_equal(subset[300:], passages[:0])
    np.testing.assert_array_equal(search(queries, subset, 7)[1], reference_order(queries, passages[positions])[:, :7])


def test_no_queries_give_empty_lists() -> None:
    scores, positions = search(np.empty((0, 4), np.float32), normal((5, 4), 11), 2)
    assert scores.shape == positions.shape == (0, 2)


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_names_the_limits(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} must lie between 1 and the number of passages, 5"):
        search(normal((2, 4), 12), normal((5, 4), 13), k)
