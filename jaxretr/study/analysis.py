"""Analysis of a study's records: the means of each arm, and tested differences between arms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Float64

from jaxretr.eval.compare import aligned_values
from jaxretr.eval.results import Results, SettingResult
from jaxretr.eval.settings import Setting
from jaxretr.eval.significance import ALPHA, Outcome, contributions, crossed_test, holm, influences, paired_test
from jaxretr.study.design import Measure, Study
from jaxretr.study.records import RunRecord

CLEAN = tuple(Measure("clean", f"{setting}/AP", f"mAP, {setting}") for setting in ("mono", "cross", "multi"))

Verdict = Literal["higher", "lower", "equivalent", "undecided"]


@dataclass(frozen=True)
class Contrast:
    """The difference between an arm and a baseline in one measure, over their common seeds.

    Values and differences of a measure with `log` are logarithms.

    Attributes:
      arm, baseline, measure: the compared arms, and the measure.
      arm_value, baseline_value: means of the two arms.
      difference, low, high: difference of the means, and the ends of its 95 % interval.
      p: two-sided p-value of this test alone.
      p_holm: p-value corrected over the family of the contrast; equal to `p` if the test has no family.
      effect_size: Cohen's d over questions.
      seeds: number of seeds.
      by_seed: the difference under each seed.
      p_by_seed: p-value of the paired randomization test within each seed.
      questions: number of questions tested.
      queries: number of queries tested; a question counts once per language.
      p_of_articles: p-value if the questions about one article are one cluster; NaN if the articles are not recorded.
    """

    arm: str
    baseline: str
    measure: Measure
    arm_value: float
    baseline_value: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    effect_size: float
    seeds: int
    by_seed: tuple[float, ...]
    p_by_seed: tuple[float, ...]
    questions: int
    queries: int
    p_of_articles: float = math.nan

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA

    def verdict(self, margin: float) -> Verdict:
        """Return what the test shows.

        Equivalence is the two one-sided tests procedure (Schuirmann 1987) with the 95 % interval, which holds the error
        at 2.5 %: the whole interval lies within the margin. A significant difference is reported as higher or lower
        even if its interval lies within the margin.
        """
        if self.significant:
            return "higher" if self.difference > 0 else "lower"
        return "equivalent" if -margin < self.low and self.high < margin else "undecided"


class Matched(NamedTuple):
    """The arm in question at the clean quality of a baseline.

    Attributes:
      contrast: the difference from the baseline.
      qualities: per seed, the clean quality of the baseline and of the interpolated arm.
    """

    contrast: Contrast
    qualities: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Analysis:
    """The records of a study and their tests; each contrast is tested once.

    Attributes:
      records: the records by name.
      study: the study, with its arms, seeds and baselines.
    """

    records: Mapping[str, RunRecord]
    study: Study
    _tested: dict[tuple[Any, ...], Contrast | None] = field(default_factory=dict, repr=False)

    @property
    def arms(self) -> list[str]:
        """The arms with a record, in the order of the design."""
        return [arm for arm in self.study.arms if self.of_arm(arm)]

    @property
    def trained(self) -> list[str]:
        """The trained arms with a record, without the references."""
        return [arm for arm in self.arms if self.study.arms[arm].seeds]

    @property
    def primary(self) -> list[Contrast]:
        """The contrasts of the arm in question with every baseline in all primary measures, corrected together."""
        return self.against_baselines(self.study.primary)

    @property
    def secondary(self) -> list[Contrast]:
        """The contrasts of the arm in question with every baseline in all secondary measures, corrected together."""
        return self.against_baselines(self.study.secondary)

    def against_baselines(self, measures: Sequence[Measure]) -> list[Contrast]:
        """Return the contrasts of the arm in question with every baseline, corrected together."""
        arm = self.study.contrast[1]
        return family(
            [self.contrast(arm, measure, baseline=name) for measure in measures for name in self.study.baselines]
        )

    def of_arm(self, arm: str) -> dict[int, RunRecord]:
        """Return the records of an arm by seed; a reference that is not trained has seed 0."""
        seeds = self.study.arms[arm].seeds or (0,)
        return {seed: self.records[name] for seed in seeds if (name := f"{arm}-{seed}") in self.records}

    def contrast(self, arm: str, measure: Measure, *, baseline: str = "") -> Contrast | None:
        """Return the contrast of an arm with a baseline; None if no seed has measurements of both.

        Only queries with a value under both arms and all their seeds count; between the arm in question and the
        baselines of the study, only queries with a value under all of them.

        Args:
          arm: name of the arm.
          measure: the measure to compare by.
          baseline: name of the baseline; "" is the first baseline of the study.
        """
        key = arm, measure, baseline or self.study.contrast[0]
        if key not in self._tested:
            self._tested[key] = self._contrast(*key)
        return self._tested[key]

    def matched(self, measure: Measure, baseline: str, quality: str) -> Matched | None:
        """Compare the arm in question with a baseline at equal clean quality.

        Shorter trainings of the arm in question, each with its own complete schedule, have a lower clean quality. Per
        seed and query, the value is interpolated linearly between the two trainings whose mean qualities enclose that
        of the baseline. If none do, it is the value of the closest training.

        Args:
          measure: the measure to compare by.
          baseline: name of the baseline.
          quality: "setting/measure" of clean quality on the attacked queries.
        """
        arm = self.study.contrast[1]
        variants = [arm, *self.study.shorter]
        records = {name: self._measured(name, measure) for name in (baseline, *variants)}
        seeds = sorted(set.intersection(*map(set, records.values())))
        if not seeds or len(variants) < 2:
            return None
        runs = [(name, seed) for name in records for seed in seeds]
        aligned = aligned_values([(name, _results(records[name][seed], measure)) for name, seed in runs], measure.name)
        values, place = aligned.values, {run: number for number, run in enumerate(runs)}
        matched, qualities = [], []
        for seed in seeds:
            of_variant = {name: records[name][seed].sections[measure.section].scalar(quality) for name in variants}
            wanted = records[baseline][seed].sections[measure.section].scalar(quality)
            ordered = sorted(variants, key=of_variant.__getitem__)
            at = np.interp(wanted, [of_variant[name] for name in ordered], np.arange(len(ordered)))
            low = min(int(at), len(ordered) - 2)
            pair = [(low + 1 - at, ordered[low]), (at - low, ordered[low + 1])]
            matched.append(sum(share * values[place[name, seed]] for share, name in pair))
            qualities.append((wanted, float(sum(share * of_variant[name] for share, name in pair))))
        own = np.stack([values[place[baseline, seed]] for seed in seeds])
        contrast = _tested(f"{arm}, matched", baseline, measure, np.stack(matched), own)
        return Matched(contrast, tuple(qualities))

    def by_task(self, arm: str, measure: Measure) -> dict[str, float]:
        """Return the mean over queries and seeds for each task, such as a query language; tasks without a value are
        omitted. For a measure with `log`, it is the geometric mean."""
        values_by_task: dict[str, list[float]] = {}
        for record in self._measured(arm, measure).values():
            for task in _results(record, measure).settings[_setting(measure)].tasks:
                mean = _mean(task.per_query[_name(measure)])
                if not math.isnan(mean):
                    values_by_task.setdefault(task.query_language, []).append(mean)
        return {task: _shown(float(np.mean(values)), measure) for task, values in values_by_task.items()}

    def values(self, arm: str, measure: Measure) -> list[float]:
        """Return the mean over tasks under each seed; for a measure with `log`, the geometric mean."""
        values = []
        for record in self._measured(arm, measure).values():
            if measure.log or measure.failures_as_zero:
                tasks = _results(record, measure).settings[_setting(measure)].tasks
                values.append(_mean([_mean(task.per_query[_name(measure)]) for task in tasks]))
            else:
                values.append(record.sections[measure.section].scalar(measure.name))
        return [_shown(value, measure) for value in values]

    def _measured(self, arm: str, measure: Measure) -> dict[int, RunRecord]:
        """Return the records of an arm that have a value of the measure, by seed."""
        return {
            seed: record
            for seed, record in self.of_arm(arm).items()
            if measure.section in record.sections
            and measure.name in record.sections[measure.section].by_task
            and (measure.failures_as_zero or not math.isnan(record.sections[measure.section].scalar(measure.name)))
        }

    def _contrast(self, arm: str, measure: Measure, baseline: str) -> Contrast | None:
        deciding = (*self.study.baselines, self.study.contrast[1])
        shared = deciding if {arm, baseline} <= set(deciding) else (baseline, arm)
        measured = {name: self._measured(name, measure) for name in dict.fromkeys((baseline, arm, *shared))}
        seeds = sorted(measured[arm].keys() & measured[baseline].keys())
        if not seeds:
            return None
        runs = [(name, seed) for name, records in measured.items() for seed in seeds if seed in records]
        aligned = aligned_values([(name, _results(measured[name][seed], measure)) for name, seed in runs], measure.name)
        arm_values, baseline_values = (
            np.stack([aligned.values[number] for number, (owner, _) in enumerate(runs) if owner == name])
            for name in (arm, baseline)
        )
        answers = measured[baseline][seeds[0]].sections[measure.section].facts.get("answers", {})
        articles = [answers.get(key, "").partition(".")[0] for key in aligned.keys]
        return _tested(arm, baseline, measure, arm_values, baseline_values, articles if all(articles) else ())


def _tested(
    arm: str,
    baseline: str,
    measure: Measure,
    arm_values: Float64[np.ndarray, "seeds tasks questions"],
    baseline_values: Float64[np.ndarray, "seeds tasks questions"],
    articles: Sequence[str] = (),
) -> Contrast:
    """Test the difference of aligned values; `articles` is the article of each question."""
    by_seed: list[Outcome] = paired_test(
        [(arm_values[i : i + 1], baseline_values[i : i + 1]) for i in range(len(arm_values))]
    )
    (outcome,) = by_seed if len(by_seed) == 1 else paired_test([(arm_values, baseline_values)])
    asked = ~np.isnan(baseline_values[0])
    return Contrast(
        arm=arm,
        baseline=baseline,
        measure=measure,
        arm_value=float(contributions(arm_values).mean()),
        baseline_value=float(contributions(baseline_values).mean()),
        difference=outcome.difference,
        low=outcome.low,
        high=outcome.high,
        p=outcome.p,
        p_holm=outcome.p,
        effect_size=outcome.effect_size,
        seeds=len(arm_values),
        by_seed=tuple(one.difference for one in by_seed),
        p_by_seed=tuple(one.p for one in by_seed),
        questions=int(asked.any(0).sum()),
        queries=int(asked.sum()),
        p_of_articles=_p_of_clusters(arm_values, baseline_values, articles) if articles else math.nan,
    )


def _p_of_clusters(
    arm_values: Float64[np.ndarray, "seeds tasks questions"],
    baseline_values: Float64[np.ndarray, "seeds tasks questions"],
    clusters: Sequence[str],
) -> float:
    """Return the p-value of `crossed_test` if the questions of a cluster are one observation."""
    asked = ~np.isnan(baseline_values[0]).all(0)
    names, cluster = np.unique(np.array(clusters)[asked], return_inverse=True)
    member = (cluster == np.arange(len(names))[:, None]) * (len(names) / asked.sum())

    def of_clusters(values: np.ndarray) -> np.ndarray:
        of_questions = influences(values[..., asked])
        average = of_questions.mean(-1, keepdims=True)
        return average + (of_questions - average) @ member.T  # sizes of clusters add no variance

    return crossed_test(of_clusters(arm_values), of_clusters(baseline_values))[0]


def family(contrasts: Sequence[Contrast | None]) -> list[Contrast]:
    """Return the contrasts that could be measured, corrected together by Holm's method."""
    measured = [contrast for contrast in contrasts if contrast is not None]
    if not measured:
        return []
    corrected = holm(np.array([contrast.p for contrast in measured])).tolist()
    return [replace(contrast, p_holm=p) for contrast, p in zip(measured, corrected, strict=True)]


def _results(record: RunRecord, measure: Measure) -> Results:
    """Return the values per query of one measure, transformed as the measure says."""
    results = record.sections[measure.section].results()
    setting, name = _setting(measure), _name(measure)

    def transformed(values: np.ndarray) -> np.ndarray:
        values = np.where(np.isnan(values), 0.0, values) if measure.failures_as_zero else values
        return np.log(np.maximum(values, measure.floor)) if measure.log else values

    tasks = [
        replace(task, per_query={name: transformed(task.per_query[name])}) for task in results.settings[setting].tasks
    ]
    return replace(results, settings={setting: SettingResult(tuple(tasks))})


def _setting(measure: Measure) -> Setting:
    return cast(Setting, measure.name.partition("/")[0])


def _name(measure: Measure) -> str:
    return measure.name.partition("/")[2]


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _shown(value: float, measure: Measure) -> float:
    return math.exp(value) if measure.log else value
