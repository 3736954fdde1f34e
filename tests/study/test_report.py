"""The page says what the records say."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxretr.study import tables
from jaxretr.study.analysis import Analysis
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
    assert answer.count("**Hybrid batches make the model more robust than monolingual training**") == 2
    assert "2 seeds" in answer and "× 0.95 and × 1.05" in answer and "Clean, on all questions, hybrid minus" in answer
    assert "| hybrid |" in text and "### Secondary measures" in text and "### Do stronger attacks agree?" in text
    for name in ("robust_success", "primary", "alpha"):
        assert f"(study/{name}.png)" in text
        assert (tmp_path / "study" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    protocol = TEMPLATE.read_text("utf-8").partition("## Protocol")[2]
    assert text.endswith(protocol)


def test_a_null_result_is_called_one(tmp_path: Path) -> None:
    text = " ".join(written(tmp_path, 0.0).split())
    assert "make the model as robust as monolingual training" in text
    assert "make the model more robust" not in text and "make the model less robust" not in text


def test_less_robust_is_said(tmp_path: Path) -> None:
    assert "make the model less robust than monolingual" in " ".join(written(tmp_path, -0.1).split())


def test_languages_that_training_has_not_seen_come_last(tmp_path: Path) -> None:
    records = {f"hybrid-{seed}": made.record("hybrid", seed, gain=0.0) for seed in (0, 1)}
    study = made.study(tmp_path)
    data = dataclasses.replace(study.base.data, languages=("en",), alpha=1.0)
    analysis = Analysis(records, dataclasses.replace(study, base=dataclasses.replace(study.base, data=data)))
    rows = [line for line in "\n".join(tables.by_language(analysis)).splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[2:4]] == ["en", "de (unseen)"]
    values = np.array(records["hybrid-0"].sections["cross"].per_query["cross"]["en→en"]["core smallest_budget"])
    others = np.array(records["hybrid-1"].sections["cross"].per_query["cross"]["en→en"]["core smallest_budget"])
    mean = np.exp((np.log(values).mean() + np.log(others).mean()) / 2)
    assert f"| {mean:.3f} |" in rows[2]


def test_poison_within_and_across_languages(tmp_path: Path) -> None:
    transfer = {
        "optimised_on": ["de", "en"],
        "tested_on": ["de", "en"],
        "success": [[0.5, 0.1], [0.2, 0.7]],
        "queries": [30, 30],
    }
    ceiling = {"success": [[[0.9, 0.3], [0.4, 1.0]]]}
    run = made.record("hybrid", 0, gain=0.0).with_section(
        "poison", SectionRecord("xquad-r", {}, {}, {"transfer": transfer, "ceiling": ceiling}, 1.0)
    )
    text = "\n".join(tables.poison(Analysis({run.arm + "-0": run}, made.study(tmp_path))))
    assert "### Corpus poisoning, hybrid-0" in text and "| en | 0.20 (0.40) | 0.70 (1.00) |" in text
    assert "language 0.600 (ceiling 0.950), across 0.150 (ceiling 0.350)" in " ".join(text.split())


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
