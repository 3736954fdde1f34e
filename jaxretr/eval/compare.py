"""Decide which of several evaluated systems is better, beyond chance.

Input: the `Results` of each system, by name. Output: a `Comparison`. A system is one evaluation, or the evaluations of
one recipe over several training seeds.

Holm's correction is applied to families of tests: all pairs of systems for the macro average, and all tasks (languages,
or pairs of languages) for a system against the baseline. There is no correction over measures: name the deciding
measure beforehand.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float64
from rich.progress import track

from jaxretr.eval.bias import RANK_DISTANCE, Better, better
from jaxretr.eval.results import Results
from jaxretr.eval.settings import Setting
from jaxretr.eval.significance import ALPHA, Outcome, contributions, holm, paired_test
from jaxretr.files import as_path, replaced_file, write_json
from jaxretr.tracking import console

SCHEMA = 1
_SIGN = {"higher": 1, "lower": -1, "neither": 0}
_DEFAULT = ("AP", RANK_DISTANCE)
_LETTERS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"
_NOTES = """\
Superscripts name the systems that a system beats, p < 0.05 after Holm's correction over all pairs of systems; † differs
from the baseline, p < 0.05 after Holm's correction over languages or pairs of languages. p comes from the paired
randomization test over questions, translations kept together; with several seeds, from a mixed model in which questions
are crossed with seeds. Intervals are not corrected. Cohen's d: the difference divided by its standard deviation over
questions.
"""

Task = tuple[str, str | None]
"""Query language and corpus language; corpus language None is the pool of all languages."""


@dataclass(frozen=True)
class SystemValue:
    """The value of one system by one measure.

    Attributes:
      system: name of the system.
      value: macro average, averaged over seeds.
      low, high: ends of the 95 % interval of `value`.
      by_seed: macro average under each seed.
      by_task: mean of each task, averaged over seeds.
    """

    system: str
    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    by_task: tuple[float, ...]


@dataclass(frozen=True)
class Difference(Outcome):
    """The difference `system` minus `other` in one task, or of the macro averages if `task` is None.

    `p_holm` is the p-value after Holm's correction.
    """

    system: str
    other: str
    task: Task | None
    p_holm: float

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class MeasureComparison:
    """All systems by one measure.

    Attributes:
      name: "setting/measure".
      better: which values of the measure are good.
      tasks: the tasks in which the measure has a value.
      questions: number of questions with a value; a question counts once, whatever the number of its languages.
      left_out: number of queries, counted once per task, that have a value under some systems only; no
        system is compared on these queries.
      systems: values of each system, the baseline first.
      pairs: differences of all pairs of systems; the baseline is always `other`.
      by_task: differences of every system from the baseline, task by task.
    """

    name: str
    better: Better
    tasks: tuple[Task, ...]
    questions: int
    left_out: int
    systems: tuple[SystemValue, ...]
    pairs: tuple[Difference, ...]
    by_task: tuple[Difference, ...]

    @property
    def is_cross(self) -> bool:
        """Whether the tasks are pairs of languages."""
        return self.name.startswith("cross/")

    def worse_than(self, system: str) -> list[str]:
        """Return the systems that `system` is significantly better than; none if `better` is "neither"."""
        gains = [(d.other, d.difference) for d in self.pairs if d.significant and d.system == system]
        gains += [(d.system, -d.difference) for d in self.pairs if d.significant and d.other == system]
        return [other for other, gain in gains if gain * _SIGN[self.better] > 0]

    def rows(self) -> list[list[str]]:
        """Return a table with one column per system, as formatted cells; the first row is the heading."""
        labels = [self.name, "macro average", "95 % interval", "sd over seeds", "minus baseline", "95 % interval"]
        labels += ["p after Holm", "Cohen's d", "better, worse, undecided", "higher, lower, undecided"]
        labels += [] if self.is_cross else [language for language, _ in self.tasks]
        lines = zip(labels, *map(self._column, self.systems), strict=True)
        return [list(line) for line in lines if any(line[1:])]

    def _column(self, of: SystemValue) -> list[str]:
        decimals = 4 if all(abs(s.value) <= 1 for s in self.systems) else 1

        def number(value: float, sign: str = "", decimals: int = decimals) -> str:
            return f"{value:{sign}.{decimals}f}".replace("-", "−") if math.isfinite(value) else "–"

        beaten = self.worse_than(of.system)
        letters = {s.system: letter for s, letter in zip(self.systems, _LETTERS, strict=False)}
        column = [
            f"{letters[of.system]} {of.system}",
            number(of.value) + "".join(letter for name, letter in letters.items() if name in beaten),
            f"[{number(of.low)}, {number(of.high)}]",
            number(float(np.std(of.by_seed, ddof=1))) if len(of.by_seed) > 1 else "",
        ]
        values = [] if self.is_cross else [number(value) for value in of.by_task]
        if of is self.systems[0]:
            return [*column, *[""] * 6, *values]
        average = next(d for d in self.pairs if d.system == of.system and d.other == self.systems[0].system)
        by_task = [d for d in self.by_task if d.system == of.system]
        gains = [d.difference * (_SIGN[self.better] or 1) for d in by_task if d.significant]
        more = sum(gain > 0 for gain in gains)
        tally = f"{more}, {len(gains) - more}, {len(by_task) - len(gains)}"
        marked = [f"{number(d.difference, '+')}{'†' if d.significant else ''}" for d in by_task]
        return [
            *column,
            number(average.difference, "+"),
            f"[{number(average.low)}, {number(average.high)}]",
            "<0.001" if average.p_holm < 0.001 else number(average.p_holm, decimals=3),
            number(average.effect_size, "+", 2),
            *((tally, "") if _SIGN[self.better] else ("", tally)),
            *(f"{value} ({difference})" for value, difference in zip(values, marked, strict=False)),
        ]


@dataclass(frozen=True)
class Comparison:
    """Systems compared on one collection, the baseline first."""

    collection: str
    systems: tuple[str, ...]
    measures: tuple[MeasureComparison, ...]

    def markdown(self) -> str:
        """Return a table per measure in Markdown, with notes on how to read the tables."""
        parts = [f"# {self.collection}: {', '.join(self.systems)}\n", _NOTES]
        for measure in self.measures:
            heading, *body = measure.rows()
            lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
            better = "" if measure.better == "neither" else f"{measure.better} is better, "
            tasks = f"{len(measure.tasks)} {'pairs of languages' if measure.is_cross else 'languages'}"
            left_out = (
                f", {measure.left_out:,} queries left out: some systems have no value" if measure.left_out else ""
            )
            parts.append(f"## {measure.name}\n\n{better}{tasks}, {measure.questions:,} questions{left_out}\n")
            parts.append("".join(f"| {' | '.join(cell.replace('|', r'\|') for cell in line)} |\n" for line in lines))
        return "\n".join(parts)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `comparison.json`, which holds every figure, and `comparison.md`; each write is atomic."""
        # JSON has no NaN and no infinity: write null.
        content = json.loads(json.dumps({"schema": SCHEMA, **asdict(self)}), parse_constant=lambda _: None)
        write_json(as_path(directory) / "comparison.json", content)
        with replaced_file(as_path(directory) / "comparison.md") as partial:
            partial.write_text(self.markdown(), "utf-8")


