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
      section: the section that measures it.
      name: "setting/measure".
      title: its name in tables.
      decimals: number of printed decimals.
    """

    section: Section
    name: str
    title: str
    decimals: int = 3

    @property
    def is_share(self) -> bool:
        """Whether values are between 0 and 1, so that one picture can show several such measures; ranks are not."""
        return self.decimals == 3


PRIMARY = Measure("multi", f"multi/{AREA}", "area under robust success@10, multi")
SMALLEST = Measure("multi", "multi/pgd smallest_budget", "smallest ρ that loses the query")
MARGIN = Measure("multi", "multi/pooled_radius@10", "pooled radius@10")
SECONDARY = (
    Measure("cross", f"cross/{AREA}", "area under robust success@10, cross"),
    Measure("mono", f"mono/{AREA}", "area under robust success@10, mono"),
    SMALLEST,
    MARGIN,
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
RADIUS = Measure("cross", "cross/pooled_radius@10", "pooled radius@10")


@dataclass(frozen=True)
class Contrast:
    """An arm minus the baseline by one measure, over the seeds that both have.

    Attributes:
      arm, baseline, measure: what is compared, and by which measure.
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
        """The arms with a record that are trained, without the references."""
        return [arm for arm in self.arms if self.study.arms[arm].seeds]

    @property
    def secondary(self) -> list[Contrast]:
        """The arm in question minus the baseline by all secondary measures, corrected together."""
        return family([self.contrast(self.study.contrast[1], measure) for measure in SECONDARY])

    def of_arm(self, arm: str) -> dict[int, RunRecord]:
        """Return the records of an arm by seed; a reference that is not trained has seed 0."""
        seeds = self.study.arms[arm].seeds or (0,)
        return {seed: self.records[name] for seed in seeds if (name := f"{arm}-{seed}") in self.records}

    def contrast(
        self, arm: str, measure: Measure, *, baseline: str = "", section: Section | None = None
    ) -> Contrast | None:
        """Return an arm minus a baseline; None if there is no seed under which both have been measured.

        Args:
          arm: name of the arm.
          measure: the measure to compare by.
          baseline: name of the baseline; "" is the baseline of the study.
          section: section of the arm, if it differs from the section of the measure (as when the matched checkpoint is
            compared with the finished baseline).
        """
        asked = arm, measure, baseline or self.study.contrast[0], section or measure.section
        if asked not in self._tested:
            self._tested[asked] = self._contrast(*asked)
        return self._tested[asked]

    def by_task(self, arm: str, measure: Measure) -> dict[str, float]:
        """Return the mean over seeds for each task, such as a query language; tasks without a value are omitted."""
        found: dict[str, list[float]] = {}
        for record in self.of_arm(arm).values():
            section = record.sections.get(measure.section)
            for task, value in (section.by_task.get(measure.name, {}) if section else {}).items():
                if value is not None:
                    found.setdefault(task, []).append(value)
        return {task: float(np.mean(values)) for task, values in found.items()}

    def values(self, arm: str, measure: Measure) -> list[float]:
        """Return the mean of a measure under each seed that has been measured."""
        found = [
            record.sections[measure.section].scalar(measure.name)
            for record in self.of_arm(arm).values()
            if measure.section in record.sections
        ]
        return [value for value in found if not math.isnan(value)]

    def _contrast(self, arm: str, measure: Measure, baseline: str, section: Section) -> Contrast | None:
        ones, others = self.of_arm(arm), self.of_arm(baseline)
        pairs: list[tuple[Results, Results]] = []
        for seed in sorted(ones.keys() & others.keys()):
            one, other = _results(ones[seed], section, measure), _results(others[seed], measure.section, measure)
            if one and other:
                pairs.append((one, other))
        if not pairs:
            return None

        def tested(some: Sequence[tuple[Results, Results]]) -> MeasureComparison:
            systems = {baseline: [other for _, other in some], arm: [one for one, _ in some]}
            return compare(systems, measures=[measure.name], baseline=baseline).measures[0]

        of_all = tested(pairs)
        alone = [tested([pair]).pairs[0] for pair in pairs]
        (found,) = of_all.pairs
        values = {system.system: system.value for system in of_all.systems}
        return Contrast(
            arm=arm,
            baseline=baseline,
            measure=measure,
            arm_value=values[arm],
            baseline_value=values[baseline],
            difference=found.difference,
            low=found.low,
            high=found.high,
            p=found.p,
            p_holm=found.p,
            effect_size=found.effect_size,
            seeds=len(pairs),
            by_seed=tuple(one.difference for one in alone),
            p_by_seed=tuple(one.p for one in alone),
            questions=of_all.questions,
        )


def family(contrasts: Sequence[Contrast | None]) -> list[Contrast]:
    """Return the contrasts that could be measured, corrected together by Holm's method."""
    found = [one for one in contrasts if one is not None]
    if not found:
        return []
    corrected = holm(np.array([one.p for one in found])).tolist()
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def _results(record: RunRecord, section: Section, measure: Measure) -> Results | None:
    """Return the results of a section, or None if the measure has no value in it."""
    found = record.sections.get(section)
    return None if found is None or math.isnan(found.scalar(measure.name)) else found.results()
