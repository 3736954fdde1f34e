import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jaxretr.eval.results import Results, SettingResult, TaskResult


def example() -> Results:
    """Two settings; `multi` has a measure more, of which no query has a value."""
    return Results(
        "tiny",
        {
            "mono": SettingResult(
                (
                    TaskResult("de", "de", 1, 1, 40, {"AP": 0.25}, ("de:q",), {"AP": np.array([0.25])}),
                    TaskResult("en", "en", 2, 0, 50, {"AP": 0.75}, ("en:q", "en:r"), {"AP": np.array([0.5, 1])}),
                )
            ),
            "multi": SettingResult(
                (
                    TaskResult(
                        "zh",
                        None,
                        3,
                        0,
                        90,
                        {"AP": 1 / 3, "rank_distance": 7.0, "PEER": math.nan},
                        ("zh:q", "zh:r", "zh:s"),
                        {
                            "AP": np.array([0, 1 / 3, 2 / 3]),
                            "rank_distance": np.array([math.nan, 5, 9]),
                            "PEER": np.full(3, math.nan),
                        },
                        {"de": 0.25, "en": 0.75},
                    ),
                )
            ),
        },
        system="a system",
        evaluation={"model": "m", "max_length": 64, "languages": ["de", "en"]},
    )


def test_a_setting_averages_over_its_tasks_not_its_queries() -> None:
    mono = example().settings["mono"]
    assert mono.measures == {"AP": 0.5}
    assert (mono.queries, mono.dropped) == (3, 1)


def test_undefined_values_leave_the_mean_alone() -> None:
    tasks = [TaskResult("de", None, 1, 0, 9, {"d": value}) for value in (2.0, math.nan, 4.0)]
    assert SettingResult(tuple(tasks)).measures == {"d": 3.0}


@pytest.mark.parametrize("name", ["", "results.json"])
def test_a_directory_keeps_everything(tmp_path: Path, name: str) -> None:
    example().save(tmp_path / "run")
    loaded = Results.load(tmp_path / "run" / name)
    assert (loaded.system, loaded.collection, loaded.evaluation) == ("a system", "tiny", example().evaluation)
    for setting, expected in example().settings.items():
        for task, original in zip(loaded.settings[setting].tasks, expected.tasks, strict=True):
            assert task.query_ids == original.query_ids
            assert task.language_mix == original.language_mix
            assert task.measures == pytest.approx(original.measures, nan_ok=True, abs=0)
            assert task.per_query.keys() == original.per_query.keys()
            for measure, values in original.per_query.items():
                np.testing.assert_array_equal(task.per_query[measure], values)


def test_a_file_keeps_all_but_the_values_per_query(tmp_path: Path) -> None:
    example().save(tmp_path / "run" / "before.json")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["before.json"]
    loaded = Results.load(tmp_path / "run" / "before.json")
    assert loaded.settings["mono"] == example().settings["mono"]
    assert loaded.settings["mono"].tasks[0].per_query == {} == loaded.settings["multi"].tasks[0].per_query


def test_values_per_query_for_other_readers(tmp_path: Path) -> None:
    example().save(tmp_path)
    table = pq.read_table(tmp_path / "per_query.parquet")
    assert table.to_pylist()[1:4] == [
        {
            "setting": setting,
            "query_language": language,
            "corpus_language": corpus,
            "query_id": id,
            "AP": ap,
            "rank_distance": None,
            "PEER": None,
        }
        for setting, language, corpus, id, ap in [
            ("mono", "en", "en", "en:q", 0.5),
            ("mono", "en", "en", "en:r", 1.0),
            ("multi", "zh", None, "zh:q", 0.0),
        ]
    ]
    assert {str(table.schema.field(name).type) for name in ("AP", "rank_distance", "PEER")} == {"double"}


def test_the_file_carries_the_averages_for_other_readers(tmp_path: Path) -> None:
    example().save(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["schema"], content["system"], content["per_query"]) == (2, "a system", "per_query.parquet")
    assert content["settings"]["mono"]["measures"] == {"AP": 0.5}
    assert content["settings"]["multi"]["measures"]["PEER"] is None
    assert content["settings"]["mono"]["tasks"][1]["queries"] == 2
    assert content["settings"]["multi"]["tasks"][0]["language_mix"] == {"de": 0.25, "en": 0.75}


def test_without_the_values_per_query_the_averages_are_still_read(tmp_path: Path) -> None:
    example().save(tmp_path)
    (tmp_path / "per_query.parquet").unlink()
    assert Results.load(tmp_path).settings["mono"] == example().settings["mono"]
    Results.load(tmp_path).save(tmp_path / "copy")
    assert [p.name for p in (tmp_path / "copy").iterdir()] == ["results.json"]


@pytest.mark.parametrize("change", ["fewer queries", "other values", "no such measure", "no such task"])
def test_values_per_query_of_another_evaluation_are_refused(tmp_path: Path, change: str) -> None:
    example().save(tmp_path)
    path = tmp_path / "per_query.parquet"
    table = pq.read_table(path)
    changed = {
        "fewer queries": table.slice(0, 5),
        "other values": table.set_column(4, "AP", pa.array([0.25, 0.5, 0.9, 0, 1 / 3, 2 / 3])),
        "no such measure": table.drop_columns(["PEER"]),
        "no such task": table.filter(pc.equal(table["setting"], "multi")),
    }
    pq.write_table(changed[change], path)
    with pytest.raises(ValueError, match="per_query.parquet does not belong to the evaluation in the results.json"):
        Results.load(tmp_path)


def test_results_of_the_first_schema_are_read(tmp_path: Path) -> None:
    task = {"query_language": "de", "corpus_language": None, "queries": 2, "dropped": 0, "passages": 9}
    content = {"schema": 1, "collection": "c", "settings": {"multi": {"tasks": [task | {"measures": {"AP": 0.5}}]}}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert Results.load(tmp_path) == Results(
        "c", {"multi": SettingResult((TaskResult("de", None, 2, 0, 9, {"AP": 0.5}),))}
    )


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
    ("content", "message"), [('{"schema": 99}', "schema 99, expected 1 or 2"), ("[]", "None"), ("{", "not JSON")]
)
def test_foreign_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Results.load(tmp_path / "results.json")
