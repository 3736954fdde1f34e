"""One attacked model, as reports compare it.

Input: the `Record` and `Results` of a run of attacks. Output: figures for tables and curves. Every figure is a macro
average: the mean over tasks of the mean over the queries of a task. A clean figure and the attacked figure beside it
cover the same queries: the queries that the attack could change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxretr.attack.measures import SMALLEST, SUCCESS, WORST
from jaxretr.attack.rankings import ANSWER_SUCCESS, PROMOTED
from jaxretr.attack.record import TEXTS_FILE, AdversarialText, Record, load_texts
from jaxretr.attack.result import Trial, Unit
from jaxretr.eval.compare import check_same_content
from jaxretr.eval.results import Results, TaskResult, mean
from jaxretr.eval.significance import bootstrap_interval, influences
from jaxretr.files import AnyPath


class Pair(NamedTuple):
    """A measure before and after an attack, over the same queries. NaN if there is no value."""

    clean: float
    attacked: float


class Curve(NamedTuple):
    """Robust success at each budget of an attack, ascending, with the bounds of its 95 % interval."""

    budgets: Float64[np.ndarray, " budgets"]
    values: Float64[np.ndarray, " budgets"]
    low: Float64[np.ndarray, " budgets"]
    high: Float64[np.ndarray, " budgets"]


@dataclass(frozen=True)
class System:
    """The attacks on one model.

    Attributes:
      record: how the attacks were made.
      results: measures per query.
      texts: adversarial texts, if the attacks made any.
    """

    record: Record
    results: Results
    texts: Sequence[AdversarialText] = field(default=(), repr=False)

    @classmethod
    def load(cls, directory: AnyPath) -> "System":
        """Load a run of attacks: `attacks.json`, `results.json`, `per_query.parquet` and, if present, the texts.

        Raises:
          FileNotFoundError: the record or the results are missing.
          ValueError: a file does not hold the content that its name promises.
        """
        texts = load_texts(directory) if (directory / TEXTS_FILE).exists() else ()
        return cls(Record.load(directory), Results.load(directory), texts)

    @property
    def name(self) -> str:
        return self.record.system

    @property
    def tasks(self) -> tuple[TaskResult, ...]:
        return self.results.settings[self.record.setting].tasks  # type: ignore[index]

    @property
    def counts_answers(self) -> bool:
        """Whether robust success counts distinct answers instead of passages."""
        return ANSWER_SUCCESS in self.tasks[0].measures

    @property
    def languages(self) -> list[str]:
        """Languages of the queries, sorted."""
        return sorted({task.query_language for task in self.tasks})

    @property
    def reference(self) -> list[str]:
        """Labels of the trials that count toward the worst case."""
        return [trial.label for trial in self.record.trials if trial.reference]

    @property
    def headline(self) -> str:
        """Label that represents all attacks: the worst case or, without one, the trial with the lowest main measure."""
        if any(name.startswith(f"{WORST} ") for task in self.tasks for name in task.measures):
            return WORST
        labels = self.reference or [trial.label for trial in self.record.trials]
        hurt = {label: self.pair(label, self.main_measure).attacked for label in labels}
        return min((label for label in labels if not math.isnan(hurt[label])), key=lambda one: hurt[one], default="")

    @property
    def main_measure(self) -> str:
        """Name of the clean measure that pictures show."""
        names = self.tasks[0].measures
        return next((name for name in ("nDCG@10", "AP") if name in names), next(iter(names)))

    def average(self, measure: str) -> float:
        """Return the macro average of a measure."""
        return mean([task.measures.get(measure, math.nan) for task in self.tasks])

    def pair(self, label: str, measure: str, language: str | None = None) -> Pair:
        """Return a measure before and after the trial `label`, or in the worst case.

        The mean covers all query languages, or `language` alone.
        """
        found = []
        for task in self.tasks:
            attacked = task.per_query.get(f"{label} {measure}")
            if measure in task.per_query and attacked is not None and language in (None, task.query_language):
                changed = ~np.isnan(attacked)
                found.append((mean(task.per_query[measure][changed]), mean(attacked[changed])))
        return Pair(mean([clean for clean, _ in found]), mean([attacked for _, attacked in found]))

    def success(self, label: str) -> float:
        """Return robust success under the trial `label`, or in the worst case."""
        return self.average(f"{label} {SUCCESS}")

    def ladders(self) -> dict[str, list[Trial]]:
        """Return the trials of each attack that demotes passages and has several budgets.

        Attacks keep the order of the record; the trials of an attack are sorted by budget, ascending.
        """
        found: dict[str, list[Trial]] = {}
        for trial in self.record.trials:
            promotes = any(f"{trial.label} {PROMOTED}" in task.measures for task in self.tasks)
            if trial.budget and not promotes and not math.isnan(self.success(trial.label)):
                found.setdefault(trial.attack, []).append(trial)
        return {name: sorted(some, key=lambda t: t.budget or 0) for name, some in found.items() if len(some) > 1}

    def unit(self, attack: str) -> Unit:
        """Return the unit of an attack's budgets."""
        return next(trial.unit for trial in self.record.trials if trial.attack == attack)

    def curve(self, attack: str) -> Curve:
        """Return robust success over the budgets of an attack. The interval is a BCa bootstrap over questions."""
        ladder = self.ladders()[attack]
        keys = dict.fromkeys(id.partition(":")[2] for task in self.tasks for id in task.query_ids)
        column = {key: i for i, key in enumerate(keys)}
        values = np.full((len(ladder), len(self.tasks), len(column)), np.nan)
        for t, task in enumerate(self.tasks):
            at = [column[id.partition(":")[2]] for id in task.query_ids]
            for b, trial in enumerate(ladder):
                values[b, t, at] = task.per_query[f"{trial.label} {SUCCESS}"]
        values = values[:, ~np.isnan(values).all((0, 2))]
        low, high = bootstrap_interval(influences(values)).clip(0, 1).T
        averages = np.array([self.success(trial.label) for trial in ladder])
        return Curve(np.array([trial.budget for trial in ladder]), averages, low, high)

    def smallest_budget(self, attack: str) -> tuple[float, bool]:
        """Return the median over queries of the smallest budget that removes all relevant passages from the top ranks.

        Returns:
          The median and False; or the largest budget and True if the median lies beyond it, because the largest budget
          defeats at most half of the queries.
        """
        largest = self.ladders()[attack][-1]
        smallest = np.concatenate([task.per_query[f"{attack} {SMALLEST}"] for task in self.tasks])
        left = np.concatenate([task.per_query[f"{largest.label} {SUCCESS}"] for task in self.tasks])
        median = float(np.median(np.where(left > 0, np.inf, smallest)[~np.isnan(left)]))
        return (median, False) if math.isfinite(median) else (float(largest.budget or 0), True)

    def over_nearest_row(self, budget: float) -> float:
        """Convert a share of the mean row norm to a share of the distance to the nearest other row; NaN if unknown."""
        scale = self.record.row_norm, self.record.nearest_row
        return budget * scale[0] / scale[1] if scale[0] and scale[1] else math.nan


