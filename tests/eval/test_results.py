import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from jaxretr.eval.results import Results, SettingResult, TaskResult


def example() -> Results:
    return Results(
        "tiny",
        {
            "mono": SettingResult(
                (
                    TaskResult("de", "de", 3, 1, 40, {"AP": 0.25}, ("de:q",), {"AP": np.array([0.25])}),
                    TaskResult("en", "en", 9, 0, 50, {"AP": 0.75}),
                )
            ),
            "multi": SettingResult((TaskResult("zh", None, 2, 0, 90, {"AP": 1 / 3, "rank_distance": math.nan}),)),
        },
    )


def test_a_setting_averages_over_its_tasks_not_its_queries() -> None:
    mono = example().settings["mono"]
    assert mono.measures == {"AP": 0.5}
    assert (mono.queries, mono.dropped) == (12, 1)


def test_undefined_values_leave_the_mean_alone() -> None:
    tasks = [TaskResult("de", None, 1, 0, 9, {"d": value}) for value in (2.0, math.nan, 4.0)]
    assert SettingResult(tuple(tasks)).measures == {"d": 3.0}


def test_json_keeps_everything_but_the_values_per_query(tmp_path: Path) -> None:
    example().save(tmp_path / "run" / "results.json")
    loaded = Results.load(tmp_path / "run" / "results.json")
    assert loaded.settings["mono"] == example().settings["mono"]
    assert loaded.settings["multi"].measures["AP"] == 1 / 3
    assert math.isnan(loaded.settings["multi"].measures["rank_distance"])
    assert loaded.settings["mono"].tasks[0].per_query == {}


def test_the_file_carries_the_averages_for_other_readers(tmp_path: Path) -> None:
    example().save(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["schema"] == 1
    assert content["settings"]["mono"]["measures"] == {"AP": 0.5}
    assert content["settings"]["multi"]["measures"]["rank_distance"] is None
    assert content["settings"]["mono"]["tasks"][1]["queries"] == 9


def test_a_failed_write_leaves_the_last_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    example().save(path)
    good = path.read_bytes()

    def disk_full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(OSError, match="no space left"):
        Results("other", {}).save(path)
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("content", "message"), [('{"schema": 99}', "schema 99, expected 1"), ("[]", "None"), ("{", "not JSON")]
)
def test_foreign_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Results.load(tmp_path / "results.json")
