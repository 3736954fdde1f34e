"""scripts/attack.py as a user calls it."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxretr.attack.gradient.union import MEMBERS
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.record import Record
from jaxretr.cli.attack import read_text
from jaxretr.eval.results import Results
from jaxretr.parallel import locked

SCRIPT = Path(__file__).parents[1] / "scripts" / "attack.py"


@pytest.fixture
def call(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls the script on made-up pairs and a tiny model; further flags replace these."""

    def called(**flags: str | Path) -> Results:
        flags = {
            "model": tiny_root / "model",
            "dataset": "pairs",
            "data_dir": tiny_root / "pairs",
            "cache_dir": tiny_root / "data",
            "output_dir": tmp_path / "out",
            "max_queries": "6",
            "steps": "3",
        } | flags
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        monkeypatch.syspath_prepend(SCRIPT.parent)  # as `python SCRIPT` does
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return Results.load(flags["output_dir"])

    return called


def test_it_prints_clean_and_attacked_measures_and_leaves_everything(
    call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = call(attack="pgd,fgm", rho="0.1,3").settings["multi"]
    assert found.measures["pgd@3 AP"] < found.measures["AP"]
    printed = capsys.readouterr().out
    for figure in (found.measures["AP"], found.measures["pgd@3 AP"]):
        assert f"{figure:.3f}" in printed
    assert "pgd@0.1" in printed and "report.html" in printed
    assert {path.name for path in (tmp_path / "out" / "trials").iterdir()} == {
        "fgm@0.1.npz",
        "fgm@3.npz",
        "pgd@0.1.npz",
        "pgd@3.npz",
    }
    with np.load(tmp_path / "out" / "trials" / "pgd@3.npz") as arrays:
        longest = max(np.linalg.norm(arrays[f"{task}/deltas"], axis=1).max() for task in range(3))
    record = Record.load(tmp_path / "out")
    trial = next(trial for trial in record.trials if trial.label == "pgd@3")
    assert record.row_norm is not None
    assert longest == pytest.approx(3 * record.row_norm, rel=1e-5)
    assert trial.facts["epsilon"] == pytest.approx(3 * record.row_norm)
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_a_surrogate(call, tiny_root: Path, tmp_path: Path) -> None:
    results = call(attack="homoglyphs", texts="4", edits="2", surrogate=tiny_root / "model")
    assert results.system == f"{tiny_root.name} → {tiny_root.name}"
    assert {"homoglyphs@1 AP", "homoglyphs@2 robust_success@10"} <= results.settings["multi"].measures.keys()
    assert (tmp_path / "out" / "surrogate" / "trials" / "homoglyphs@2.npz").exists()


@pytest.mark.slow
def test_the_suite_with_text_language_and_poison(call, tmp_path: Path) -> None:
    found = call(attack="suite", rho="0.1,1", languages="en,de", texts="3", poison_passes="400", slots="4")
    measures = found.settings["multi"].measures
    for name in (
        "core robust_success@10_area",
        "core smallest_budget",
        "typos@1 AP",
        "language_switch AP",
        "hotflip:en poisoned@10",
        "worst AP",
    ):
        assert name in measures, name
    assert measures["worst AP"] <= min(measures["AP"], measures["pgd@0.1 AP"], measures["language_switch AP"])
    lines = (tmp_path / "out" / "adversarial.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["label"] for line in lines} >= {"cases@1", "language_switch"}
    record = Record.load(tmp_path / "out")
    assert record.transfer is not None and np.array(record.transfer.success).shape == (2, 2)
    assert {one.filter for one in record.detections} >= {"norm", "hubness@10", "nearest clean text"}


@pytest.mark.slow
def test_distinct_answers_and_a_mixed_pool(call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_answers = call(attack="fgm", rho="0.1", counting="answers", output_dir=tmp_path / "answers")
    measures = by_answers.settings["multi"].measures
    assert by_answers.evaluation["counting"] == "answers" and "answer_success@10" in measures
    assert measures["answer_success@10"] >= measures["Success@10"]
    assert "success@10 counts distinct answers" in " ".join(capsys.readouterr().out.split())
    assert "robust success@10, distinct answers" in (tmp_path / "answers" / "report.html").read_text("utf-8")
    mixed = call(attack="fgm", rho="1", pool="mixed", seed="1", output_dir=tmp_path / "mixed")
    assert (mixed.evaluation["pool"], mixed.evaluation["pool_seed"]) == ("mixed", 1)
    assert mixed.collection == f"{by_answers.collection} in a mixed pool of seed 1".replace("seed 0)", "seed 1)")
    assert mixed.content["passages"] != by_answers.content["passages"]
    assert [task.passages for task in mixed.settings["multi"].tasks] == [12] * 3


def test_one_minimum_norm_search_gives_success_at_every_budget(call, tmp_path: Path) -> None:
    found = call(attack="core", rho="0.07").settings["multi"]
    names = [name for name in found.measures if name.startswith("core")]
    assert {"core@0.01 robust_success@10", "core@0.07 robust_success@10", "core@1 robust_success@10"} < set(names)
    assert not [name for name in names if name.endswith("AP")]
    trials = tmp_path / "out" / "trials"
    searched = (trials / "core@0.01.npz").stat().st_mtime_ns
    (trials / "core@0.3.npz").unlink()
    again = call(attack="core", rho="0.07").settings["multi"]
    assert again.measures == pytest.approx(found.measures, nan_ok=True)
    assert (trials / "core@0.01.npz").stat().st_mtime_ns == searched
    for task in found.tasks:
        smallest = task.per_query["core smallest_budget"]
        for budget in (0.01, 0.1, 1.0):
            kept = task.per_query[f"core@{budget:g} robust_success@10"]
            np.testing.assert_array_equal(kept[smallest > budget], 1)
            np.testing.assert_array_equal(kept[smallest < budget], 0)


@pytest.mark.slow
def test_the_union_loses_what_any_member_loses(call, tmp_path: Path) -> None:
    found = call(attack="union", languages="en,de", steps="1").settings["multi"]
    for task in found.tasks:
        union = task.per_query["union@0.1 robust_success@10"]
        members = [task.per_query[f"{name}@0.1 robust_success@10"] for name in MEMBERS]
        np.testing.assert_array_equal(union, np.min(members, axis=0))
    record = Record.load(tmp_path / "out")
    (reference,) = (trial for trial in record.trials if trial.label == "union@0.1")
    assert {name for name in reference.facts if name.startswith("lost_by_")} == {f"lost_by_{name}" for name in MEMBERS}
    assert "lost by core" in (tmp_path / "out" / "report.html").read_text("utf-8")
    english = call(attack="union", languages="en", steps="1", output_dir=tmp_path / "english").settings["mono"]
    assert "union smallest_budget" in english.measures
    assert not [name for name in english.measures if name.startswith("from_language")]


@pytest.mark.slow
def test_the_ceiling_and_a_text_with_a_trigger(call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("en0 en1\n", encoding="utf-8")
    flags = {"attack": "hotflip", "languages": "en,de", "passages": "2", "trigger_slots": "3", "poison_passes": "400"}
    found = call(poison_text=text, **flags)
    measures = found.settings["multi"].measures
    assert {"ceiling:en poisoned@10", "hotflip:en poisoned@10"} <= measures.keys()
    record = Record.load(tmp_path / "out")
    assert record.ceiling is not None and np.array(record.ceiling.success).shape == (2, 2, 2)
    assert record.transfer is not None and all(0 < count < 100 for count in record.transfer.iterations)
    assert all(passage.startswith("en0 en1 ") for row in record.transfer.passages for passage in row)
    assert all(len(passage.split()) == 2 + 3 for row in record.transfer.passages for passage in row)
    printed = capsys.readouterr().out
    assert "ceiling of poisoning, 2 of the best vectors per language" in printed
    assert f"hotflip: 400 forward passes are {record.transfer.iterations[0]} iterations; below 100" in printed


def test_the_ceiling_alone(call, tmp_path: Path) -> None:
    found = call(attack="ceiling", languages="en,de").settings["multi"].measures
    record = Record.load(tmp_path / "out")
    assert record.transfer is None and record.ceiling is not None
    means = np.array(record.ceiling.success[-1]).mean(axis=1)
    assert [found[f"ceiling:{language} poisoned@10"] for language in ("en", "de")] == pytest.approx(means)


def test_a_killed_run_goes_on_after_its_last_whole_trial(call, tmp_path: Path) -> None:
    whole = call(attack="fgm,pgd", rho="0.5")
    (tmp_path / "out" / "trials" / "pgd@0.5.npz").unlink()
    kept = (tmp_path / "out" / "trials" / "fgm@0.5.npz").stat().st_mtime_ns
    again = call(attack="fgm,pgd", rho="0.5")
    assert (tmp_path / "out" / "trials" / "fgm@0.5.npz").stat().st_mtime_ns == kept
    assert again.scalars() == whole.scalars()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"attack": "pgdd"}, "unknown attack 'pgdd': did you mean pgd"),
        ({"norm": "l7"}, "unknown norm 'l7'; expected one of token_l2, linf, frobenius"),
        ({"layer": "last"}, "unknown layer 'last'"),
        ({"rho": "-0.1"}, "rho = -0.1 is not a budget; expected 0 or more"),
        ({"target": "world"}, "unknown target 'world'"),
        ({"attack": "typos", "target": "demote"}, "needs a gradient attack"),
        ({"attack": "core", "target": "demote"}, "core attacks queries only"),
        ({"attack": "from_language", "languages": "en"}, "needs questions in several languages"),
        ({"languages": "en,fr"}, "fr"),
        ({"attack": "hotflip", "optimise": "1"}, "unrecognized"),
        ({"steps": "0"}, "steps = 0; expected at least 1"),
        ({"counting": "answers", "languages": "en"}, "counting distinct answers needs parallel passages"),
        ({"counting": "words"}, "invalid choice: 'words'"),
        ({"pool": "mixed", "setting": "mono"}, "the setting 'mono' would miss passages; use the setting multi"),
        ({"pool": "mixed", "languages": "en"}, "a mixed pool needs parallel passages"),
        ({"pool": "mixed", "counting": "answers"}, "no key occurs in two languages"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(
    as_users_run, call, flags: dict[str, str], message: str, capsys
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(**flags)
    assert message in f"{stop.value.code} {capsys.readouterr().err}"


def test_a_second_attack_into_the_same_directory_at_once_is_refused(call, tmp_path: Path) -> None:
    with locked(tmp_path / "out", "stop it"), pytest.raises(SystemExit, match="out is in use by process"):
        call(attack="fgm")


def test_another_attack_into_the_same_directory_is_refused(call) -> None:
    call(attack="fgm")
    with pytest.raises(SystemExit, match="seed was 0, is 1"):
        call(attack="fgm", seed="1")


def test_a_poison_text_that_cannot_be_used_is_refused(call, tmp_path: Path) -> None:
    empty, long, binary = (tmp_path / name for name in ("empty.txt", "long.txt", "binary.txt"))
    empty.write_text(" \n")
    long.write_text("en0 " * 60)
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"empty\.txt is empty; expected the text"):
        read_text(empty)
    with pytest.raises(ValueError, match=r"binary\.txt is not UTF-8 text"):
        read_text(binary)
    with pytest.raises(SystemExit, match=r"No such file.*nowhere\.txt"):
        call(attack="hotflip", poison_text=tmp_path / "nowhere.txt")
    with pytest.raises(SystemExit, match=r"50 tokens does not fit into the passage 'en0.*a shorter text"):
        call(attack="hotflip", poison_text=long)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="poison_text needs an attack that searches for a trigger; add one of hotflip"):
        AttackOptions(attacks=("ceiling",), poison_text="buy this")
    with pytest.raises(ValueError, match="trigger_slots = 0 must be at least 1"):
        AttackOptions(trigger_slots=0)
    suite, alone = (AttackOptions(attacks=(name,)).poisonings["hotflip"] for name in ("suite", "hotflip"))
    assert (suite.iterations, alone.iterations) == (100, 500)
    assert len([*AttackOptions(attacks=("suite",), poison_text="buy this").further_aims("multi")]) == 3
    with pytest.raises(ValueError, match="optimise = 1"):
        AttackOptions(optimise=1.0)
    with pytest.raises(ValueError, match="contains a budget twice"):
        AttackOptions(rho=(0.1, 0.1))


def test_a_collection_that_has_changed_is_not_gone_on_with(call, tiny_root: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(tiny_root / "pairs", pairs)
    call(attack="fgm", data_dir=pairs)
    test = pairs / "test.jsonl"
    test.write_text(test.read_text().replace('"passage": "en', '"passage": "en0 en', 1))
    with pytest.raises(SystemExit, match=r"content: passages was '\w+', is '\w+'"):
        call(attack="fgm", data_dir=pairs)
