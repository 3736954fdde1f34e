"""Contrasts find what is there and only that."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxretr.study.analysis import CLEAN, Analysis, Contrast, family
from jaxretr.study.records import RunRecord
from tests.study import made
from tests.study.made import PRIMARY, SECONDARY


def records(gain: float, quality: float = 0.0, **gains: float) -> dict[str, RunRecord]:
    arms = {"monolingual": 0.0, "hybrid": gain} | gains
    runs = [
        made.record(arm, seed, gain=g, quality=quality if arm == "hybrid" else 0.0)
        for arm, g in arms.items()
        for seed in (0, 1)
    ]
    return {run.name: run for run in runs}


@pytest.mark.parametrize("measure", [PRIMARY[0], CLEAN[0]], ids=["logarithms", "values"])
def test_a_difference_is_found_with_its_size(measure, tmp_path: Path) -> None:
    analysis = Analysis(records(0.1), made.study(tmp_path))
    found = analysis.contrast("hybrid", measure)
    assert found is not None
    assert found.difference == pytest.approx(0.1, abs=0.02)
    assert found.low < 0.1 < found.high
    assert found.p < 0.05
    assert found.seeds == 2 and found.questions == made.QUESTIONS
    assert all(p < 0.001 for p in found.p_by_seed)
    assert np.mean(found.by_seed) == pytest.approx(found.difference)
    assert found.arm_value - found.baseline_value == pytest.approx(found.difference)
    arm, baseline = (np.mean(analysis.values(name, measure)) for name in ("hybrid", "monolingual"))
    expected = math.log(arm / baseline) if measure.log else arm - baseline
    assert found.difference == pytest.approx(expected, abs=1e-3)


def test_no_difference_is_none(tmp_path: Path) -> None:
    found = Analysis(records(0.0), made.study(tmp_path)).secondary
    assert len(found) == len(SECONDARY)
    assert not any(one.significant for one in found)


def test_a_family_is_corrected_together(tmp_path: Path) -> None:
    analysis = Analysis(records(0.1), made.study(tmp_path))
    single = [analysis.contrast("hybrid", measure) for measure in SECONDARY[:3]]
    corrected = family([*single, None])
    smallest = min(single, key=lambda one: one.p)
    assert min(one.p_holm for one in corrected) == pytest.approx(3 * smallest.p)


def test_every_baseline_is_compared_in_one_family(tmp_path: Path) -> None:
    study = dataclasses.replace(made.study(tmp_path), further_baselines=("short",))
    tested = Analysis(records(0.1, short=0.2), study).primary
    assert [(one.measure.section, one.baseline) for one in tested] == [
        ("cross", "monolingual"),
        ("cross", "short"),
        ("mixed", "monolingual"),
        ("mixed", "short"),
    ]
    assert [one.difference > 0 for one in tested] == [True, False, True, False]
    assert max(one.p_holm / one.p for one in tested) == pytest.approx(4)


def test_only_queries_that_all_deciding_arms_answer_count_unless_failures_are_zero(tmp_path: Path) -> None:
    """The arms answer other queries; the mean of one arm over its own queries would say something else."""
    study = dataclasses.replace(made.study(tmp_path), further_baselines=("short",))
    runs = records(0.0, short=0.0)
    for name, failing in (("hybrid-0", 0), ("short-1", 1)):
        columns = runs[name].sections["cross"].per_query["cross"]["de→de"]
        columns["core smallest_budget"][failing] = None
    found = Analysis(runs, study).contrast("hybrid", PRIMARY[0])
    assert found and found.queries == 2 * made.QUESTIONS - 2
    zeros = Analysis(runs, study).contrast("hybrid", SECONDARY[0])
    assert zeros and zeros.queries == 2 * made.QUESTIONS and zeros.difference < found.difference


def test_small_values_count_as_the_floor(tmp_path: Path) -> None:
    runs = records(0.0)
    for run in runs.values():
        run.sections["cross"].per_query["cross"]["de→de"]["core smallest_budget"][0] = (
            1e-5 if run.arm == "hybrid" else 0.01
        )
    before = Analysis(records(0.0), made.study(tmp_path)).contrast("hybrid", PRIMARY[0])
    after = Analysis(runs, made.study(tmp_path)).contrast("hybrid", PRIMARY[0])
    assert before and after and abs(after.difference - before.difference) < 0.01


def test_articles_are_clusters_of_questions(tmp_path: Path) -> None:
    """With one seed and articles of equally many questions, it is the paired t-test over the means of articles."""
    found = Analysis(
        {name: run for name, run in records(0.02).items() if run.seed == 0}, made.study(tmp_path)
    ).contrast("hybrid", PRIMARY[0])
    assert found
    values = [
        np.log([[columns["core smallest_budget"][q] for q in range(made.QUESTIONS)] for columns in of_arm.values()])
        for of_arm in (
            records(0.02)[f"{arm}-0"].sections["cross"].per_query["cross"] for arm in ("hybrid", "monolingual")
        )
    ]
    of_articles = (values[0] - values[1]).mean(0).reshape(-1, 3).mean(1)
    assert found.p_of_articles == pytest.approx(stats.ttest_1samp(of_articles, 0).pvalue, rel=1e-6)


def test_sizes_of_articles_add_no_variance(tmp_path: Path) -> None:
    """If every question differs by the same amount, nothing varies between articles."""
    runs = {name: run for name, run in records(0.0).items() if run.seed == 0}
    section = runs["hybrid-0"].sections["cross"]
    for task, columns in section.per_query["cross"].items():
        own = runs["monolingual-0"].sections["cross"].per_query["cross"][task]["core smallest_budget"]
        columns["core smallest_budget"] = [1.1 * value for value in own]
    for run in runs.values():
        answers = {str(question): f"{min(question, 10)}.0" for question in range(made.QUESTIONS)}
        run.sections["cross"].facts["answers"] = answers
    found = Analysis(runs, made.study(tmp_path)).contrast("hybrid", PRIMARY[0])
    assert found and found.difference == pytest.approx(math.log(1.1)) and found.p_of_articles < 1e-9


def test_seeds_are_paired_by_number(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    reversed_seeds = dataclasses.replace(study.arms["hybrid"], seeds=(1, 0))
    other = dataclasses.replace(study, arms=study.arms | {"hybrid": reversed_seeds})
    runs = records(0.1)
    found, expected = (Analysis(runs, one).contrast("hybrid", PRIMARY[0]) for one in (other, study))
    assert found and expected and found.by_seed == expected.by_seed and len(set(found.by_seed)) == 2


def test_at_matched_quality_a_gain_of_quality_alone_is_none(tmp_path: Path) -> None:
    """Half as long, the arm has half the quality and half the smallest ρ; matched, it equals the baseline."""
    runs = records(0.2, quality=0.1)
    for seed in (0, 1):
        runs[f"short-{seed}"] = made.record("short", seed, gain=-0.2, quality=-0.1)
    found = Analysis(runs, made.study(tmp_path)).matched(PRIMARY[0], "monolingual", "cross/nDCG@10")
    assert found
    assert found.qualities == ((pytest.approx(0.5), pytest.approx(0.5)),) * 2
    assert found.contrast.difference == pytest.approx(0, abs=0.01) and not found.contrast.significant
    assert found.contrast.arm == "hybrid, matched"
    beyond = {name: run for name, run in runs.items() if not name.startswith("monolingual")}
    for seed in (0, 1):
        beyond[f"monolingual-{seed}"] = made.record("monolingual", seed, gain=0.0, quality=0.3)
    nearest = Analysis(beyond, made.study(tmp_path)).matched(PRIMARY[0], "monolingual", "cross/nDCG@10")
    assert nearest and nearest.qualities[0] == (pytest.approx(0.8), pytest.approx(0.6))
    assert nearest.contrast.difference == pytest.approx(0.2, abs=0.02)
    assert Analysis(records(0.2), made.study(tmp_path)).matched(PRIMARY[0], "monolingual", "cross/nDCG@10") is None


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "verdict"),
    [
        (0.1, 0.05, 0.15, 0.001, "higher"),
        (-0.1, -0.15, -0.05, 0.001, "lower"),
        (0.01, -0.02, 0.04, 0.4, "equivalent"),
        (0.01, -0.02, 0.06, 0.4, "undecided"),
        (-0.01, -0.06, 0.04, 0.4, "undecided"),
    ],
)
def test_verdicts(difference: float, low: float, high: float, p: float, verdict: str) -> None:
    contrast = Contrast(
        arm="hybrid",
        baseline="monolingual",
        measure=PRIMARY[0],
        arm_value=difference,
        baseline_value=0.0,
        difference=difference,
        low=low,
        high=high,
        p=p,
        p_holm=p,
        effect_size=1.0,
        seeds=2,
        by_seed=(difference, difference),
        p_by_seed=(p, p),
        questions=30,
        queries=60,
    )
    assert contrast.verdict(0.05) == verdict


def test_what_is_not_measured_has_no_contrast(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    assert Analysis({}, study).contrast("hybrid", PRIMARY[0]) is None
    assert Analysis(records(0.1), study).contrast("half", PRIMARY[0]) is None
    assert family([None]) == []
    assert Analysis({}, study).values("hybrid", PRIMARY[0]) == []
