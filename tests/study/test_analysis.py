"""Contrasts find what is there and only that."""

from pathlib import Path

import numpy as np
import pytest

from jaxretr.study.analysis import PRIMARY, SECONDARY, Analysis, family
from tests.study import made


def records(gain: float) -> dict:
    runs = [made.record(arm, seed, gain=g) for arm, g in (("monolingual", 0.0), ("hybrid", gain)) for seed in (0, 1)]
    return {run.name: run for run in runs}


def test_a_difference_is_found_with_its_size(tmp_path: Path) -> None:
    found = Analysis(records(0.1), made.study(tmp_path)).contrast("hybrid", PRIMARY)
    assert found is not None
    assert found.difference == pytest.approx(0.1, abs=0.02)
    assert found.low < 0.1 < found.high
    assert found.p < 0.05
    assert found.seeds == 2 and found.questions == made.QUESTIONS
    assert all(p < 0.001 for p in found.p_by_seed)
    assert np.mean(found.by_seed) == pytest.approx(found.difference)
    assert found.arm_value - found.baseline_value == pytest.approx(found.difference)


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


def test_what_is_not_measured_has_no_contrast(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    assert Analysis({}, study).contrast("hybrid", PRIMARY) is None
    assert Analysis(records(0.1), study).contrast("half", PRIMARY) is None
    assert family([None]) == []
    assert Analysis({}, study).values("hybrid", PRIMARY) == []
