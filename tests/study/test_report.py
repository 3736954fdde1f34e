"""The page says what the records say."""

from pathlib import Path

import numpy as np
import pytest

from jaxretr.study import tables
from jaxretr.study.analysis import POOLED_RADIUS_MULTI, SMALLEST, Analysis
from jaxretr.study.records import SectionRecord
from jaxretr.study.report import TEMPLATE, write_page
from tests.study import made


def written(root: Path, gain: float) -> str:
    directory = root / "study"
    for arm, of_arm in (("monolingual", 0.0), ("hybrid", gain), ("half", gain)):
        for seed in (0, 1) if arm != "half" else (0,):
            made.record(arm, seed, gain=of_arm).save(directory / "results")
    return write_page(made.study(root), directory).read_text("utf-8")


def test_answer_and_tables(tmp_path: Path) -> None:
    text = written(tmp_path, 0.1)
    answer = " ".join(text.partition("<!-- answer -->")[2].partition("<!-- /answer -->")[0].split())
    assert "**Hybrid batches make the model more robust in a pool of all languages**" in answer
    assert "2 seeds" in answer and "No run has been made" not in answer
    assert "| hybrid |" in text and "### hybrid minus monolingual, secondary measures" in text
    for name in ("robust_success", "differences", "alpha"):
        assert f"(study/{name}.png)" in text
        assert (tmp_path / "study" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    protocol = TEMPLATE.read_text("utf-8").partition("## Protocol")[2]
    assert text.endswith(protocol)


def test_a_null_result_is_called_one(tmp_path: Path) -> None:
    assert "**No effect of hybrid batches on robustness was found**" in written(tmp_path, 0.0)


def test_less_robust_is_said(tmp_path: Path) -> None:
    assert "make the model less robust" in written(tmp_path, -0.1)


def test_the_ratio_is_of_each_seed(tmp_path: Path) -> None:
    records = {f"hybrid-{seed}": made.record("hybrid", seed, gain=0.0) for seed in (0, 1)}
    analysis = Analysis(records, made.study(tmp_path))
    smallest, radii = (np.array(analysis.values("hybrid", measure)) for measure in (SMALLEST, POOLED_RADIUS_MULTI))
    ratios = smallest / radii
    (row,) = [line for line in "\n".join(tables.margin_and_sensitivity(analysis)).splitlines() if "| hybrid |" in line]
    assert row.endswith(f" {ratios.mean():.2f} ± {ratios.std(ddof=1):.2f} |")


def test_poison_within_and_across_languages(tmp_path: Path) -> None:
    transfer = {
        "optimised_on": ["de", "en"],
        "tested_on": ["de", "en"],
        "success": [[0.5, 0.1], [0.2, 0.7]],
        "queries": [30, 30],
    }
    run = made.record("hybrid", 0, gain=0.0).with_section(
        "poison", SectionRecord("xquad-r", {}, {}, {"transfer": transfer}, 1.0)
    )
    text = "\n".join(tables.poison(Analysis({run.arm + "-0": run}, made.study(tmp_path))))
    assert "### Corpus poisoning, hybrid-0" in text and "| en | 0.20 | 0.70 |" in text
    assert "0.600 within a language, 0.150 across" in " ".join(text.split())


@pytest.mark.slow
def test_drawing_again_changes_nothing(tmp_path: Path) -> None:
    before = written(tmp_path, 0.1)
    assert write_page(made.study(tmp_path), tmp_path / "study").read_text("utf-8") == before


def test_nothing_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no record of a run; run scripts/study.py without --report first"):
        write_page(made.study(tmp_path), tmp_path / "study")


def test_a_page_without_blocks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "study.md").write_text("mine")
    with pytest.raises(ValueError, match="has no block <!-- answer -->"):
        written(tmp_path, 0.1)
    assert (tmp_path / "study.md").read_text() == "mine"
