"""Analysis of a study's records: the means of each arm, and tested differences between arms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxretr.eval.compare import MeasureComparison, compare
from jaxretr.eval.results import Results
from jaxretr.eval.significance import ALPHA, holm
from jaxretr.study.design import Section, Study
from jaxretr.study.records import RunRecord

AREA = "pgd robust_success@10_area"


@dataclass(frozen=True)
class Measure:
    """A measure of the study.

    Attributes:
      section: section that records the measure.
      name: "setting/measure".
      title: name in tables.
      decimals: number of printed decimals.
    """

    section: Section
    name: str
    title: str
    decimals: int = 3

    @property
    def is_share(self) -> bool:
        """Whether values are shares, between 0 and 1. Several shares fit into one picture; ranks and shares do not."""
        return self.decimals == 3


PRIMARY = Measure("multi", f"multi/{AREA}", "area under robust success@10, multi")
SMALLEST = Measure("multi", "multi/pgd smallest_budget", "smallest ρ that loses the query")
POOLED_RADIUS_MULTI = Measure("multi", "multi/pooled_radius@10", "pooled radius@10")
SECONDARY = (
    Measure("cross", f"cross/{AREA}", "area under robust success@10, cross"),
    Measure("mono", f"mono/{AREA}", "area under robust success@10, mono"),
    SMALLEST,
    POOLED_RADIUS_MULTI,
    Measure("multi", "multi/pgd@0.1 nDCG@10", "nDCG@10 under PGD, ρ .1"),
    Measure("multi", "multi/typos@1 robust_success@10", "success@10 left by typos"),
    Measure("multi", "multi/homoglyphs@1 robust_success@10", "success@10 left by homoglyphs"),
    Measure("multi", "multi/invisible@1 robust_success@10", "success@10 left by invisible characters"),
    Measure("multi", "multi/code_mixing@3 robust_success@10", "success@10 left by code mixing"),
    Measure("multi", "multi/language_switch robust_success@10", "success@10 left by language switch"),
    Measure("multi", "multi/pgd@0.1 rank_distance", "rank distance under PGD, ρ .1 ↓", 1),
    Measure("multi", "multi/pgd@0.1 own_language_share@10", "own language @10 under PGD, ρ .1"),
    Measure("clean", "multi/rank_distance", "rank distance, clean ↓", 1),
    Measure("clean", "multi/own_language_share@10", "own language @10, clean"),
    Measure("clean", "mono/AP", "mAP, mono, clean"),
    Measure("clean", "cross/AP", "mAP, cross, clean"),
    Measure("clean", "multi/AP", "mAP, multi, clean"),
    Measure("further", "mono/nDCG@10", "nDCG@10, English (Cranfield), clean"),
)


CLEAN = tuple(Measure("clean", f"{setting}/AP", f"mAP, {setting}") for setting in ("mono", "cross", "multi"))
MAIN = (
    PRIMARY,
    SECONDARY[0],
    SECONDARY[1],
    *CLEAN,
    Measure("clean", "multi/rank_distance", "rank distance ↓", 1),
    Measure("further", "mono/nDCG@10", "Cranfield nDCG@10"),
)
BLACK_BOX = tuple(
    measure
    for measure in SECONDARY
    if any(name in measure.name for name in ("typos", "homoglyphs", "invisible", "mixing"))
)
POOLED_RADIUS_CROSS = Measure("cross", "cross/pooled_radius@10", "pooled radius@10")


@dataclass(frozen=True)
class Contrast:
    """The difference between an arm and the baseline in one measure, over their common seeds.

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
      questions: number of clusters tested.
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

    @property
    def significant(self) -> bool:
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class Analysis:
    """The records of a study and their tests; each contrast is tested once.

    Attributes:
      records: the records by name.
      study: the study, with its arms, seeds and baseline.
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
    def secondary(self) -> list[Contrast]:
        """The contrasts of the arm in question with the baseline in all secondary measures, corrected together."""
        return family([self.contrast(self.study.contrast[1], measure) for measure in SECONDARY])

    def of_arm(self, arm: str) -> dict[int, RunRecord]:
        """Return the records of an arm by seed; a reference that is not trained has seed 0."""
        seeds = self.study.arms[arm].seeds or (0,)
        return {seed: self.records[name] for seed in seeds if (name := f"{arm}-{seed}") in self.records}

    def contrast(
        self, arm: str, measure: Measure, *, baseline: str = "", section: Section | None = None
    ) -> Contrast | None:
        """Return the contrast of an arm with a baseline; None if no seed has measurements of both.

        Args:
          arm: name of the arm.
          measure: the measure to compare by.
          baseline: name of the baseline; "" is the baseline of the study.
          section: section of the arm, if it differs from the section of the measure (as when the matched checkpoint is
            compared with the finished baseline).
        """
        key = arm, measure, baseline or self.study.contrast[0], section or measure.section
        if key not in self._tested:
            self._tested[key] = self._contrast(*key)
        return self._tested[key]

    def by_task(self, arm: str, measure: Measure) -> dict[str, float]:
        """Return the mean over seeds for each task, such as a query language; tasks without a value are omitted."""
        values_by_task: dict[str, list[float]] = {}
        for record in self.of_arm(arm).values():
            section = record.sections.get(measure.section)
            for task, value in (section.by_task.get(measure.name, {}) if section else {}).items():
                if value is not None:
                    values_by_task.setdefault(task, []).append(value)
        return {task: float(np.mean(values)) for task, values in values_by_task.items()}

    def values(self, arm: str, measure: Measure) -> list[float]:
        """Return the mean of a measure for each measured seed."""
        values = [
            record.sections[measure.section].scalar(measure.name)
            for record in self.of_arm(arm).values()
            if measure.section in record.sections
        ]
        return [value for value in values if not math.isnan(value)]

    def _contrast(self, arm: str, measure: Measure, baseline: str, section: Section) -> Contrast | None:
        arm_records, baseline_records = self.of_arm(arm), self.of_arm(baseline)
        pairs: list[tuple[Results, Results]] = []
        for seed in sorted(arm_records.keys() & baseline_records.keys()):
            arm_results = _results(arm_records[seed], section, measure)
            baseline_results = _results(baseline_records[seed], measure.section, measure)
            if arm_results and baseline_results:
                pairs.append((arm_results, baseline_results))
        if not pairs:
            return None

        def tested(pairs: Sequence[tuple[Results, Results]]) -> MeasureComparison:
            systems = {baseline: [results for _, results in pairs], arm: [results for results, _ in pairs]}
            return compare(systems, measures=[measure.name], baseline=baseline).measures[0]

        over_seeds = tested(pairs)
        by_seed = [tested([pair]).pairs[0] for pair in pairs]
        (comparison,) = over_seeds.pairs
        values = {system.system: system.value for system in over_seeds.systems}
        return Contrast(
            arm=arm,
            baseline=baseline,
            measure=measure,
            arm_value=values[arm],
            baseline_value=values[baseline],
            difference=comparison.difference,
            low=comparison.low,
            high=comparison.high,
            p=comparison.p,
            p_holm=comparison.p,
            effect_size=comparison.effect_size,
            seeds=len(pairs),
            by_seed=tuple(seed.difference for seed in by_seed),
            p_by_seed=tuple(seed.p for seed in by_seed),
            questions=over_seeds.questions,
        )


def family(contrasts: Sequence[Contrast | None]) -> list[Contrast]:
    """Return the contrasts that could be measured, corrected together by Holm's method."""
    measured = [contrast for contrast in contrasts if contrast is not None]
    if not measured:
        return []
    corrected = holm(np.array([contrast.p for contrast in measured])).tolist()
    return [replace(contrast, p_holm=p) for contrast, p in zip(measured, corrected, strict=True)]


def _results(record: RunRecord, section: Section, measure: Measure) -> Results | None:
    """Return the results of a section, or None if the measure has no value in it."""
    recorded = record.sections.get(section)
    return None if recorded is None or math.isnan(recorded.scalar(measure.name)) else recorded.results()
