"""The page of a study of hardening strengths, from made-up records."""

import dataclasses
from pathlib import Path

import pytest

from jaxretr.config import HardeningConfig
from jaxretr.study import hardening
from jaxretr.study.analysis import Analysis
from jaxretr.study.design import Arm, Study
from jaxretr.study.records import load_all
from jaxretr.study.report import write_page
from tests.study import made

GAINS = {"hybrid": 0.0, "queries": 0.1, "both": -0.1, "weak": 0.001, "untrained": 0.05}


def study(root: Path) -> Study:
    def arm(sides: str, rho: float) -> Arm:
        return Arm(
            hardening=HardeningConfig(method="fgm", sides=sides, rho=rho),
            rate_of="hybrid",
            seeds=(0, 1),
            sections=made.ALL,
        )

    arms = {
        "hybrid": Arm(seeds=(0, 1)),
        "queries": arm("queries", 0.1),
        "both": arm("both", 0.1),
        "weak": arm("queries", 0.01),
        "typos": Arm(hardening=HardeningConfig(method="typos"), rate_of="hybrid"),  # not measured
        "untrained": Arm(seeds=()),
    }
    return dataclasses.replace(made.study(root), arms=arms, rates=(1e-3,))


def written(root: Path) -> str:
    for arm, gain in GAINS.items():
        for seed in (0,) if arm == "untrained" else (0, 1):
            made.record(arm, seed, gain=gain).save(root / "sweep" / "results")
    return write_page(study(root), root / "sweep").read_text("utf-8")


def test_the_page_compares_every_strength_with_the_unhardened_recipe(tmp_path: Path) -> None:
    text = written(tmp_path)
    flat = " ".join(text.split())
    assert text.startswith("# Hardening over strengths") and "(sweep/trade_off.png)" in text
    assert (tmp_path / "sweep" / "trade_off.png").read_bytes().startswith(b"\x89PNG")
    assert "exclude a loss of 0.02 in every clean mAP: queries." in flat
    assert "correction over all 12 differences" in flat
    differences = text.partition("### Differences from hybrid")[2].partition("###")[0]
    rows = {line.split("|")[1].strip(): line for line in differences.splitlines() if line.startswith("| ")}
    assert rows.keys() == {"", "---", "hybrid", "queries", "both", "weak", "untrained"}, "typos is not measured"
    assert "**× 1.1" in rows["queries"] and "**× 0.9" in rows["both"] and "**" not in rows["weak"]
    assert write_page(study(tmp_path), tmp_path / "sweep").read_text("utf-8") == text


def test_a_certain_loss_of_clean_quality_is_not_recommended(tmp_path: Path) -> None:
    written(tmp_path)
    analysis = Analysis(load_all(tmp_path / "sweep" / "results"), study(tmp_path))
    robustness = made.PRIMARY[0]
    robust, clean = (analysis.contrast("queries", robustness), analysis.contrast("both", robustness))
    assert robust and clean
    assert "No hardened arm is measured" in hardening.verdict({})
    assert "clean mAP: none." in hardening.verdict({"queries": [robust, clean]})
    assert "clean mAP: queries." in hardening.verdict({"queries": [robust, robust]})


@pytest.mark.parametrize(
    ("chosen", "name", "strength"),
    [
        (HardeningConfig(method="fgm", rho=0.1, weight=0.5, sides="queries"), "fgm, queries", 0.05),
        (HardeningConfig(method="freelb", rho=0.1, weight=0.5), "freelb, both", 0.1),
        (HardeningConfig(method="typos", weight=0.5), "typos", 0.5),
        (HardeningConfig(method="translations", translations=3), "translations", 3),
    ],
)
def test_lines_and_strengths(chosen: HardeningConfig, name: str, strength: float) -> None:
    assert hardening.method(chosen) == name
    assert hardening.strength(chosen) == pytest.approx(strength)
