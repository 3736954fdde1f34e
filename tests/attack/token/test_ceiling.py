import dataclasses

import numpy as np
import pytest

from jaxretr.attack.token.ceiling import BestVectors, best_vectors, search_vectors
from jaxretr.attack.token.poisoned_queries import PoisonedQueries, Side
from jaxretr.attack.token.poisoning import cluster_means
from jaxretr.attack.token.split import disjoint_split
from jaxretr.attack.token.transfer import poison_corpus
from jaxretr.attack.token.vocabulary import Vocabulary
from jaxretr.attack.victim import Victim
from jaxretr.model.encode import Encoder
from tests.attack.token import cases
from tests.attack.token.test_poisoning import K, collection

DIM = 16


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def side(directions: np.ndarray, sizes: list[int], threshold: float) -> Side:
    """Clusters of queries around directions in the first coordinates, with a little noise."""
    centers = np.zeros((len(directions), DIM))
    centers[:, : directions.shape[1]] = directions
    noise = 0.02 * np.random.default_rng(0).normal(size=(sum(sizes), DIM))
    queries = unit(np.repeat(centers, sizes, axis=0) + noise)
    return Side(tuple(map(str, range(len(queries)))), queries, np.full(len(queries), threshold, np.float32))


def reached(queries: Side, passages: int, seed: int = 0) -> list[int]:
    return [int(queries.hits(vectors).sum()) for vectors in search_vectors(queries, passages, seed)]


def test_one_vector_serves_one_of_three_orthogonal_clusters() -> None:
    queries = side(np.eye(3), [5, 3, 2], 0.9)
    assert queries.hits(unit(cluster_means(queries.embeddings, 1, 0))).sum() == 0  # the mean is near none
    assert reached(queries, 4) == [5, 8, 10, 10]


def test_a_vector_between_two_clusters_serves_both() -> None:
    queries = side(np.array([[1, 0], [0.5, 3**0.5 / 2]]), [9, 1], 0.8)  # 60 degrees apart; the bisector has .87
    assert queries.hits(unit(cluster_means(queries.embeddings, 1, 0))).sum() == 9
    assert reached(queries, 1) == [10]


def test_vectors_have_length_one_and_follow_from_the_seed() -> None:
    queries = side(np.eye(3), [5, 3, 2], 0.9)
    first, again = ([*search_vectors(queries, 3, seed=4)] for _ in range(2))
    for number, (one, other) in enumerate(zip(first, again, strict=True), 1):
        assert one.shape == (number, DIM)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)


def test_more_vectors_than_queries_are_no_error() -> None:
    queries = side(np.eye(2), [1, 1], 0.9)
    assert reached(queries, 3) == [1, 2, 2]


@pytest.fixture(scope="module")
def victim(encoder: Encoder) -> Victim:
    return Victim.of(encoder, collection(), "multi")


@pytest.fixture(scope="module")
def found(victim: Victim) -> BestVectors:
    split = disjoint_split(victim.collection, 0.5, seed=0)
    return best_vectors(PoisonedQueries.of(victim, split, ("en", "el"), K), passages=3, seed=0)


def test_the_ceiling_is_at_least_that_of_the_mean_queries(found: BestVectors) -> None:
    for language, queries in found.queries.optimise.items():
        success = [queries.hits(vectors).mean() for vectors in found.vectors[language]]
        assert success == sorted(success)
        for number, share in enumerate(success, 1):
            assert share >= queries.hits(unit(cluster_means(queries.embeddings, number, 0))).mean()


@pytest.mark.parametrize("name", cases.SCHEDULES)
def test_no_passage_that_a_search_finds_exceeds_the_ceiling(found: BestVectors, victim: Victim, name: str) -> None:
    masks = dict.fromkeys(("en", "el"), Vocabulary.of(victim.encoder).admissible())
    schedule = dataclasses.replace(cases.SCHEDULES[name], iterations=5)
    settings = {"slots": 4, "schedule": schedule, "seed": 0}
    for clusters in (1, 3):
        triggers = poison_corpus(victim, found.queries, masks, clusters=clusters, **settings)
        for language, queries in found.queries.optimise.items():
            hits = queries.hits(triggers.passages[language].embeddings[:, 0])
            assert queries.hits(found.vectors[language][clusters - 1]).mean() >= hits.mean()


def test_the_summary_follows_from_the_hits(found: BestVectors) -> None:
    ceiling = found.ceiling
    assert ceiling.optimised_on == ceiling.tested_on == ("en", "el") and ceiling.k == K
    assert np.array(ceiling.success).shape == (3, 2, 2) and np.array(ceiling.optimised).shape == (3, 2)
    for (x, y), hits in found.hits.items():
        row, column = ceiling.optimised_on.index(x), ceiling.tested_on.index(y)
        assert ceiling.success[-1][row][column] == hits.mean()
        assert ceiling.queries[column] == len(hits) == len(found.query_ids[y])
    assert ceiling.optimised[-1][0] == found.queries.optimise["en"].hits(found.vectors["en"][-1]).mean()
