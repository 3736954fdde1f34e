import dataclasses

import numpy as np
import pytest

from jaxretr.attack.token.engine import Engine
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.poisoned_queries import PoisonedQueries, reaches_top
from jaxretr.attack.token.poisoning import check_fits, cluster_means, poison
from jaxretr.attack.token.split import Split, disjoint_split
from jaxretr.attack.token.template import tokenization
from jaxretr.attack.token.transfer import poison_corpus
from jaxretr.attack.token.vocabulary import Vocabulary
from jaxretr.attack.victim import Victim
from jaxretr.model.encode import Encoder
from jaxretr.retrieval.hubness import kth_scores
from jaxretr.types import Passage, Query, RetrievalSet
from tests import tiny
from tests.attack.token import cases

K = 3


def collection() -> RetrievalSet:
    """Questions of one word about passages of three, in three languages."""
    keys = range(24)
    return RetrievalSet(
        name="words",
        queries=tuple(Query(f"q{i}", lang, f"{lang}{i}") for lang in tiny.LANGUAGES for i in keys),
        passages=tuple(
            Passage(f"p{i}", lang, f"{lang}{i} {lang}{i + 1} {lang}{i + 2}") for lang in tiny.LANGUAGES for i in keys
        ),
        qrels={f"q{i}": {f"{lang}:p{i}": 1 for lang in tiny.LANGUAGES} for i in keys},
    )


@pytest.fixture(scope="module")
def victim(encoder: Encoder) -> Victim:
    return Victim.of(encoder, collection(), "multi")


def test_clusters_are_means_of_queries(encoder: Encoder) -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 1, 8)).astype(np.float32)
    queries = np.concatenate([np.tile(one, (5, 1)), np.tile(other, (3, 1))]) + np.float32(0.01)
    means = cluster_means(queries, 2, seed=0)
    assert {tuple(row.round(4)) for row in means} == {tuple(row.round(4)) for row in (queries[0], queries[-1])}
    np.testing.assert_allclose(cluster_means(queries, 1, seed=0)[0], queries.mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match="8 queries cannot form 9 clusters"):
        cluster_means(queries, 9, seed=0)


def test_a_passage_counts_as_the_string_it_is(encoder: Encoder, german: np.ndarray) -> None:
    targets = cases.mean_queries(encoder, 3)
    schedule = cases.SCHEDULES["hotflip"]
    found = poison(encoder, targets, german, slots=5, schedule=schedule, forward_passes=200, seed=0)
    again = encoder.encode_document(found.strings, progress=False)
    np.testing.assert_allclose(found.values, np.sum(again * targets, axis=1), atol=1e-6)
    np.testing.assert_allclose(found.embeddings[:, 0], again, atol=1e-6)
    np.testing.assert_allclose(found.values, found.searched_values[-1], atol=2e-6)
    assert found.texts == tuple((string,) for string in found.strings)
    assert found.survives.all() and found.survival == 1
    assert all(word.startswith("de") for string in found.strings for word in string.split())
    assert np.all(found.forward_passes > 1 + 8 * 23) and np.all(found.forward_passes <= 200 + 8)
    start = found.searched_values[0]
    assert np.all(found.values > start)


def test_ids_that_the_tokenizer_reads_otherwise_are_told(encoder: Encoder) -> None:
    pieces = cases.pieces()
    targets = pieces.encode_query(["b", "a c"], progress=False)
    mask = Vocabulary.of(pieces).in_scripts("Latin", word_initial=False)  # ▁a, ▁b, ▁ab and c
    schedule = cases.SCHEDULES["hotflip"]
    found = poison(pieces, targets, mask, slots=6, schedule=schedule, forward_passes=60, seed=1)
    read = tokenization(pieces, "passage")(found.strings)
    assert [row[1:-1] == ids.tolist() for row, ids in zip(read, found.ids, strict=True)] == found.survives.tolist()
    embeddings = pieces.encode_document(found.strings, progress=False)
    np.testing.assert_allclose(found.values, np.sum(embeddings * targets, axis=1), atol=1e-6)


def test_success_is_what_ranking_the_poisoned_corpus_shows() -> None:
    random = np.random.default_rng(0)
    queries, passages, adversarial = (random.normal(size=(n, 6)).astype(np.float32) for n in (40, 50, 4))
    adversarial[0] = passages[7]  # ties stay behind
    for count in (1, 4):
        hit = reaches_top(queries, adversarial[:count], kth_scores(queries, passages, K))
        scores = np.concatenate([queries @ passages.T, queries @ adversarial[:count].T], axis=1)
        scores[:, 50] = scores[:, 7]
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        np.testing.assert_array_equal(hit, (ranked >= 50).any(axis=1))
        assert 0 < hit.mean() < 1


