"""What attacks did to retrieval, in the measures of evaluation: trials come in, `Results` go out.

Every figure is a measure per query of a task, named "{attack}@{budget} {measure}", so that tables, intervals and paired
tests (`scripts/compare.py`) need nothing new:

| name | says |
|---|---|
| `AP`, `nDCG@10`, ... | the clean query |
| `pgd@0.1 AP` | the query (or passage) attacked within that budget |
| `pgd@0.1 robust_success@10` | 1 where a relevant passage is left in the top 10, else 0; of queries with one clean |
| `pgd robust_success@10_area` | area under that curve over the logarithm of the budget, from 0 to 1 |
| `pgd smallest_budget` | the smallest budget of the ladder that loses the top 10; the largest where none does |
| `promote@0.1 promoted@10` | 1 where the promoted passage reaches the top 10 |
| `worst AP` | the worst value of any trial that counts as reference, the clean one included |
| `pooled_radius@10` | how far the clean query vector is from losing the top 10, in closed form |

A perturbation within a small budget is one within a large budget too, so along a ladder of budgets a query once lost
stays lost, even where the search within the larger ball has found nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from jaxretr.attack.embedding.oracle import pooled_radii
from jaxretr.attack.embedding.passages import AttackedPassages
from jaxretr.attack.victim import Attacked, Victim, relevant_passages
from jaxretr.eval.bias import better
from jaxretr.eval.evaluate import measure_bias, measure_tasks
from jaxretr.eval.measures import parse
from jaxretr.eval.results import Results, SettingResult, TaskResult, mean
from jaxretr.eval.settings import Task
from jaxretr.retrieval.exact import count_ahead, ranks, search
from jaxretr.retrieval.scores import pair_scores, scores_at

TOP = 10
"""Ranks that a relevant passage must be left in: the k of `robust_success@k`."""
SUCCESS = f"robust_success@{TOP}"
AREA = f"{SUCCESS}_area"
SMALLEST = "smallest_budget"
PROMOTED = f"promoted@{TOP}"
RADIUS = "pooled_radius"
WORST = "worst"


@dataclass(frozen=True)
class Trial:
    """One attack with one budget on every task of a setting.

    Attributes:
      attack: its name, such as "pgd" or "typos".
      budget: how much it may change, None where it has no budget.
      attacked: what it left, task by task.
      reference: whether it counts for the worst case.
      facts: figures about it as a whole, such as the absolute radius.
    """

    attack: str
    budget: float | None
    attacked: tuple[Attacked | AttackedPassages, ...] = field(repr=False)
    reference: bool = False
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.attack if self.budget is None else f"{self.attack}@{self.budget:g}"


class Outcome(NamedTuple):
    """Rankings of a task's queries.

    Attributes:
      ranks: of the judged passages.
      top: the first passages, as positions in the task's corpus.
      values: measures of the attack itself.
      changed: False for queries without a value.
    """

    ranks: Int[np.ndarray, " judged"]
    top: Int[np.ndarray, "queries k"]
    values: dict[str, Float64[np.ndarray, " queries"]]
    changed: Bool[np.ndarray, " queries"]


def robustness(
    victim: Victim, trials: Sequence[Trial], *, measures: Sequence[str], with_radius: bool = True
) -> Results:
    """Measures clean and attacked retrieval.

    Args:
      victim: model, collection and tasks.
      trials: with an entry for each of the victim's tasks.
      measures: names as ir_measures spells them.
      with_radius: whether the pooled radius is computed.
    """
    clean = [_ranked(victim, task, victim.queries[task.queries]) for task in victim.tasks]
    found: dict[str, list[Outcome]] = {"": clean}
    for trial in trials:
        found[f"{trial.label} "] = [outcome(victim, attacked) for attacked in trial.attacked]
    parsed = parse(dict.fromkeys([*measures, f"Success@{TOP}"]))
    values: list[dict[str, np.ndarray]] = [{} for _ in victim.tasks]
    mixes: list[dict[str, float]] = [{} for _ in victim.tasks]
    pooled = len(victim.pool.languages) > 1 and victim.tasks[0].setting == "multi"
    for prefix, outcomes in found.items():
        measured = measure_tasks(parsed, victim.tasks, [one.ranks for one in outcomes])
        for number, (task, one, of_task) in enumerate(zip(victim.tasks, outcomes, measured, strict=True)):
            own = of_task | one.values
            if pooled:
                bias, mix = measure_bias(victim.pool, task, one.ranks, one.top)
                own |= bias
                mixes[number] = mixes[number] or mix
            for name, value in own.items():
                values[number][f"{prefix}{name}"] = np.where(one.changed, value, np.nan)
    for number, task in enumerate(victim.tasks):
        _summarise(values[number], trials)
        if with_radius:
            values[number] |= _radii(victim, task)
    setting = victim.tasks[0].setting
    tasks = [
        _task_result(victim, task, value, mix) for task, value, mix in zip(victim.tasks, values, mixes, strict=True)
    ]
    return Results(victim.collection.name, {setting: SettingResult(tuple(tasks))})


def outcome(victim: Victim, attacked: Attacked | AttackedPassages) -> Outcome:
    """The rankings that an attack leaves."""
    if isinstance(attacked, Attacked):
        found = _ranked(victim, attacked.task, attacked.embeddings)
        return found._replace(changed=attacked.changed)
    return _with_replaced(victim, attacked)


def area(curve: Float64[np.ndarray, "budgets queries"], budgets: Sequence[float]) -> Float64[np.ndarray, " queries"]:
    """The area under each query's curve over the logarithm of the budget, divided by its width (trapezoidal rule).

    Args:
      curve: values at each budget.
      budgets: positive, ascending, at least two.
    """
    at = np.log(np.asarray(budgets, np.float64))
    return np.trapezoid(curve, at, axis=0) / (at[-1] - at[0])


def ladders(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    """The trials of each attack that has several positive budgets, by ascending budget."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.budget:
            found.setdefault(trial.attack, []).append(trial)
    return {name: sorted(some, key=lambda t: t.budget or 0) for name, some in found.items() if len(some) > 1}


