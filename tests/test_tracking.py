import json
import sys
import time
from pathlib import Path

import grain
import pytest
from tensorboardX.proto import event_pb2

from jaxretr.tracking import Tracker


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, (step, value) by tag: a file that starts at a step hides what others had from there."""
    shown: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((directory / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for record in grain.experimental.TFRecordIterDataset(str(path)):
            event = event_pb2.Event.FromString(record)
            if event.session_log.status == event_pb2.SessionLog.START:
                shown = {tag: [(s, v) for s, v in points if s < event.step] for tag, points in shown.items()}
            for value in event.summary.value:
                shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return shown


def steps(directory: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_scalars_go_to_jsonl_by_name_and_to_tensorboard_in_groups(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.log(0, {"multi/AP": 0.25}, group="evaluation")
        tracker.log(1, {"loss": 2.5}, group="train")
        tracker.log(2, {"loss": 2.25}, group="train")
        tracker.log(2, {"multi/AP": 0.5, "multi/AP/el": 0.75}, group="evaluation")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"step": 0, "multi/AP": 0.25},
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": 2.25},
        {"step": 2, "multi/AP": 0.5, "multi/AP/el": 0.75},
    ]
    assert curves(tmp_path) == {
        "train/loss": [(1, 2.5), (2, 2.25)],
        "evaluation/multi/AP": [(0, 0.25), (2, 0.5)],
        "evaluation/multi/AP/el": [(2, 0.75)],
    }


def test_a_resumed_run_drops_what_came_after_its_checkpoint_and_a_torn_last_line(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        for step in (1, 2, 3, 4):
            tracker.log(step, {"loss": 1.0}, group="train")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with Tracker(tmp_path, first_step=3) as tracker:
        tracker.log(4, {"loss": 0.5}, group="train")
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert curves(tmp_path) == {"train/loss": [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5)]}


def test_what_a_resumed_run_measures_again_stands_once(tmp_path: Path) -> None:
    for first_step in (0, 3):
        with Tracker(tmp_path, first_step=first_step) as tracker:
            tracker.log(3, {"multi/AP": 0.5}, group="evaluation")
    assert steps(tmp_path) == [3]
    assert curves(tmp_path) == {"evaluation/multi/AP": [(3, 0.5)]}


def test_a_run_from_the_start_keeps_nothing(tmp_path: Path) -> None:
    for value in (0.25, 0.5):
        with Tracker(tmp_path) as tracker:
            tracker.log(0, {"multi/AP": value}, group="evaluation")
    assert steps(tmp_path) == [0]
    assert curves(tmp_path) == {"evaluation/multi/AP": [(0, 0.5)]}


def test_a_killed_run_has_shown_what_it_logged(tmp_path: Path) -> None:
    """Within a few seconds: TensorBoard's writer works in the background."""
    with Tracker(tmp_path) as tracker:
        tracker.log(1, {"loss": 0.5}, group="train")
        assert steps(tmp_path) == [1]
        deadline = time.monotonic() + 20
        while "train/loss" not in curves(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert curves(tmp_path) == {"train/loss": [(1, 0.5)]}


def test_without_wandb_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ImportError, match=r"wandb_project='x' needs the package wandb; .* pip install 'jaxretr\[wandb\]'"
    ):
        Tracker(tmp_path, wandb_project="x")
