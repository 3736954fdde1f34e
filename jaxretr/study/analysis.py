"""What a study's records say: means of each arm, tested differences between arms; records come in, figures go out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxretr.eval.compare import compare
from jaxretr.eval.results import Results
from jaxretr.eval.significance import ALPHA, holm
from jaxretr.study.design import Section, Study
from jaxretr.study.records import RunRecord

AREA = "pgd robust_success@10_area"


@dataclass(frozen=True)
class Measure:
    """A figure of the study.

    Attributes:
      section: that it is found in.
      name: "setting/measure".
      title: what tables call it.
      decimals: with which it is printed.
    """

    section: Section
    name: str
    title: str
    decimals: int = 3


PRIMARY = Measure("multi", f"multi/{AREA}", "area under robust success@10, multi")
SECONDARY = (
    Measure("cross", f"cross/{AREA}", "area under robust success@10, cross"),
    Measure("mono", f"mono/{AREA}", "area under robust success@10, mono"),
    Measure("multi", "multi/pgd smallest_budget", "smallest ρ that loses the query"),
    Measure("multi", "multi/pooled_radius@10", "pooled radius@10"),
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


@dataclass(frozen=True)
class Contrast:
    """An arm minus the baseline by one measure, over the seeds that both have.

    Attributes:
      arm, baseline, measure: which.
      arm_value, baseline_value: means.
      difference, low, high: with its 95 % interval.
      p: two-sided, of one test.
      p_holm: corrected over the family of the contrast; that of a test without a family is `p`.
      effect_size: Cohen's d over questions.
      seeds: how many.
      by_seed: the difference under each.
      p_by_seed: of the paired randomisation test within each.
      questions: clusters tested.
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


def contrast(
    records: Mapping[str, RunRecord],
    study: Study,
    arm: str,
    measure: Measure,
    *,
    baseline: str = "",
    section: Section | None = None,
) -> Contrast | None:
    """An arm against the baseline, or another; None where no seed of both has been measured.

    Args:
      records: by name.
      study: whose baseline, and which seeds.
      arm: its name.
      measure: by which.
      baseline: "" for the study's.
      section: of the arm, where it is not that of the measure (the matched checkpoint against the finished baseline).
    """
    baseline = baseline or study.contrast[0]
    pairs: list[tuple[Results, Results]] = []
    for seed in study.arms[arm].seeds:
        one = _results(records, arm, seed, section or measure.section, measure.name)
        other = _results(records, baseline, seed, measure.section, measure.name)
        if one and other:
            pairs.append((one, other))
    if not pairs:
        return None

    def tested(some: Sequence[tuple[Results, Results]]):  # type: ignore[no-untyped-def]
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
    """Those that could be measured, corrected together by Holm's method."""
    found = [one for one in contrasts if one is not None]
    if not found:
        return []
    corrected = holm(np.array([one.p for one in found])).tolist()
    return [Contrast(**{**vars(one), "p_holm": p}) for one, p in zip(found, corrected, strict=True)]


def by_task(records: Mapping[str, RunRecord], study: Study, arm: str, measure: Measure) -> dict[str, float]:
    """The mean of a measure over seeds for each task, such as a query language; without those that have no value."""
    found: dict[str, list[float]] = {}
    for seed in study.arms[arm].seeds or (0,):
        record = records.get(f"{arm}-{seed}")
        section = record.sections.get(measure.section) if record else None
        for task, value in (section.by_task.get(measure.name, {}) if section else {}).items():
            if value is not None:
                found.setdefault(task, []).append(value)
    return {task: float(np.mean(values)) for task, values in found.items()}


def arm_values(records: Mapping[str, RunRecord], study: Study, arm: str, measure: Measure) -> list[float]:
    """The mean of a measure under each seed that has been measured."""
    found = []
    for seed in study.arms[arm].seeds or (0,):
        record = records.get(f"{arm}-{seed}")
        section = record.sections.get(measure.section) if record else None
        value = section.scalar(measure.name) if section else math.nan
        if not math.isnan(value):
            found.append(value)
    return found


def _results(records: Mapping[str, RunRecord], arm: str, seed: int, section: Section, name: str) -> Results | None:
    """What a section found, if the measure has a value there."""
    record = records.get(f"{arm}-{seed}")
    found = record.sections.get(section) if record else None
    return None if found is None or math.isnan(found.scalar(name)) else found.results()
