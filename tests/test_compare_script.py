"""The command line of scripts/compare.py, on directories that `Results.save` wrote."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxretr.eval.results import Results, SettingResult, TaskResult

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare.py"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the script in a directory with the evaluations m0, m1, m2 of one recipe and h0, h1, h2 of a better one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    random = np.random.default_rng(0)
    questions = random.random((2, 40))
    for recipe, gain in (("m", 0.0), ("h", 0.3)):
        for seed in range(3):
            values = questions + gain + 0.01 * seed + 0.02 * random.standard_normal((2, 40))
            save(values, Path(f"{recipe}{seed}"), system=f"{recipe}{seed}")
    spec = importlib.util.spec_from_file_location("compare_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def main(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
        script.main()

    return main


def save(values: np.ndarray, directory: Path, system: str) -> None:
    tasks = [
        TaskResult(
            *(language, None, len(of_language), 0, 80, {"AP": of_language.mean(), "R@1": 0.0}),
            query_ids=tuple(f"{language}:q{i}" for i in range(len(of_language))),
            per_query={"AP": of_language, "R@1": np.zeros(len(of_language))},
        )
        for language, of_language in zip(("de", "en"), values, strict=True)
    ]
    Results("help", {"multi": SettingResult(tuple(tasks))}, system=system).save(directory)


def table(output: str) -> dict[str, list[str]]:
    """First cell -> other cells of each row, where cells are two spaces apart."""
    rows = ([cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_two_directories(run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    run("m0", "h0")
    shown = table(capsys.readouterr().out)
    assert shown["multi/AP"] == ["ᵃ m0", "ᵇ h0"]
    assert shown["macro average"][1].endswith("ᵃ") and not shown["macro average"][0].endswith("ᵇ")
    assert shown["better, worse, undecided"] == ["2, 0, 0"]
    assert shown["p after Holm"] == ["<0.001"]


def test_seeds_baseline_measures_and_files(run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "hybrid=h0,h1,h2",
        "mono=m0,m1,m2",
        "--measure",
        "multi/R@1",
        "multi/AP",
        "--baseline",
        "mono",
        "--output_dir",
        "o",
    )
    assert table(capsys.readouterr().out)["multi/AP"] == ["ᵃ mono", "ᵇ hybrid"]
    content = json.loads(Path("o/comparison.json").read_text())
    assert content["systems"] == ["mono", "hybrid"]
    assert [m["name"] for m in content["measures"]] == ["multi/R@1", "multi/AP"]
    assert [len(s["by_seed"]) for s in content["measures"][1]["systems"]] == [3, 3]
    assert content["measures"][1]["pairs"][0]["difference"] == pytest.approx(0.3, abs=0.01)
    assert Path("o/comparison.md").read_text().startswith("# help: mono, hybrid\n")


def test_the_baseline_may_be_named_as_it_was_given(run: Callable, tmp_path: Path) -> None:
    run(str(tmp_path / "h0"), str(tmp_path / "m0"), "--baseline", str(tmp_path / "m0"), "--output_dir", "out")
    assert json.loads(Path("out/comparison.json").read_text())["systems"] == ["m0", "h0"]


def test_a_directory_names_a_system_without_a_name(run: Callable) -> None:
    save(np.random.default_rng(1).random((2, 40)), Path("a=b,c"), system="")
    run("m0", "a=b,c", "--output_dir", "out")
    assert json.loads(Path("out/comparison.json").read_text())["systems"] == ["m0", "a=b,c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m0"], "2 to 25 systems, got 1"),
        (["m0", "m7"], "'m7' is not a directory; give a directory that scripts/evaluate.py wrote, or NAME=DIR,DIR"),
        (["m0", "mono=m1,m7"], "No such file or directory: 'm7'"),
        (["m0", "mono=m1,m0"], "m0 is given twice"),
        (["h=m0,m1", "h=h0,h1"], "two systems are named 'h'; give one of them another name"),
        (
            ["m0", "h0", "--measure", "multi/ap"],
            "not all systems have multi/ap; measures that all systems have: multi/AP",
        ),
        (["m0", "h0", "--baseline", "h1"], "the baseline 'h1' is not one of the systems m0, h0"),
    ],
)
def test_bad_input_ends_in_one_line(run: Callable, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message) as stop:
        run(*arguments, "--output_dir", "out")
    assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)
    assert not Path("out").exists()
