"""Measure attacked retrieval. Input: trials. Output: `Results`.

Every figure is a measure per query of a task, named "{attack}@{budget} {measure}". So tables, intervals and paired
tests (`scripts/compare.py`) also work on attacked retrieval:

| name | meaning |
|---|---|
| `AP`, `nDCG@10`, ... | retrieval with the clean query |
| `pgd@0.1 AP` | retrieval with the query (or passage) attacked within this budget |
| `pgd@0.1 robust_success@10` | 1 if a relevant passage stays in the top 10, else 0; NaN without a clean success |
| `answer_success@10` | 1 if a relevant passage is in the top 10 distinct answers; only with `counting="answers"` |
| `pgd robust_success@10_area` | area under that curve over the logarithm of the budget, from 0 to 1 |
| `pgd smallest_budget` | the smallest budget that loses the top 10; the largest budget if none does; exact for
minimum-norm attacks and the union |
| `promote@0.1 promoted@10` | 1 if the promoted passage reaches the top 10 |
| `worst AP` | the worst value over the reference trials and the clean query |
| `pooled_radius@1`, `@10` | distance of the clean query vector from losing rank 1 or the top 10, in closed form |
| `hotflip:en poisoned@10` | 1 if a passage poisoned on English queries reaches the top 10 of a held-out query |
| `ceiling:en poisoned@10` | 1 if one of the best vectors for English queries reaches the top 10 of a held-out query |

If the victim counts distinct answers, parallel passages are one answer in robust success, its area and worst case, the
smallest budget and the pooled radius. All other measures count passages.

The pooled radius is exact for one relevant passage and rank 1. For several relevant passages, or for the top 10, it is
a lower bound.

A perturbation within a small budget is also within every larger budget. So along ascending budgets, a lost query stays
lost, even if the search at a larger budget fails.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from jaxretr.attack.gradient.oracle import pooled_radii
from jaxretr.attack.rankings import ANSWER_SUCCESS, Rankings, attacked_rankings, clean_rankings
from jaxretr.attack.result import Trial
from jaxretr.attack.token.ceiling import BestVectors
from jaxretr.attack.token.transfer import Poisoning
from jaxretr.attack.victim import TOP, Victim, members_of, relevant_passages
from jaxretr.eval.bias import BIAS_SETTING, better
from jaxretr.eval.evaluate import measure_bias, measure_tasks, task_result
from jaxretr.eval.measures import parse
from jaxretr.eval.results import Results, SettingResult, mean
from jaxretr.eval.settings import Task

SUCCESS = f"robust_success@{TOP}"
AREA = f"{SUCCESS}_area"
SMALLEST = "smallest_budget"
RADIUS = "pooled_radius"
WORST = "worst"
POISONED = f"poisoned@{TOP}"


def robustness(
    victim: Victim, trials: Sequence[Trial], *, measures: Sequence[str], with_radius: bool = True
) -> Results:
    """Measure clean and attacked retrieval.

    Args:
      victim: model, collection and tasks.
      trials: trials, each with one result per task of the victim.
      measures: names of measures as ir_measures spells them.
      with_radius: whether to compute the pooled radius.
    """
    clean = [clean_rankings(victim, task) for task in victim.tasks]
    rankings: dict[str, list[Rankings]] = {"": clean}
    for trial in trials:
        rankings[f"{trial.label} "] = [attacked_rankings(victim, result, trial.budget) for result in trial.results]
    success_only = {f"{trial.label} " for trial in trials if any(result.success_only for result in trial.results)}
    parsed = parse(dict.fromkeys([*measures, f"Success@{TOP}"]))
    values: list[dict[str, np.ndarray]] = [{} for _ in victim.tasks]
    mixes: list[dict[str, float]] = [{} for _ in victim.tasks]
    pooled = len(victim.pool.languages) > 1 and victim.tasks[0].setting == BIAS_SETTING
    for prefix, task_rankings in rankings.items():
        measured = measure_tasks(parsed, victim.tasks, [ranking.ranks for ranking in task_rankings])
        for number, (task, ranking, measured_task) in enumerate(
            zip(victim.tasks, task_rankings, measured, strict=True)
        ):
            task_values = measured_task | ranking.values
            if pooled:
                bias, mix = measure_bias(victim.pool, task, ranking.ranks, ranking.top)
                task_values |= bias
                mixes[number] = mixes[number] or mix
            if prefix in success_only:
                success = success_measure(task_values)
                task_values = {success: task_values[success]}
            for name, value in task_values.items():
                values[number][f"{prefix}{name}"] = np.where(ranking.changed, value, np.nan)
    for number, task in enumerate(victim.tasks):
        _summarize(values[number], trials, number)
        if with_radius:
            values[number] |= _radii(victim, task)
    setting = victim.tasks[0].setting
    tasks = [
        task_result(victim.collection, task, value, mix)
        for task, value, mix in zip(victim.tasks, values, mixes, strict=True)
    ]
    return Results(victim.collection.name, {setting: SettingResult(tuple(tasks))})


def with_poisoning(results: Results, poisonings: Sequence[Poisoning | BestVectors]) -> Results:
    """Add the measure "{attack}:{language} poisoned@10" for each language that passages were optimized on.

    The value is NaN for the queries that the passages were optimized on.
    """
    for poisoning in poisonings:
        hits = {
            (x, id): float(hit)
            for (x, y), hits_of_pair in poisoning.hits.items()
            for id, hit in zip(poisoning.query_ids[y], hits_of_pair, strict=True)
        }
        settings = {}
        for name, setting in results.settings.items():
            tasks = []
            for task in setting.tasks:
                values = {
                    f"{poisoning.attack}:{x} {POISONED}": np.array([hits.get((x, id), np.nan) for id in task.query_ids])
                    for x in poisoning.languages
                }
                means = {measure: mean(value) for measure, value in values.items()}
                tasks.append(
                    dataclasses.replace(task, measures=task.measures | means, per_query=task.per_query | values)
                )
            settings[name] = SettingResult(tuple(tasks))
        results = dataclasses.replace(results, settings=settings)
    return results


def area(curve: Float64[np.ndarray, "budgets queries"], budgets: Sequence[float]) -> Float64[np.ndarray, " queries"]:
    """Return, per query, the area under its curve over log(budget), divided by the width (trapezoidal rule).

    Args:
      curve: values at each budget.
      budgets: positive, ascending, at least two.
    """
    at = np.log(np.asarray(budgets, np.float64))
    return np.trapezoid(curve, at, axis=0) / (at[-1] - at[0])


def ladders(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Return the trials of each attack that has several positive budgets, by ascending budget."""
    trials_by_attack: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.budget:
            trials_by_attack.setdefault(trial.attack, []).append(trial)
    return {
        name: sorted(ladder, key=lambda trial: trial.budget or 0)
        for name, ladder in trials_by_attack.items()
        if len(ladder) > 1
    }


