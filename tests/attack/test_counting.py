"""Distinct answers as what the top ten counts: rankings made by hand, and every place that decides a lost query."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxretr.attack.gradient.attack import GradientAttack, Scale
from jaxretr.attack.gradient.losses import InfoNCE, Margin, SmoothRank
from jaxretr.attack.gradient.objective import QueryObjective, SplitEncoder, Target
from jaxretr.attack.gradient.pgd import PGD
from jaxretr.attack.gradient.queries import attack_queries
from jaxretr.attack.measures import robustness
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.rankings import answer_ranks, attacked_rankings
from jaxretr.attack.result import AttackResult, Trial
from jaxretr.attack.run import attack_into
from jaxretr.attack.victim import Candidates, Victim, margin, members_of, relevant_passages
from jaxretr.data.parallel_passages import distinct_answers
from jaxretr.eval.evaluate import evaluate
from jaxretr.eval.results import TaskResult, over_corpora
from jaxretr.eval.settings import Pool, Task, make_tasks
from jaxretr.types import Passage, Query, RetrievalSet
from tests.attack.parallel_questions import collection, encoder, victim

LANGUAGES = ("de", "el", "en")


@functools.cache
def counted(setting: str = "multi") -> Victim:
    return Victim.of(encoder(), collection(), setting, "answers")  # type: ignore[arg-type]


def by_hand(distractors: int = 14) -> tuple[Victim, Task]:
    """Victim and task of one query. Passage i of a language has the i-th best score; p0 answers the query."""
    made = RetrievalSet(
        name="by hand",
        queries=(Query("q", "en", "?"),),
        passages=tuple(Passage(f"p{i}", language, "") for language in LANGUAGES for i in range(distractors)),
        qrels={"q": {f"{language}:p0": 1 for language in LANGUAGES}},
    )
    pool = Pool.of(made)
    tasks = tuple(make_tasks(made, pool, ["multi"]))
    angle = 0.1 * np.array([int(made.passages[i].key[1:]) for i in pool.order])
    passages = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    queries = np.float32([[1, 0]])
    return Victim(encoder(), made, pool, tasks, queries, passages, distinct_answers(made)[pool.order]), tasks[0]


def at(answer: float) -> np.ndarray:
    """The query at the place of an answer; answers on both sides are near."""
    return np.float32([[np.cos(0.1 * answer), np.sin(0.1 * answer)]])


def moved(task: Task, embeddings: np.ndarray) -> AttackResult:
    queries = len(task.queries)
    return AttackResult(task, embeddings, changed=np.ones(queries, bool), forward_passes=np.ones(queries))


@pytest.mark.parametrize(
    ("place", "answers_ahead"),
    [(0.0, 0), (2.6, 5), (4.6, 9), (5.1, 10)],  # from 2.6: answers 1 to 5 are nearer than answer 0
)
def test_copies_of_a_distractor_lose_passages_but_not_answers(place: float, answers_ahead: int) -> None:
    subject, task = by_hand()
    result = moved(task, at(place))
    trial = Trial("moved", "embedding", 0.1, "rho", reference=True, results=(result,))
    kept = {}
    for name, counting in (("answers", subject), ("passages", dataclasses.replace(subject, answers=None))):
        (found,) = robustness(counting, [trial], measures=["nDCG@10"], with_radius=False).settings["multi"].tasks
        kept[name] = found.per_query["moved@0.1 robust_success@10"][0]
        candidates = counting.candidates(task)
        assert (margin(result.embeddings, counting.corpus(task), candidates, 10)[0] <= 0) == kept[name]
        assert found.per_query["moved@0.1 nDCG@10"][0] == pytest.approx(ndcg(3 * answers_ahead))
    assert kept["answers"] == (answers_ahead < 10)
    assert kept["passages"] == (3 * answers_ahead < 10)


def ndcg(ahead: int) -> float:
    """nDCG@10 of three relevant passages right behind `ahead` others."""
    gains = 1 / np.log2(np.arange(2, 12))
    return float(gains[ahead : ahead + 3].sum() / gains[:3].sum())


def test_ranks_among_distinct_answers_by_hand() -> None:
    ranked = np.array([[4, 4, 2, 4, 7, 1], [0, 0, 0, 1, 2, 3], [5, 6, 7, 8, 9, 0]])
    np.testing.assert_array_equal(answer_ranks(ranked, np.array([5, 1, 100])), [3, 1, 7])


def test_success_by_answers_is_that_of_the_sorted_ranking_with_ties() -> None:
    """Coarse scores, so that most passages tie with others."""
    subject = counted()
    rng = np.random.default_rng(0)
    coarse = dataclasses.replace(
        subject,
        passages=rng.integers(-1, 2, (len(subject.passages), 4)).astype(np.float32),
        queries=rng.integers(-1, 2, (len(subject.queries), 4)).astype(np.float32),
    )
    values = []
    for task in coarse.tasks:
        queries, corpus, answer = coarse.queries[task.queries], coarse.corpus(task), coarse.answers_of(task)
        attacked = rng.integers(0, task.num_passages, len(queries))
        replaced = rng.integers(-1, 2, (len(queries), 4)).astype(np.float32)
        demoted = dataclasses.replace(moved(task, replaced), passages=attacked, goal="demote")
        plain = attacked_rankings(coarse, moved(task, queries)).values["answer_success@10"]
        changed = attacked_rankings(coarse, demoted).values["answer_success@10"]
        for row, own in enumerate(relevant_passages(task)):
            other = corpus.copy()
            other[attacked[row]] = replaced[row]
            for passages, found in ((corpus, plain[row]), (other, changed[row])):
                order = np.argsort(-(passages @ queries[row]), kind="stable")
                ahead = order[: int(np.isin(order, own).argmax())]
                assert found == (len(set(answer[ahead].tolist())) < 10)
                values.append(found)
    assert 0 < np.mean(values) < 1


def test_candidates_are_the_hardest_answers_with_all_their_translations() -> None:
    for task in counted().tasks:
        found = counted().candidates(task, 5)
        assert found.passages.shape == (len(task.queries), 1 + 5, 3)
        answer, members = counted().answers_of(task), members_of(counted().answers_of(task))
        scores = counted().queries[task.queries] @ counted().corpus(task).T
        for row, own in enumerate(relevant_passages(task)):
            assert set(found.passages[row][found.relevant[row]].ravel().tolist()) == set(own.tolist())
            best = scores[row][members].max(axis=1)
            best[answer[own]] = -np.inf
            hardest = np.argsort(-best, kind="stable")[:5]
            np.testing.assert_array_equal(found.passages[row][found.irrelevant[row]], members[hardest])
            gap = np.sort(best)[-2] - scores[row, own].max()
            margins = margin(counted().queries[task.queries], counted().corpus(task), found, 2)
            assert margins[row] == pytest.approx(gap, abs=1e-5)


def test_both_countings_agree_if_nothing_is_parallel_within_the_corpus() -> None:
    mono, plain = counted("mono"), victim("mono")
    trials = []
    for task, same in zip(mono.tasks, plain.tasks, strict=True):
        found, expected = mono.candidates(task), plain.candidates(same)
        marked = expected.relevant | expected.irrelevant
        np.testing.assert_array_equal(found.passages[marked], expected.passages[marked])
        np.testing.assert_array_equal(found.relevant, expected.relevant)
        np.testing.assert_array_equal(found.irrelevant, expected.irrelevant)
        noise = np.random.default_rng(1).standard_normal(mono.queries[task.queries].shape).astype(np.float32)
        trials.append(moved(task, noise / np.linalg.norm(noise, axis=1, keepdims=True)))
    trial = Trial("noise", "embedding", 0.1, "rho", reference=True, results=tuple(trials))
    results = [robustness(subject, [trial], measures=["AP"]).settings["mono"].tasks for subject in (mono, plain)]
    for task, other in zip(*results, strict=True):
        assert task.per_query.keys() - other.per_query.keys() == {"answer_success@10", "noise@0.1 answer_success@10"}
        for name, values in other.per_query.items():
            np.testing.assert_array_equal(task.per_query[name], values, name)
        np.testing.assert_array_equal(task.per_query["answer_success@10"], other.per_query["Success@10"])


class FirstVector(SplitEncoder):
    """An encoder whose embedding is the first token vector."""

    def encode(self, params: Any, vectors: Any, mask: Any) -> Any:
        return vectors[:, 0]


def test_the_compiled_losses_are_those_of_the_best_translations() -> None:
    rng = np.random.default_rng(2)
    queries, corpus = (rng.standard_normal((n, 8)).astype(np.float32) for n in (6, 40))
    places = rng.integers(0, 40, (6, 9, 4))
    relevant, irrelevant = np.zeros((2, 6, 9), bool)
    relevant[:, :2], irrelevant[:, 2:8] = True, True  # the last candidate is padding
    fixed = map(jnp.asarray, (np.ones((6, 1), bool), corpus[places], relevant, irrelevant))
    target, split = Target(encoder().params, *fixed), FirstVector(encoder().functions)

    def value(loss: Any) -> np.ndarray:
        return np.asarray(QueryObjective(split, loss)(target, jnp.asarray(queries[:, None])))

    best = np.einsum("qd,qcmd->qcm", queries.astype(np.float64), corpus[places]).max(axis=2)
    for k in (1, 3, 6):
        expected = margin(queries, corpus, Candidates(places, relevant, irrelevant), k)
        np.testing.assert_allclose(value(Margin(k)), expected, atol=1e-5)
        np.testing.assert_allclose(expected, np.sort(best[:, 2:8])[:, -k] - best[:, :2].max(axis=1), atol=1e-5)
    log_odds = special.logsumexp(best[:, :2], axis=1) - special.logsumexp(best[:, :8], axis=1)
    np.testing.assert_allclose(value(InfoNCE(1.0)), -log_odds, atol=1e-5)
    behind = best[:, 2:8] - best[:, :2].max(axis=1, keepdims=True)
    np.testing.assert_allclose(value(SmoothRank(1.0)), special.expit(behind).sum(axis=1), atol=1e-5)


def test_an_attack_maximises_the_margin_of_answers() -> None:
    """More passages than answers are lost, and each lost answer is lost in the measures too."""
    subject, task = counted(), counted().tasks[0]
    attack = GradientAttack(PGD, steps=4)
    (result,) = attack_queries(subject, [task], attack, rho=1.0, scale=Scale(2.0, 1.0), loss=Margin(10), seed=0)
    corpus, candidates = subject.corpus(task), subject.candidates(task)
    before = margin(subject.queries[task.queries], corpus, candidates, 10)
    after = margin(result.embeddings, corpus, candidates, 10)
    assert np.all(after >= before - 1e-5) and np.mean(after - before) > 0.01
    success = attacked_rankings(subject, result).values["answer_success@10"]
    np.testing.assert_array_equal(after <= 0, success)


def test_a_collection_without_parallel_passages_has_no_distinct_answers() -> None:
    english = tuple(passage for passage in collection().passages if passage.language == "en")
    qrels = {key: {f"en:p{key[1:]}": 1} for key in collection().qrels}
    one_language = dataclasses.replace(collection(), passages=english, qrels=qrels)
    with pytest.raises(ValueError, match="no key occurs in two languages among its 24 passages in en.*count passages"):
        Victim.of(encoder(), one_language, "mono", "answers")


def test_calibrated_passages_rank_as_the_calibrated_evaluation_does() -> None:
    calibrated = Victim.of(encoder(), collection(), "multi", calibrate=True)
    expected = evaluate(
        collection(),
        encoder().encode_query,
        encoder().encode_document,
        settings=["multi"],
        measures=["AP"],
        calibrate=True,
    )
    results = robustness(calibrated, [], measures=["AP"]).settings["multi"].tasks
    for task, other in zip(results, expected.settings["multi"].tasks, strict=True):
        np.testing.assert_allclose(task.per_query["AP"], other.per_query["AP"], atol=1e-6)
    plain = robustness(victim(), [], measures=["AP"]).settings["multi"].measures["AP"]
    assert np.mean([task.measures["AP"] for task in results]) > plain, "calibration removes the tiny model's bias"


def test_calibration_and_drawn_pairs_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(ValueError, match="no effect in the setting 'mono'"):
        Victim.of(encoder(), collection(), "mono", calibrate=True)
    with pytest.raises(ValueError, match="in the setting 'cross' only, not in 'multi'"):
        Victim.of(encoder(), collection(), "multi", pairs_of_seed=0)
    for options in (
        {"attacks": ("hotflip",)},
        {"attacks": ("suite",)},
        {"attacks": ("pgd", "language_direction")},
        {"aim": "demote"},
    ):
        with pytest.raises(ValueError, match="calibrate subtracts language means from clean passages only"):
            AttackOptions(calibrate=True, **options)  # type: ignore[arg-type]


def test_drawn_pairs_have_one_task_per_language_and_every_query_once(tmp_path: Path) -> None:
    options = AttackOptions(attacks=("fgm",), pairs="drawn", seed=3)
    results = attack_into(
        tmp_path, encoder(), collection(), options, setting="cross", system="A", run_settings={}, measures=("AP",)
    )
    tasks = results.settings["cross"].tasks
    assert [(task.query_language, task.corpus_language) for task in tasks] == [
        (language, "drawn") for language in sorted({query.language for query in collection().queries})
    ]
    assert sorted(id for task in tasks for id in task.query_ids) == sorted(query.id for query in collection().queries)
    whole = robustness(victim("cross"), [], measures=["AP"]).settings["cross"].tasks
    drawn = {(task.query_language, id): value for task in tasks for id, value in columns(task, "AP")}
    for (language, id), value in drawn.items():
        pairs = [v for task in whole if task.query_language == language for i, v in columns(task, "AP") if i == id]
        assert np.isclose(pairs, value, atol=1e-6).any()
    assert (tmp_path / "report.html").exists()


def test_tasks_that_share_a_query_are_not_merged() -> None:
    whole = robustness(victim("cross"), [], measures=["AP"]).settings["cross"]
    with pytest.raises(ValueError, match="is in two tasks of its language; merge tasks that share no query"):
        over_corpora(whole, "drawn")


def columns(task: TaskResult, measure: str) -> list[tuple[str, float]]:
    return list(zip(task.query_ids, task.per_query[measure].tolist(), strict=True))
