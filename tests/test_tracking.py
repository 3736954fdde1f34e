import json
from pathlib import Path

import pytest

from jaxretr.tracking import Tracker, write_json


def steps(directory: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_scalars_go_to_jsonl_and_tensorboard(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.log(1, {"loss": 2.5})
        tracker.log(2, {"loss": 2.25, "multi/AP": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25, "multi/AP": 0.5}]
    assert len(list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_a_resumed_run_drops_what_came_after_its_checkpoint_and_a_torn_last_line(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        for step in (1, 2, 3, 4):
            tracker.log(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with Tracker(tmp_path, first_step=3) as tracker:
        tracker.log(4, {"loss": 0.5})
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": "Ελληνικά"})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "Ελληνικά"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