def compare(
    systems: Mapping[str, Sequence[Results]],
    *,
    measures: Sequence[str] = (),
    baseline: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Test every difference between `systems`.

    Args:
      systems: name -> evaluations of the system with values per query, one for each training seed.
      measures: measures to compare by, each "setting/measure", such as "multi/AP". If empty, compare by AP and rank
        distance in every setting in which all systems have them.
      baseline: the system that all others are compared with; if None, the first.
      resamples: minimum number of draws of the randomization test and of the bootstrap. It is raised to 100 draws per
        test of the largest family. Holm's correction multiplies the smallest p-value by the number of tests, so with
        fewer than 20 draws per test no corrected p-value could be below 0.05.
      seed: seed of the draws.

    Raises:
      ValueError: there are fewer than two systems; the systems were evaluated on different collections, tasks, corpora
        or queries, or on different content under one name; a system lacks a measure or its values per query.
    """
    if not 2 <= len(systems) <= len(_LETTERS):
        raise ValueError(f"a comparison needs 2 to {len(_LETTERS)} systems, got {len(systems)}; add or remove systems")
    baseline = next(iter(systems)) if baseline is None else baseline
    if baseline not in systems:
        raise ValueError(f"the baseline {baseline!r} is not one of the systems {', '.join(systems)}; name one of them")
    names = [baseline, *(name for name in systems if name != baseline)]
    runs = [(name, run) for name in names for run in systems[name]]
    collections = sorted({run.collection for _, run in runs})
    if len(collections) > 1:
        raise ValueError(
            f"systems must be evaluated on one collection, got {collections}; compare on each collection separately"
        )
    check_same_content(runs)
    measures_of_run = [{f"{s}/{m}" for s, setting in run.settings.items() for m in setting.measures} for _, run in runs]
    shared = sorted(set.intersection(*measures_of_run))
    selected = list(dict.fromkeys(measures or [m for m in shared if m.partition("/")[2] in _DEFAULT]))
    if not selected or not set(selected) <= set(shared):
        missing = ", ".join(m for m in selected if m not in shared) or " or ".join(_DEFAULT)
        raise ValueError(
            f"not all systems have {missing}; measures that all systems have: {', '.join(shared) or 'none'}"
        )
    compared = []
    for measure in track(selected, "comparing", console=console, transient=True, disable=not console.is_terminal):
        tasks, _, values, left_out = aligned_values(runs, measure)
        values_of_system = {name: values[[owner == name for owner, _ in runs]] for name in names}
        compared.append(_compare(measure, tasks, values_of_system, left_out, resamples, seed))
    return Comparison(collections[0], tuple(names), tuple(compared))


def check_same_content(runs: Sequence[tuple[str, Results]]) -> None:
    """Check that all results that record their content have the same content.

    Args:
      runs: the name of each system, and its results.

    Raises:
      ValueError: two results differ in their content.
    """
    known = [(name, run) for name, run in runs if run.content]
    for name, run in known[1:]:
        first_name, first = known[0]
        if changed := [part for part, value in first.content.items() if run.content.get(part) != value]:
            raise ValueError(
                f"{first_name} and {name} were evaluated on different content under the name {run.collection!r}: "
                f"{' and '.join(changed)} differ; evaluate all systems on the same files"
            )


def _compare(
    measure: str,
    tasks: tuple[Task, ...],
    values: Mapping[str, Float64[np.ndarray, "_ tasks keys"]],
    left_out: int,
    resamples: int,
    seed: int,
) -> MeasureComparison:
    baseline, *others = values
    families: list[list[tuple[str, str, int | None]]] = [[(b, a, None) for a, b in combinations(values, 2)]]
    families += [[(name, baseline, i) for i in range(len(tasks))] for name in others]
    # A system's own interval is the interval of its difference from a system that scores 0 everywhere.
    pairs = [
        (values_of_system, np.where(np.isnan(values_of_system[:1]), np.nan, 0.0))
        for values_of_system in values.values()
    ]
    for system, other, i in (names for family in families for names in family):
        task_slice = slice(None) if i is None else slice(i, i + 1)
        pairs.append((values[system][:, task_slice], values[other][:, task_slice]))
    # The smallest possible p-value is 1 / (resamples + 1), and Holm multiplies it by the size of the family.
    draws = max(resamples, 100 * max(map(len, families)))
    outcomes = iter(paired_test(pairs, resamples=draws, seed=seed))
    system_values = []
    for name, values_of_system in values.items():
        outcome, by_seed, by_task = (
            next(outcomes),
            contributions(values_of_system).mean(-1),
            np.nanmean(values_of_system, -1).mean(0),
        )
        system_values.append(
            SystemValue(
                name, outcome.difference, outcome.low, outcome.high, tuple(by_seed.tolist()), tuple(by_task.tolist())
            )
        )
    differences: list[Difference] = []
    for family in families:
        of_family = [next(outcomes) for _ in family]
        adjusted = holm(np.array([outcome.p for outcome in of_family])).tolist()
        for outcome, (system, other, i), p_holm in zip(of_family, family, adjusted, strict=True):
            task = None if i is None else tasks[i]
            differences.append(Difference(**vars(outcome), system=system, other=other, task=task, p_holm=p_holm))
    return MeasureComparison(
        name=measure,
        better=better(measure.partition("/")[2]),
        tasks=tasks,
        questions=int((~np.isnan(values[baseline])).any((0, 1)).sum()),
        left_out=left_out,
        systems=tuple(system_values),
        pairs=tuple(d for d in differences if d.task is None),
        by_task=tuple(d for d in differences if d.task is not None),
    )


class AlignedValues(NamedTuple):
    """The values of several runs by one measure.

    Attributes:
      tasks: the tasks in which the measure has a value.
      keys: the questions.
      values: value per run, task and question; NaN in the same places for all runs.
      left_out: number of queries, counted once per task, that have a value under some runs only.
    """

    tasks: tuple[Task, ...]
    keys: tuple[str, ...]
    values: Float64[np.ndarray, "runs tasks keys"]
    left_out: int


def aligned_values(runs: Sequence[tuple[str, Results]], measure: str) -> AlignedValues:
    """Align the values of all runs by task and question.

    Args:
      runs: the name of each system, and its results.
      measure: "setting/measure".

    Raises:
      ValueError: a run lacks the measure, a query or a corpus of the others, or no query has a value under all runs.
    """
    setting, _, name = measure.partition("/")
    tasks_of_runs = [run.settings[cast(Setting, setting)].tasks for _, run in runs]
    queries_of_run = [
        {(t.query_language, t.corpus_language, id) for t in tasks_of_run for id in t.query_ids}
        for tasks_of_run in tasks_of_runs
    ]
    all_queries, problems = set().union(*queries_of_run), []
    for (system, run), tasks, queries in zip(runs, tasks_of_runs, queries_of_run, strict=True):
        if any(name not in task.per_query for task in tasks):
            raise ValueError(f"{system} has no values of {measure} per query; evaluate it again, which stores them")
        if absent := sorted(all_queries - queries, key=str):
            label = system if run.system in ("", system) else f"{system} ({run.system})"
            in_tasks = len({task[:2] for task in absent})
            problems.append(
                f"{label} lacks {len(absent):,} queries that others have (tasks: {in_tasks}, first: {absent[0][2]})"
            )
    if problems:
        raise ValueError(f"{measure}: {'; '.join(problems)}; evaluate all systems on the same queries")
    if (
        len(
            {
                frozenset((t.query_language, t.corpus_language, t.passages) for t in tasks_of_run)
                for tasks_of_run in tasks_of_runs
            }
        )
        > 1
    ):
        raise ValueError(f"{measure}: corpora of different sizes; evaluate all systems on the same passages")

    index = {(t.query_language, t.corpus_language): i for i, t in enumerate(tasks_of_runs[0])}
    keys = dict.fromkeys(id.partition(":")[2] for t in tasks_of_runs[0] for id in t.query_ids)
    column = {key: i for i, key in enumerate(keys)}
    values = np.full((len(runs), len(index), len(column)), np.nan)
    for r, tasks_of_run in enumerate(tasks_of_runs):
        for task in tasks_of_run:
            columns = [column[id.partition(":")[2]] for id in task.query_ids]
            values[r, index[task.query_language, task.corpus_language], columns] = task.per_query[name]
    defined = ~np.isnan(values)
    left_out = defined.any(0) & ~defined.all(0)
    values[:, left_out] = np.nan
    has_values = defined.all(0).any(1)
    if not has_values.any():
        raise ValueError(f"no query has a value of {measure} under all systems; compare by other measures")
    kept = tuple(task for task, i in index.items() if has_values[i])
    return AlignedValues(kept, tuple(column), values[:, has_values], int(left_out.sum()))
