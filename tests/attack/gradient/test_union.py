"""The union of attacks, on trials made by hand."""

import dataclasses

import numpy as np
import pytest

from jaxretr.attack.gradient.attack import Scale
from jaxretr.attack.gradient.union import union_trials
from jaxretr.attack.measures import robustness
from jaxretr.attack.result import AttackResult, Trial
from jaxretr.attack.victim import TOP, margin
from tests.attack.parallel_questions import victim

BUDGETS = (0.01, 0.05, 0.1, 1.0)


def result(task, lost: dict[int, float], *, minimal: bool) -> AttackResult:
    """The queries at these rows are lost, at these sizes."""
    embeddings = victim().queries[task.queries].copy()
    embeddings[list(lost)] *= -1
    sizes = np.full(len(embeddings), np.inf)
    sizes[list(lost)] = list(lost.values())
    cost = np.full(len(embeddings), 222.0 if minimal else 92.0)
    return AttackResult(
        task,
        embeddings,
        changed=np.ones(len(embeddings), bool),
        forward_passes=cost,
        sizes=sizes if minimal else None,
    )


def trials() -> list[Trial]:
    def trial(attack: str, budget: float, lost: dict[int, float], *, minimal: bool = False) -> Trial:
        results = [
            result(task, lost if number == 0 else {}, minimal=minimal) for number, task in enumerate(victim().tasks)
        ]
        return Trial(attack, "embedding", budget, "rho", reference=budget == 0.1).with_results(results)

    core = {0: 0.03, 1: 0.2, 2: 0.07}
    return [
        trial("fgm", 0.1, {5: 0.1}),  # not a member
        *(trial("core", budget, core, minimal=True) for budget in BUDGETS),
        trial("pgd", 0.1, {0: 0.1, 1: 0.1}),
        trial("apgd", 0.1, {0: 0.1, 3: 0.1}),
    ]


def test_the_union_keeps_the_smallest_budget_of_all_members() -> None:
    for task in victim().tasks:  # so that these rows can be lost, and every lost row has a clean success
        corpus, candidates = victim().corpus(task), victim().candidates(task)
        queries = victim().queries[task.queries]
        assert np.all(margin(queries, corpus, candidates, TOP) <= 0)
        assert np.all(margin(-queries, corpus, candidates, TOP) > 0)
    found = union_trials(victim(), trials(), BUDGETS, 0.1, Scale(2.0, 4.0))
    assert [trial.label for trial in found] == ["union@0.01", "union@0.05", "union@0.1", "union@1"]
    sizes = found[0].results[0].sizes
    assert sizes is not None
    np.testing.assert_array_equal(sizes[:6], [0.03, 0.1, 0.07, 0.1, np.inf, np.inf])
    assert found[0].forward_passes == 222 + 2 * 92
    (reference,) = (trial for trial in found if trial.reference)
    facts = {name: value for name, value in reference.facts.items() if "_by_" in name}
    assert facts == {
        "lost_by_core": 2,
        "only_by_core": 1,
        "lost_by_pgd": 2,
        "only_by_pgd": 1,
        "lost_by_apgd": 2,
        "only_by_apgd": 1,
    }
    assert reference.facts["epsilon"] == pytest.approx(0.2)


def test_a_query_is_lost_if_any_passages_of_the_corpus_displace_it() -> None:
    rng = np.random.default_rng(0)
    results, lost = [], []
    for task in victim().tasks:
        drawn = rng.standard_normal((len(task.queries), victim().queries.shape[1])).astype(np.float32)
        drawn = drawn / np.linalg.norm(drawn, axis=1, keepdims=True) + 1.5 * victim().queries[task.queries]
        results.append(dataclasses.replace(result(task, {}, minimal=False), embeddings=drawn))
        top = np.argsort(-drawn @ victim().corpus(task).T, axis=1)[:, :10]
        relevant = np.zeros((len(drawn), task.num_passages), bool)
        relevant[task.judged_query, task.judged_passage] = task.grade > 0
        lost.append(~np.take_along_axis(relevant, top, 1).any(axis=1))
    assert 0 < np.concatenate(lost).mean() < 1
    pgd = Trial("pgd", "embedding", 0.1, "rho", reference=True).with_results(results)
    (found,) = union_trials(victim(), [pgd], (0.1,), 0.1, Scale(2.0, 4.0))
    for union, expected in zip(found.results, lost, strict=True):
        assert union.sizes is not None
        np.testing.assert_array_equal(np.isfinite(union.sizes), expected)


def test_success_follows_from_the_sizes_and_no_measure_of_rankings_does() -> None:
    found = union_trials(victim(), trials(), BUDGETS, 0.1, Scale(2.0, 4.0))
    task = robustness(victim(), [*trials(), *found], measures=["AP"]).settings["multi"].tasks[0]
    lost = {budget: task.per_query[f"union@{budget:g} robust_success@10"][:6] == 0 for budget in BUDGETS}
    np.testing.assert_array_equal(lost[0.01], [0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(lost[0.05], [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(lost[0.1], [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(task.per_query["union smallest_budget"][:6], [0.03, 0.1, 0.07, 0.1, 1, 1])
    area = np.log(np.array([0.03, 0.1, 0.07, 0.1, 1, 1]) / 0.01) / np.log(100)
    np.testing.assert_allclose(task.per_query["union robust_success@10_area"][:6], area)
    assert "pgd@0.1 AP" in task.per_query
    assert not [name for name in task.per_query if name.startswith(("union@", "core@")) and name.endswith(" AP")]
    assert task.per_query["worst robust_success@10"][3] == 0