def success_measure(measures: Iterable[str]) -> str:
    """Return the measure that robust success derives from: by distinct answers if it is among `measures`."""
    return ANSWER_SUCCESS if ANSWER_SUCCESS in measures else f"Success@{TOP}"


def _summarize(values: dict[str, np.ndarray], trials: Sequence[Trial], number: int) -> None:
    """Add the measures of task `number` that combine several trials: robust success, its area, smallest budget, worst
    case."""
    name = success_measure(values)
    clean_success = values[name] > 0
    for trial in trials:
        attacked = values[f"{trial.label} {name}"]
        values[f"{trial.label} {SUCCESS}"] = np.where(clean_success, attacked, np.nan)
    for attack, ladder in ladders(trials).items():
        successes = [values[f"{trial.label} {SUCCESS}"] for trial in ladder]
        curve = np.minimum.accumulate(successes, axis=0)  # NaN stays NaN
        for trial, row in zip(ladder, curve, strict=True):
            values[f"{trial.label} {SUCCESS}"] = row
        budgets = [trial.budget or 0.0 for trial in ladder]
        values[f"{attack} {AREA}"] = area(curve, budgets)
        lost = np.vstack([curve[:-1] < 1, np.ones(curve.shape[1], bool)])
        smallest = np.array(budgets)[lost.argmax(axis=0)]
        sizes = ladder[0].results[number].sizes
        if sizes is not None:  # exact instead of on the grid of budgets
            sizes = np.where(curve[-1] < 1, sizes, np.inf)  # from a surrogate, not every result loses the query
            smallest = np.minimum(sizes, budgets[-1])
            log_size = np.log(np.maximum(sizes, budgets[0]) / budgets[0]) / np.log(budgets[-1] / budgets[0])
            values[f"{attack} {AREA}"] = np.where(np.isnan(curve[0]), np.nan, np.minimum(log_size, 1))
        values[f"{attack} {SMALLEST}"] = np.where(np.isnan(curve[0]), np.nan, smallest)
    reference_trials = [trial for trial in trials if trial.reference]
    if len(reference_trials) > 1:
        for measure in [name for name in values if " " not in name and not name.startswith(RADIUS)]:
            attacked_values = [
                values[f"{t.label} {measure}"] for t in reference_trials if f"{t.label} {measure}" in values
            ]
            if better(measure) != "higher":
                values[f"{WORST} {measure}"] = np.fmax.reduce([values[measure], *attacked_values])
            else:
                values[f"{WORST} {measure}"] = np.fmin.reduce([values[measure], *attacked_values])
        values[f"{WORST} {SUCCESS}"] = np.where(clean_success, values[f"{WORST} {name}"], np.nan)


def _radii(victim: Victim, task: Task) -> Mapping[str, np.ndarray]:
    relevant = relevant_passages(task)
    padded = np.full((len(relevant), max(map(len, relevant))), -1)
    for row, passages in enumerate(relevant):
        padded[row, : len(passages)] = passages
    members = None if victim.answers is None else members_of(victim.answers_of(task))
    k = min(TOP, task.num_passages if members is None else len(members))
    radii = pooled_radii(victim.queries[task.queries], victim.corpus(task), padded, k, members=members)
    return {f"{RADIUS}@{place}": _finite(radii[:, place - 1]) for place in dict.fromkeys((1, k))}


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)