def _summarise(values: dict[str, np.ndarray], trials: Sequence[Trial]) -> None:
    """Adds what follows from several measures of one task: success, its area, the smallest budget, the worst case."""
    name = f"Success@{TOP}"
    had = values[name] > 0
    for trial in trials:
        attacked = values[f"{trial.label} {name}"]
        values[f"{trial.label} {SUCCESS}"] = np.where(had, attacked, np.nan)
    for attack, ladder in ladders(trials).items():
        left = [values[f"{trial.label} {SUCCESS}"] for trial in ladder]
        curve = np.minimum.accumulate(left, axis=0)  # NaN stays NaN
        for trial, row in zip(ladder, curve, strict=True):
            values[f"{trial.label} {SUCCESS}"] = row
        budgets = [trial.budget or 0.0 for trial in ladder]
        values[f"{attack} {AREA}"] = area(curve, budgets)
        lost = np.vstack([curve[:-1] < 1, np.ones(curve.shape[1], bool)])
        values[f"{attack} {SMALLEST}"] = np.where(np.isnan(curve[0]), np.nan, np.array(budgets)[lost.argmax(axis=0)])
    counted = [trial for trial in trials if trial.reference]
    if len(counted) > 1:
        for measure in [name for name in values if " " not in name and not name.startswith(RADIUS)]:
            of_trials = [values[f"{t.label} {measure}"] for t in counted if f"{t.label} {measure}" in values]
            if better(measure) != "higher":
                values[f"{WORST} {measure}"] = np.fmax.reduce([values[measure], *of_trials])
            else:
                values[f"{WORST} {measure}"] = np.fmin.reduce([values[measure], *of_trials])
        values[f"{WORST} {SUCCESS}"] = np.where(had, values[f"{WORST} {name}"], np.nan)


def _ranked(victim: Victim, task: Task, queries: np.ndarray) -> Outcome:
    corpus = victim.corpus(task)
    _, top = search(queries, corpus, min(TOP, len(corpus)))
    found = ranks(queries, corpus, task.judged_query, task.judged_passage)
    return Outcome(found, top, {}, np.ones(len(queries), bool))


def _with_replaced(victim: Victim, attacked: AttackedPassages) -> Outcome:
    """Rankings in which every query meets its own attacked passage in place of the clean one."""
    task, corpus = attacked.task, victim.corpus(attacked.task)
    queries, own, all_queries = victim.queries[task.queries], attacked.passages, np.arange(len(task.queries))
    before = scores_at(queries, corpus, all_queries, own)
    after = pair_scores(queries, attacked.embeddings)

    # Only the own passage of a query changes its place, and it passes the others that stand between its two scores.
    query, passage = task.judged_query, task.judged_passage
    at = np.concatenate([own, passage])
    score = np.concatenate([after, scores_at(queries, corpus, query, passage)])
    ahead = count_ahead(queries, corpus, np.concatenate([all_queries, query]), at, score).astype(np.int64)
    reached, found = 1 + ahead[: len(own)], 1 + ahead[len(own) :]
    of_passage = score[len(own) :]

    def is_ahead(of_own: np.ndarray) -> np.ndarray:
        return (of_own > of_passage) | ((of_own == of_passage) & (own[query] < passage))

    found = found - is_ahead(before[query]) + is_ahead(after[query])
    found = np.where(passage == own[query], reached[query], found)

    k = min(TOP, len(corpus))
    _, clean = search(queries, corpus, min(k + 1, len(corpus)))
    row, place = np.nonzero(clean != own[:, None])
    others = np.full(clean.shape, -np.inf, np.float32)
    others[row, place] = scores_at(queries, corpus, row, clean[row, place])
    scores = np.concatenate([others, after[:, None]], 1)
    positions = np.concatenate([clean, own[:, None]], 1)
    top = np.take_along_axis(positions, np.lexsort((positions, -scores))[:, :k], 1)
    values = {"promoted_rank": reached.astype(np.float64), PROMOTED: (reached <= TOP).astype(np.float64)}
    return Outcome(found, top, values if attacked.goal == "promote" else {}, np.ones(len(queries), bool))


def _radii(victim: Victim, task: Task) -> Mapping[str, np.ndarray]:
    relevant = relevant_passages(task)
    padded = np.full((len(relevant), max(map(len, relevant))), -1)
    for row, own in enumerate(relevant):
        padded[row, : len(own)] = own
    k = min(TOP, task.num_passages)
    radii = pooled_radii(victim.queries[task.queries], victim.corpus(task), padded, k)
    return {f"{RADIUS}@{place}": _finite(radii[:, place - 1]) for place in dict.fromkeys((1, k))}


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)


def _task_result(victim: Victim, task: Task, values: dict[str, np.ndarray], mix: dict[str, float]) -> TaskResult:
    return TaskResult(
        query_language=task.query_language,
        corpus_language=task.corpus_language,
        queries=len(task.queries),
        dropped=task.dropped,
        passages=task.num_passages,
        measures={name: mean(value) for name, value in values.items()},
        query_ids=tuple(victim.collection.queries[i].id for i in task.queries),
        per_query=values,
        language_mix=mix,
    )