def check_comparable(systems: Sequence[System]) -> None:
    """Check that the systems were attacked on the same queries and have distinct names.

    Raises:
      ValueError: `systems` is empty, two systems do not compare or share a name, or a system lacks values per query.
    """
    if not systems:
        raise ValueError("there is no system to report; give one or several")
    first = systems[0]
    for system in systems:
        record = system.record
        if record.setting not in system.results.settings:
            raise ValueError(f"the results of {system.name} lack the setting {record.setting!r} of its record")
        if any(task.measures.keys() - task.per_query.keys() for task in system.tasks):
            raise ValueError(f"the results of {system.name} have no values per query; keep per_query.parquet with them")
        for name in ("collection", "setting"):
            one, other = getattr(first.record, name), getattr(record, name)
            if one != other:
                raise ValueError(
                    f"{first.name} was attacked in the {name} {one!r}, {system.name} in {other!r}; "
                    "make a report for each"
                )
        if system.counts_answers != first.counts_answers:
            answers, passages = (first, system) if first.counts_answers else (system, first)
            raise ValueError(
                f"the attacks on {answers.name} count distinct answers, the attacks on {passages.name} count passages; "
                "make a report for each, or attack both with one counting"
            )
        if _queries(system) != _queries(first):
            raise ValueError(
                f"{first.name} and {system.name} were attacked with different queries or passages; attack all systems "
                "on the same ones"
            )
    check_same_content([(system.name, system.results) for system in systems])
    names = [system.name for system in systems]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two systems are called {twice[0]!r}; tell them apart with NAME=DIR")


def _queries(system: System) -> set[tuple[str, str | None, int, tuple[str, ...]]]:
    return {(t.query_language, t.corpus_language, t.passages, t.query_ids) for t in system.tasks}
