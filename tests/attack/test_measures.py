"""Attacked rankings in the measures of evaluation, against re-ranking by hand."""

import dataclasses

import numpy as np
import pytest

from jaxretr.attack.measures import area, robustness
from jaxretr.attack.rankings import attacked_rankings
from jaxretr.attack.result import AttackResult, Trial
from jaxretr.attack.victim import Candidates, Victim, margin, relevant_passages
from jaxretr.eval.settings import Task
from tests.attack.parallel_questions import victim


def noise(
    budget: float | None, results: tuple[AttackResult, ...], attack: str = "noise", reference: bool = False
) -> Trial:
    return Trial(attack, "embedding", budget, "rho", reference, results=results)


def unit(seed: int, *shape: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def attacked(task: Task, embeddings: np.ndarray, changed: np.ndarray | None = None) -> AttackResult:
    queries = len(task.queries)
    return AttackResult(
        task,
        embeddings,
        changed=np.ones(queries, bool) if changed is None else changed,
        forward_passes=np.ones(queries),
    )


def mixed(weight: float, seed: int = 0) -> tuple[AttackResult, ...]:
    """Every query moved towards noise."""
    found = []
    for task in victim().tasks:
        moved = (1 - weight) * victim().queries[task.queries] + weight * unit(seed, len(task.queries), 16)
        found.append(attacked(task, moved / np.linalg.norm(moved, axis=1, keepdims=True)))
    return tuple(found)


def best_ranks(queries: np.ndarray, corpus: np.ndarray, relevant: list[np.ndarray]) -> np.ndarray:
    order = np.argsort(-(queries @ corpus.T), axis=1, kind="stable")
    return np.array([1 + np.isin(row, own).argmax() for row, own in zip(order, relevant, strict=True)])


def test_attacked_measures_are_those_of_the_attacked_ranking() -> None:
    trial = noise(0.5, mixed(0.5))
    tasks = robustness(victim(), [trial], measures=["RR"]).settings["multi"].tasks
    for task, one, found in zip(victim().tasks, trial.results, tasks, strict=True):
        relevant, corpus = relevant_passages(task), victim().corpus(task)
        before = best_ranks(victim().queries[task.queries], corpus, relevant)
        after = best_ranks(one.embeddings, corpus, relevant)
        np.testing.assert_allclose(found.per_query["RR"], 1 / before)
        np.testing.assert_allclose(found.per_query["noise@0.5 RR"], 1 / after)
        expected = np.where(before <= 10, after <= 10, np.nan)
        np.testing.assert_array_equal(found.per_query["noise@0.5 robust_success@10"], expected)
        assert np.any(found.per_query["noise@0.5 rank_distance"] != found.per_query["rank_distance"])


def test_queries_that_an_attack_cannot_change_have_no_value() -> None:
    changed = [np.arange(len(task.queries)) % 2 == 0 for task in victim().tasks]
    trial = noise(
        None,
        tuple(dataclasses.replace(one, changed=some) for one, some in zip(mixed(0.3), changed, strict=True)),
    )
    for some, task in zip(changed, robustness(victim(), [trial], measures=["AP"]).settings["multi"].tasks, strict=True):
        np.testing.assert_array_equal(np.isnan(task.per_query["noise AP"]), ~some)
        assert task.measures["noise AP"] == pytest.approx(task.per_query["noise AP"][some].mean())


def test_a_query_once_lost_stays_lost_along_the_ladder() -> None:
    """The second budget of three finds less than the first; the curve does not rise again."""
    ladder = [noise(rho, mixed(weight)) for rho, weight in ((0.01, 0.8), (0.1, 0.0), (1.0, 0.9))]
    (first, *_) = robustness(victim(), ladder, measures=["AP"]).settings["multi"].tasks
    curve = np.array([first.per_query[f"{trial.label} robust_success@10"] for trial in ladder])
    had = ~np.isnan(curve[0])
    lost_at_first = had & (curve[0] == 0)
    assert lost_at_first.any() and (had & (curve[0] == 1)).any()
    np.testing.assert_array_equal(curve[1], curve[0])
    assert not curve[2][lost_at_first].any()
    np.testing.assert_array_equal(first.per_query["noise smallest_budget"][lost_at_first], 0.01)
    # Trapezoids over two equal steps of the logarithm.
    by_hand = (curve[0] + 2 * curve[1] + curve[2]) / 4
    np.testing.assert_allclose(first.per_query["noise robust_success@10_area"], by_hand)


def test_the_area_is_that_of_scipy() -> None:
    budgets = [0.01, 0.03, 0.05, 0.2, 1.0]
    curve = np.random.default_rng(0).random((5, 7))
    from scipy import integrate

    expected = integrate.trapezoid(curve, np.log10(budgets), axis=0) / 2
    np.testing.assert_allclose(area(curve, budgets), expected)
    np.testing.assert_allclose(area(np.ones((5, 7)), budgets), 1)


def test_the_worst_case_is_the_worst_of_the_trials_that_count() -> None:
    trials = [
        noise(0.2, mixed(0.4), reference=True),
        noise(None, mixed(0.4, seed=1), "other", reference=True),
        noise(None, mixed(0.9, seed=2), "more"),
    ]
    for task in robustness(victim(), trials, measures=["AP"]).settings["multi"].tasks:
        of_trials = [task.per_query[name] for name in ("AP", "noise@0.2 AP", "other AP")]
        np.testing.assert_allclose(task.per_query["worst AP"], np.min(of_trials, axis=0))
        distances = [task.per_query[f"{name}rank_distance"] for name in ("", "noise@0.2 ", "other ")]
        np.testing.assert_allclose(task.per_query["worst rank_distance"], np.max(distances, axis=0))


@pytest.mark.parametrize("goal", ["demote", "promote"])
def test_each_query_meets_its_own_attacked_passage(goal: str) -> None:
    attacks = []
    for number, task in enumerate(victim().tasks):
        passages = np.random.default_rng(number).integers(0, task.num_passages, len(task.queries))
        made = unit(number, len(passages), 16)
        made[0] = victim().queries[task.queries[0]]  # one reaches the first rank
        attacks.append(
            AttackResult(
                task,
                made,
                changed=np.ones(len(passages), bool),
                forward_passes=np.ones(len(passages), np.float32),
                passages=passages,
                goal=goal,
            )
        )
    tasks = robustness(victim(), [noise(0.1, tuple(attacks), goal)], measures=["RR"]).settings["multi"].tasks
    for task, one, found in zip(victim().tasks, attacks, tasks, strict=True):
        for row, own in enumerate(relevant_passages(task)):
            corpus = victim().corpus(task).copy()
            corpus[one.passages[row]] = one.embeddings[row]
            order = np.argsort(-(corpus @ victim().queries[task.queries[row]]), kind="stable")
            assert found.per_query[f"{goal}@0.1 RR"][row] == pytest.approx(1 / (1 + np.isin(order, own).argmax()))
            if goal == "promote":
                rank = 1 + int(np.argmax(order == one.passages[row]))
                assert found.per_query["promote@0.1 promoted_rank"][row] == rank
                assert found.per_query["promote@0.1 promoted@10"][row] == (rank <= 10)


def with_copies() -> Victim:
    """The victim with every passage once more beside itself, as translations and boilerplate are, in 384 dimensions."""
    clean = unit(3, len(victim().passages), 384)
    clean[1::2] = clean[::2][: len(clean[1::2])]
    return dataclasses.replace(victim(), passages=clean, queries=unit(4, len(victim().queries), 384))


@pytest.mark.parametrize("replaced_by", ["itself", "its neighbour", "another"])
def test_a_replaced_passage_ties_with_its_copies(replaced_by: str) -> None:
    attacked_victim = with_copies()
    for task in attacked_victim.tasks:
        corpus, queries = attacked_victim.corpus(task), attacked_victim.queries[task.queries]
        own = np.random.default_rng(5).integers(0, task.num_passages, len(queries))
        moved = {
            "itself": corpus[own],
            "its neighbour": corpus[(own + 1) % len(corpus)],
            "another": corpus[(own + 7) % len(corpus)],
        }[replaced_by]
        result = AttackResult(
            task,
            moved,
            changed=np.ones(len(own), bool),
            forward_passes=np.ones(len(own), np.float32),
            passages=own,
            goal="promote",
        )
        found = attacked_rankings(attacked_victim, result)
        for row, (query, passage) in enumerate(zip(queries, own, strict=True)):
            changed = corpus.copy()
            changed[passage] = moved[row]
            scores = (changed.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
            order = np.argsort(-scores, kind="stable")
            rank = np.argsort(order) + 1
            np.testing.assert_array_equal(found.top[row], order[:10])
            judged = task.judged_query == row
            np.testing.assert_array_equal(found.ranks[judged], rank[task.judged_passage[judged]])
            assert found.values["promoted_rank"][row] == rank[passage]


def test_a_copy_of_the_answer_is_no_margin() -> None:
    """The k-th best irrelevant candidate is a copy of the relevant one, wherever it stands among the candidates."""
    queries, corpus = unit(6, 30, 384), unit(7, 70, 384)
    corpus[:30] = queries + 0.5 * corpus[:30]
    corpus[30:60] = corpus[:30]
    places = np.tile(np.arange(70), (30, 1))
    own = np.arange(30)[:, None]
    candidates = Candidates(places, places == own, places != own)
    np.testing.assert_array_equal(margin(queries, corpus, candidates, 1), np.zeros(30, np.float32))


def test_candidates_are_all_relevant_and_the_hardest_other_passages() -> None:
    for task in victim().tasks:
        found = victim().candidates(task, 5)
        scores = victim().queries[task.queries] @ victim().corpus(task).T
        for row, own in enumerate(relevant_passages(task)):
            assert set(found.passages[row][found.relevant[row]]) == set(own.tolist())
            others = np.delete(np.arange(task.num_passages), own)
            hardest = others[np.argsort(-scores[row, others])][:5]
            assert set(found.passages[row][found.irrelevant[row]]) == set(hardest.tolist())
            gap = np.sort(scores[row, others])[-2] - scores[row, own].max()
            assert margin(victim().queries[task.queries], victim().corpus(task), found, 2)[row] == pytest.approx(
                gap, abs=1e-5
            )


def test_a_corpus_without_irrelevant_passages_cannot_be_attacked() -> None:
    task = victim().tasks[0]
    own = relevant_passages(task)[0]
    only = dataclasses.replace(
        task,
        queries=task.queries[:1],
        passages=slice(int(own[0]), int(own[0]) + 1),
        judged_query=np.zeros(1, int),
        judged_passage=np.zeros(1, int),
        grade=np.ones(1, int),
    )
    with pytest.raises(ValueError, match="every passage of the corpus answers"):
        Victim.candidates(victim(), only)
