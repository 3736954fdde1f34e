"""Attacks on many texts: every text on its own, whatever its batch and device; what cannot be attacked is an error."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr.attack.gradient.apgd import APGD
from jaxretr.attack.gradient.attack import GradientAttack, Scale, measure_scale, special_ids
from jaxretr.attack.gradient.black_box import BLACK_BOX, RANDOM
from jaxretr.attack.gradient.losses import Margin
from jaxretr.attack.gradient.passages import PROMOTED_FROM, attack_passages, attacked_passages
from jaxretr.attack.gradient.pgd import FGM, PGD
from jaxretr.attack.gradient.queries import attack_language_bias, attack_queries, token_directions
from jaxretr.attack.gradient.space import Algorithm
from jaxretr.attack.gradient.targeted import FROM_LANGUAGE, TARGETED
from jaxretr.attack.victim import Victim, margin, relevant_passages
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import EncoderFunctions
from jaxretr.types import RetrievalSet
from tests.attack.parallel_questions import collection, encoder, victim
from tests.compilations import compilation_events

ATTACK = GradientAttack(PGD, steps=4)
LOSS = Margin(3)


def scale() -> Scale:
    return measure_scale(encoder(), encoder().query_tokenization([q.text for q in collection().queries]), "word")


def with_functions(functions: EncoderFunctions) -> Victim:
    made = Encoder(functions, encoder().params, encoder().tokenizer, query_prefix="query: ", passage_prefix="passage: ")
    return dataclasses.replace(victim(), encoder=made)


def test_the_scale_is_the_mean_norm_of_tokens_that_are_not_special() -> None:
    texts = ["en1 en2 de3", "el7"]
    ids = encoder().query_tokenization(texts)
    table = np.asarray(encoder().params["embeddings"]["word"]["embedding"])
    tokens = [token for row in ids for token in row if token not in special_ids(encoder())]
    assert len(tokens) == 4 + 2  # "query:" before each
    found = measure_scale(encoder(), ids, "word")
    assert found.row_norm == pytest.approx(np.linalg.norm(table[tokens], axis=1).mean(), rel=1e-5)
    distances = np.linalg.norm(table[sorted(set(tokens))][:, None] - table[None], axis=2)
    distances[np.arange(len(set(tokens))), sorted(set(tokens))] = np.inf
    assert found.nearest_row == pytest.approx(np.median(distances.min(axis=1)), rel=1e-4)
    assert np.isnan(measure_scale(encoder(), ids, "post_ln").nearest_row)


@pytest.mark.parametrize("layer", ["word", "post_ln"])
def test_perturbations_stay_in_their_ball_and_off_special_tokens(layer: str) -> None:
    task = victim().tasks[0]
    attack = dataclasses.replace(ATTACK, layer=layer)
    (found,) = attack_queries(victim(), [task], attack, rho=0.5, scale=Scale(2.0, 1.0), loss=LOSS, seed=0)
    ids = encoder().query_tokenization([query.text for query in victim().queries_of(task)])
    for row, delta in zip(ids, found.deltas, strict=True):
        assert delta.shape == (len(row), encoder().dim)
        special = np.isin(row, special_ids(encoder()))
        assert special.sum() == 2 and not delta[special].any()
        lengths = np.linalg.norm(delta[~special], axis=1)
        assert np.all(lengths <= 1.0 + 1e-5) and lengths.max() > 0.5
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, rtol=1e-5)


def test_a_task_does_not_depend_on_the_tasks_attacked_with_it() -> None:
    """In the second task, other queries search another corpus with other numbers of relevant passages."""
    attack = GradientAttack(FROM_LANGUAGE, steps=2)
    settings = {"rho": 0.3, "scale": scale(), "loss": LOSS, "seed": 0}
    more = Victim.of(encoder(), two_answers(), "cross")
    by_languages = {(task.query_language, task.corpus_language): task for task in more.tasks}
    tasks = [by_languages["de", "el"].restricted([0, 1]), by_languages["el", "en"].restricted([0, 1, 2])]
    assert len({more.candidates(task).passages.shape[1] for task in tasks}) == 2
    together = attack_queries(more, tasks, attack, **settings)
    for task, result in zip(tasks, together, strict=True):
        (alone,) = attack_queries(more, [task], attack, **settings)
        np.testing.assert_allclose(result.embeddings, alone.embeddings, atol=1e-4)
        for delta, expected in zip(result.deltas, alone.deltas, strict=True):
            np.testing.assert_allclose(delta, expected, atol=1e-4)
        assert result.task is task and not np.allclose(result.embeddings, more.queries[task.queries], atol=1e-3)


def two_answers() -> RetrievalSet:
    """The collection, in which the first question has a second answer in English."""
    qrels = dict(collection().qrels)
    first = next(iter(qrels))
    second = next(id for id in collection().passage_ids if id.startswith("en:") and id not in qrels[first])
    return dataclasses.replace(collection(), qrels=qrels | {first: qrels[first] | {second: 1}})


def test_a_query_does_not_depend_on_its_batch() -> None:
    task = victim().tasks[0]
    (whole,) = attack_queries(victim(), [task], ATTACK, rho=0.3, scale=scale(), loss=LOSS, seed=0)
    (found,) = attack_queries(victim(), [task.restricted([2])], ATTACK, rho=0.3, scale=scale(), loss=LOSS, seed=0)
    np.testing.assert_allclose(found.deltas[0], whole.deltas[2], atol=1e-4)
    np.testing.assert_allclose(found.embeddings[0], whole.embeddings[2], atol=1e-4)


def test_without_a_budget_the_queries_are_the_clean_ones() -> None:
    task = victim().tasks[0]
    for algorithm in (RANDOM, APGD):
        attack = GradientAttack(algorithm, steps=2)
        (found,) = attack_queries(victim(), [task], attack, rho=0.0, scale=scale(), loss=LOSS, seed=0)
        np.testing.assert_allclose(found.embeddings, victim().queries[task.queries], atol=1e-6)
        assert not any(delta.any() for delta in found.deltas)


def test_directions_lead_from_the_mean_token_of_one_language_to_those_of_the_others() -> None:
    found = token_directions(victim(), "en", "word")
    table = np.asarray(encoder().params["embeddings"]["word"]["embedding"])
    means = {}
    for language in sorted({query.language for query in collection().queries}):
        ids = encoder().query_tokenization([q.text for q in collection().queries if q.language == language])
        means[language] = table[[token for row in ids for token in row if token not in special_ids(encoder())]].mean(0)
    own = means.pop("en")
    np.testing.assert_allclose(found, [mean - own for mean in means.values()], atol=1e-5)
    english = dataclasses.replace(
        collection(), queries=tuple(query for query in collection().queries if query.language == "en")
    )
    with pytest.raises(ValueError, match="all queries are in en; the attack from_language needs questions in several"):
        token_directions(dataclasses.replace(victim(), collection=english), "en", "word")


@pytest.mark.parametrize("algorithm", [TARGETED, FROM_LANGUAGE, BLACK_BOX])
def test_further_searches_find_losses_that_random_points_do_not(algorithm: Algorithm) -> None:
    task = victim().tasks[0]
    corpus, candidates = victim().corpus(task), victim().candidates(task)

    def margins(attack: GradientAttack) -> np.ndarray:
        (found,) = attack_queries(victim(), [task], attack, rho=0.2, scale=scale(), loss=Margin(10), seed=0)
        assert all(np.linalg.norm(delta, axis=1).max() <= 0.2 * scale().row_norm * 1.00001 for delta in found.deltas)
        return margin(found.embeddings, corpus, candidates, 10)

    found, drawn = margins(GradientAttack(algorithm, steps=9)), margins(GradientAttack(RANDOM, steps=100))
    assert np.all(found > drawn)


def test_a_search_without_a_gradient_beats_one_along_a_reversed_gradient() -> None:
    made = encoder().functions
    reversed_model = with_functions(Reversed(made.architecture, made.dtype, made.remat, made.dropout_rate))
    task = victim().tasks[0]
    corpus, candidates = victim().corpus(task), victim().candidates(task)
    blind, misled = (
        margin(
            attack_queries(
                reversed_model,
                [task],
                GradientAttack(algorithm, steps=9),
                rho=0.2,
                scale=scale(),
                loss=Margin(10),
                seed=0,
            )[0].embeddings,
            corpus,
            candidates,
            10,
        )
        for algorithm in (BLACK_BOX, PGD)
    )
    assert np.all(blind > misled)


@pytest.mark.parametrize("goal", ["demote", "promote"])
def test_an_attacked_passage_falls_or_rises(goal: str) -> None:
    task = victim().tasks[0]
    chosen = attacked_passages(victim(), task, goal)
    queries, corpus = victim().queries[task.queries], victim().corpus(task)
    for query, passage, own in zip(queries, chosen, relevant_passages(task), strict=True):
        scores = corpus @ query
        if goal == "demote":
            assert passage == own[np.argmax(scores[own])]
        else:  # the corpus is smaller than PROMOTED_FROM: the last of the irrelevant ones
            assert len(corpus) < PROMOTED_FROM
            assert passage == min(set(range(len(corpus))) - set(own.tolist()), key=scores.__getitem__)
    found = attack_passages(victim(), task, ATTACK, goal=goal, rho=0.5, scale=scale(), seed=0)
    before, after = (np.sum(queries * some, axis=1) for some in (corpus[chosen], found.embeddings))
    assert np.all(after > before) if goal == "promote" else np.all(after < before)


def test_the_own_language_fills_the_top_at_the_relevance_there_was() -> None:
    task = victim().tasks[0]
    found = attack_language_bias(victim(), task, ATTACK, rho=0.5, scale=scale(), seed=0)
    own = victim().pool.languages.index(task.query_language) == victim().pool.language_numbers()
    relevant = relevant_passages(task)

    def share_and_best(queries: np.ndarray) -> tuple[float, np.ndarray]:
        scores = queries @ victim().passages.T
        top = np.argsort(-scores, axis=1)[:, :10]
        return own[top].mean(), np.array([row[answers].max() for row, answers in zip(scores, relevant, strict=True)])

    (before, best_before), (after, best_after) = map(share_and_best, (victim().queries[task.queries], found.embeddings))
    assert after > before + 0.02  # most of the top is in the own language as it is
    assert np.all(best_after > best_before - 0.05)


@dataclasses.dataclass(frozen=True)
class Rounded(EncoderFunctions):
    """Embeddings rounded to 64ths: no gradient passes."""

    def encode(self, params, embeds, mask, key=None):
        return jnp.round(super().encode(params, embeds, mask, key) * 64) / 64


@dataclasses.dataclass(frozen=True)
class Reversed(EncoderFunctions):
    """The same embeddings, the opposite gradient."""

    def encode(self, params, embeds, mask, key=None):
        encoded = super().encode(params, embeds, mask, key)
        return 2 * jax.lax.stop_gradient(encoded) - encoded


def test_a_model_without_a_gradient_is_an_error() -> None:
    made = encoder().functions
    rounded = Rounded(made.architecture, made.dtype, made.remat, made.dropout_rate)
    with pytest.raises(ValueError, match="gradient is exactly zero at all 4 points of all 9 texts"):
        attack_queries(with_functions(rounded), [victim().tasks[1]], ATTACK, rho=0.1, scale=scale(), loss=LOSS, seed=0)


def test_negative_budgets_and_half_precision_are_errors() -> None:
    task = victim().tasks[0]
    with pytest.raises(ValueError, match="the radius is -.*; expected 0 or more"):
        attack_queries(victim(), [task], ATTACK, rho=-0.1, scale=scale(), loss=LOSS, seed=0)
    half = dataclasses.replace(encoder().functions, dtype="bfloat16")
    with pytest.raises(ValueError, match="attacks need float32"):
        Victim.of(with_functions(half).encoder, collection(), "multi")


def test_one_compilation_serves_all_budgets() -> None:
    task = victim().tasks[0]
    attack_queries(victim(), [task], ATTACK, rho=0.11, scale=scale(), loss=LOSS, seed=0)
    with compilation_events() as compiled:
        attack_queries(victim(), [task], ATTACK, rho=0.12, scale=scale(), loss=LOSS, seed=1)
    assert not compiled


def test_forward_passes_are_counted() -> None:
    assert GradientAttack(FGM).forward_passes == 4
    assert GradientAttack(PGD, steps=20, restarts=2).forward_passes == 2 * 61 + 1
    assert GradientAttack(APGD, steps=19).forward_passes == 61
    assert GradientAttack(RANDOM, steps=50).forward_passes == 51
    assert GradientAttack(TARGETED, steps=30).forward_passes == 9 * 32 + 2
    assert GradientAttack(FROM_LANGUAGE, steps=30).forward_passes == 92  # and one per direction
    assert GradientAttack(BLACK_BOX).forward_passes == 1_011
    (found,) = attack_queries(
        victim(), [victim().tasks[0]], GradientAttack(FROM_LANGUAGE, steps=2), rho=0.1, scale=scale(), loss=LOSS, seed=0
    )
    languages = {query.language for query in collection().queries}
    np.testing.assert_array_equal(found.forward_passes, 3 * 2 + 2 + len(languages) - 1)