def test_transfer_is_success_on_the_held_out_queries_of_every_language(victim: Victim) -> None:
    split = disjoint_split(victim.collection, 0.5, seed=0)
    mask = Vocabulary.of(victim.encoder).admissible()
    settings = {
        "clusters": 2,
        "slots": 4,
        "schedule": cases.SCHEDULES["hotflip"],
        "forward_passes": 120,
        "seed": 0,
    }
    queries = PoisonedQueries.of(victim, split, ("en", "el"), K)
    found = poison_corpus(victim, queries, dict.fromkeys(("en", "el"), mask), **settings)
    assert found.matrix.shape == (2, 2)
    held_out = {victim.collection.queries[i].id for i in split.test}
    position = {query.id: i for i, query in enumerate(victim.collection.queries)}
    for (x, y), hits in found.hits.items():
        assert set(found.query_ids[y]) == {id for id in held_out if id.startswith(y)}
        queries = victim.queries[[position[id] for id in found.query_ids[y]]]
        corpus = np.concatenate(
            [victim.passages, victim.encoder.encode_document(found.passages[x].strings, progress=False)]
        )
        ranked = np.argsort(-(queries @ corpus.T), axis=1)[:, :K]
        np.testing.assert_array_equal(hits, (ranked >= len(victim.passages)).any(axis=1))
        assert found.matrix[found.languages.index(x), found.languages.index(y)] == hits.mean()
    assert found.matrix.max() > 0


def test_transfer_refuses_what_would_flatter_the_attack(victim: Victim, encoder: Encoder) -> None:
    everywhere = np.arange(len(victim.collection.queries))
    mask = Vocabulary.of(encoder).admissible()
    settings = {"clusters": 1, "forward_passes": 120, "seed": 0}
    with pytest.raises(ValueError, match=r"question 'q0' is on both sides"):
        PoisonedQueries.of(victim, Split(everywhere[:24], everywhere[24:]))
    split = disjoint_split(victim.collection, 0.5, seed=0)
    with pytest.raises(ValueError, match=r"there is no mask for the language 'de', only for en"):
        poison_corpus(victim, PoisonedQueries.of(victim, split, ("en", "de")), {"en": mask}, **settings)
    with pytest.raises(ValueError, match=r"there are no queries in the language 'fr', only for de, el, en"):
        PoisonedQueries.of(victim, split, ("fr",))
    with pytest.raises(ValueError, match=r"setting 'cross' has several corpora"):
        PoisonedQueries.of(Victim.of(encoder, collection(), "cross"), split)


def test_a_text_of_the_attackers_stays_and_its_trigger_is_optimized(encoder: Encoder, german: np.ndarray) -> None:
    targets = encoder.encode_query([f"en{i} en{i + 7}" for i in range(4)], progress=False)
    text = "el1 el2 el1"
    clean = targets @ encoder.encode_document([text], progress=False)[0]
    settings = {"slots": 3, "schedule": cases.SCHEDULES["hotflip"], "forward_passes": 200, "seed": 0}
    found = poison(encoder, targets, german, text=text, **settings)
    expected = [f"{text} {trigger}" for trigger in found.strings]
    assert [passage for (passage,) in found.texts] == expected
    attacked = np.sum(encoder.encode_document(expected, progress=False) * targets, axis=1)
    np.testing.assert_allclose(found.values, attacked, atol=1e-6)
    assert found.survives.all()
    assert np.mean(attacked) > np.mean(clean) + 0.02
    assert all(word.startswith("de") for trigger in found.strings for word in trigger.split())


def test_a_text_without_room_for_the_trigger_is_refused(encoder: Encoder) -> None:
    check_fits(encoder, "el1 el2", 3)
    with pytest.raises(
        ValueError, match=r"3 tokens does not fit.*keeps 0 of them; use fewer trigger tokens, a shorter"
    ):
        check_fits(encoder, "el1 " * 60, 3)


def test_without_a_budget_a_search_has_the_iterations_of_its_schedule(encoder: Encoder, german: np.ndarray) -> None:
    schedule = dataclasses.replace(cases.SCHEDULES["hotflip"], iterations=7)
    found = poison(encoder, cases.mean_queries(encoder, 1), german, slots=3, schedule=schedule, seed=0)
    assert len(found.searched_values) - 1 == 7
    engine = Engine(encoder.functions, Similarity(), schedule)
    for texts in (1, 3):
        for iterations in (0, 1, 7):
            passes = engine.passes(iterations, 3, 30, texts)
            assert engine.iterations(passes, 3, 30, texts) == iterations
            assert engine.iterations(passes - 1, 3, 30, texts) == max(0, iterations - 1)
