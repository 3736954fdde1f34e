"""Designs say what they mean, and the shipped ones are sound."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from jaxretr.config import HardeningConfig
from jaxretr.study.design import Arm, Measure, Run, Study
from jaxretr.study.study import _concerning
from tests.study import made

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["study_mini", "study_full", "study_full_labse"])
def test_shipped_designs(name: str, tmp_path: Path) -> None:
    study: Study = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_study"]()
    assert study.contrast == ("monolingual", "hybrid") and study.baselines == ("monolingual", "english")
    configs = {run.arm: study.config(run, 1e-4, tmp_path) for run in study.runs() if study.arms[run.arm].seeds}
    assert {arm: config.data.alpha for arm, config in configs.items()} == {
        "monolingual": 1.0,
        "hybrid": 0.5,
        "english": 1.0,
        "crosslingual": 0.0,
        "hybrid_third": 0.5,
        "hybrid_two_thirds": 0.5,
        "hybrid_alpha25": 0.25,
        "hybrid_alpha75": 0.75,
    }
    assert configs["english"].data.languages == ("en",) and study.shorter == ("hybrid_third", "hybrid_two_thirds")
    steps = [configs[arm].train.steps / configs["hybrid"].train.steps for arm in study.shorter]
    assert steps == pytest.approx([1 / 3, 2 / 3], rel=1e-3)
    # Equal updates, examples, schedule and data: apart from what makes the arm, all configs are one.
    shared = {
        str(dataclasses.replace(c, data=c.data.__class__(), hardening=c.hardening.__class__(), output_dir="", seed=0))
        for arm, c in configs.items()
        if arm not in study.shorter
    }
    assert len(shared) == 1
    for arm in study.arms.values():
        assert set(arm.all_sections) - {"clean", "further", "checks"} <= set(study.attacks)
    measures = (*study.primary, *study.secondary, *study.controls, *(m for t in study.tables.values() for m in t))
    for measure in measures:
        assert (
            measure.section in ("clean", "further")
            or study.attacks[measure.section].setting == measure.name.split("/")[0]
        )
    of_first = {section for arm in study.baselines for section in study.arms[arm].sections_of_first_seed}
    assert {run.seed for run in study.runs() if of_first & set(study.sections_of(run)) and run.arm != "untrained"} == {
        0
    }
    assert study.collection.name == "xquad-r" and "xquad" not in study.base.evaluation.dataset
    assert {one.options.seed for one in study.attacks.values()} == {0} and study.drawn_before == 60


@pytest.mark.parametrize(("name", "trained"), [("study_hardening", 61), ("study_hardening_quick", 9)])
def test_shipped_designs_of_hardening(name: str, trained: int, tmp_path: Path) -> None:
    """Equal updates on equal batches from one encoder, measured on validation pages only."""
    study: Study = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_study"]()
    assert study.compares_hardening and study.unhardened == study.contrast[0] == "hybrid"
    configs = {run.arm: study.config(run, 1e-4, tmp_path) for run in study.runs() if study.arms[run.arm].seeds}
    assert len(configs) == trained
    assert len({str(config.hardening) for config in configs.values()}) == trained
    assert {arm for arm, config in configs.items() if not config.hardening.method} == {"hybrid"}
    plain = {str(dataclasses.replace(c, hardening=HardeningConfig(), output_dir="", seed=0)) for c in configs.values()}
    assert len(plain) == 1
    assert (study.collection.name, study.collection.split) == ("libreoffice_help", "validation")
    assert not study.further and study.base.evaluation.dataset == "none" and len(study.rates) == 1
    for arm in study.arms.values():
        assert set(arm.all_sections) == {"clean", *study.attacks}


def test_kinds_of_batches_are_not_hardening(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    assert not study.compares_hardening and study.unhardened == "hybrid"


def test_first_seeds_come_first(tmp_path: Path) -> None:
    runs = list(made.study(tmp_path).runs())
    assert runs[:5] == [
        Run("monolingual", 0),
        Run("hybrid", 0),
        Run("half", 0),
        Run("short", 0),
        Run("monolingual", 1),
    ]
    assert runs[5:] == [Run("hybrid", 1), Run("short", 1), Run("untrained", 0), Run("bm25", 0)]


def test_an_arm_takes_the_rate_of_one_that_chooses(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    with pytest.raises(ValueError, match="takes the learning rate of 'half', which does not select one"):
        dataclasses.replace(study, arms=study.arms | {"other": Arm(rate_of="half")})


def test_the_design_of_a_run_does_not_say_where_things_are(tmp_path: Path) -> None:
    one = made.study(tmp_path)
    moved = dataclasses.replace(one.base, data=dataclasses.replace(one.base.data, data_dir="elsewhere"))
    other = dataclasses.replace(one, base=moved)
    assert one.design_of(Run("hybrid", 0)) == other.design_of(Run("hybrid", 0))
    assert one.design_of(Run("hybrid", 0)) != one.design_of(Run("monolingual", 0))


def test_what_a_design_lacks_is_named(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    with pytest.raises(
        ValueError, match="unknown sections \\['poison'\\]; expected some of clean, further, checks, cross"
    ):
        dataclasses.replace(study, arms=study.arms | {"other": Arm(sections=("poison",))})
    with pytest.raises(ValueError, match="checked_section is ''; expected a section of attacks"):
        dataclasses.replace(study, arms=study.arms | {"other": Arm(sections=("checks",))})
    with pytest.raises(ValueError, match="names arms that it lacks: \\['german'\\]"):
        dataclasses.replace(study, further_baselines=("german",))
    with pytest.raises(ValueError, match="expected a measure on a log scale of one of the sections cross, mixed"):
        dataclasses.replace(study, primary=study.secondary[1:2])
    moved = study.attacks | {"moved": dataclasses.replace(study.attacks["cross"], surrogate="half")}
    arms = study.arms | {"hybrid": dataclasses.replace(study.arms["hybrid"], sections=("moved",))}
    with pytest.raises(ValueError, match="'hybrid' is attacked from 'half' under the seeds \\(0, 1\\), but 'half' has"):
        dataclasses.replace(study, attacks=moved, arms=arms)


def test_measures_that_cannot_be_compared_are_errors() -> None:
    with pytest.raises(ValueError, match="compares logarithms; expected a floor above 0"):
        Measure("cross", "cross/core smallest_budget", "smallest", log=True)
    with pytest.raises(ValueError, match="expected a smallest budget, which has no value only without a clean success"):
        Measure("cross", "cross/typos@1 robust_success@10", "typos", failures_as_zero=True)


def test_a_record_depends_on_the_recipes_behind_it(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    attacks = study.attacks | {"moved": dataclasses.replace(study.attacks["cross"], surrogate="monolingual")}
    study = dataclasses.replace(study, attacks=attacks)
    changed = dataclasses.replace(study.arms["monolingual"], steps=7)
    other = dataclasses.replace(study, arms=study.arms | {"monolingual": changed})
    one, two = (design.design_of(Run("hybrid", 0)) for design in (study, other))
    assert one["attacks"]["moved"] != two["attacks"]["moved"] and one["attacks"]["cross"] == two["attacks"]["cross"]
    changed = dataclasses.replace(study.arms["hybrid"], steps=7)
    other = dataclasses.replace(study, arms=study.arms | {"hybrid": changed})
    one, two = (design.design_of(Run("half", 0)) for design in (study, other))
    assert one["rates"] != two["rates"]


def test_a_design_may_gain_attacks_but_not_change_them(tmp_path: Path) -> None:
    study = made.study(tmp_path)
    more = dataclasses.replace(study, attacks=study.attacks | {"more": study.attacks["cross"]}, checked=99)
    designs = [design.design_of(Run("hybrid", 0)) for design in (study, more)]
    assert len({str(_concerning(["cross"], design)) for design in designs}) == 1
    assert len({str(_concerning(["cross", "checks"], design)) for design in designs}) == 2
    other = dataclasses.replace(study.attacks["cross"], questions=3)
    changed = dataclasses.replace(study, attacks=study.attacks | {"cross": other}).design_of(Run("hybrid", 0))
    assert _concerning(["cross"], designs[0]) != _concerning(["cross"], changed)
    assert _concerning(["mixed"], designs[0]) == _concerning(["mixed"], changed)
    old = {name: value for name, value in designs[0].items() if name != "checked_section"}
    assert _concerning(["checks"], old) != _concerning(["checks"], designs[0])
