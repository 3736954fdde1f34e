"""Whole runs on a tiny model: what they leave, and that stopping them anywhere changes nothing."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxretr import Encoder, run
from jaxretr.config import Config
from jaxretr.eval.results import Results
from jaxretr.train import loop
from tests import tiny

ROOT = Path(__file__).parents[1]


def assert_same_model(a: Path, b: Path) -> None:
    """Bit for bit."""
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def metrics(config: Config) -> list[dict[str, float]]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action) -> None:
    """Calls `action` when the loop has dispatched update number `step`."""
    add = loop._Window.add

    def added(self, item, values):
        add(self, item, values)
        if item.plan.step + 1 == step:
            action()

    monkeypatch.setattr(loop._Window, "add", added)


@pytest.fixture(scope="module")
def finished(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run that nothing interrupted."""
    config = tiny.run_config(tiny_root, tmp_path_factory.mktemp("finished") / "run")
    run.train(config)
    return config


def test_a_run_leaves_what_it_promises(finished: Config) -> None:
    output = Path(finished.output_dir)
    assert {path.name for path in output.iterdir()} == {
        *("config.json", "results_before.json", "results.json", "metrics.jsonl"),
        *("checkpoints", "tensorboard", "model"),
    }
    assert json.loads((output / "config.json").read_text()) == finished.to_dict()
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["10", "12"]
    assert list((output / "tensorboard").glob("events.out.tfevents.*"))
    rows = metrics(finished)
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12]
    assert all(np.isfinite(row["loss"]) and 0 <= row["padding_share"] < 1 for row in rows)
    assert rows[-1]["learning_rate"] == pytest.approx(3e-3 / 10)


def test_it_learns(finished: Config) -> None:
    output = Path(finished.output_dir)
    before, after = Results.load(output / "results_before.json"), Results.load(output / "results.json")
    assert after.scalars()["mono/AP"] > before.scalars()["mono/AP"] + 0.1
    assert metrics(finished)[-1]["loss"] < metrics(finished)[0]["loss"]


def test_the_exported_model_is_the_one_that_was_evaluated(finished: Config) -> None:
    output = Path(finished.output_dir)
    encoder = Encoder.load(output / "model")
    assert (encoder.query_prefix, encoder.passage_prefix, encoder.max_length) == ("query: ", "passage: ", 16)
    card = (output / "model" / "README.md").read_text()
    value = Results.load(output / "results.json").scalars()["multi/AP"]
    assert f"{value:.4f}" in card and "alpha: 0.5" in card


def test_the_step_is_compiled_once_for_each_shape(finished: Config) -> None:
    shapes = metrics(finished)[-1]["compilations"]
    assert 1 <= shapes <= 1 * 1  # one bucket of queries (8 tokens), one of passages (16)


def test_a_finished_run_is_not_run_again(finished: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 1, lambda: pytest.fail("trained again"))
    written = (Path(finished.output_dir) / "metrics.jsonl").read_text()
    run.train(finished)
    assert (Path(finished.output_dir) / "metrics.jsonl").read_text() == written


@pytest.mark.parametrize("step", [1, 7])
def test_interrupted_it_saves_and_goes_on_bit_for_bit(
    step: int, finished: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}"):
            run.train(tiny_config)
    assert str(step) in [path.name for path in (Path(tiny_config.output_dir) / "checkpoints").iterdir()]
    assert_same_model(run.train(tiny_config), Path(finished.output_dir) / "model")
    assert [row["step"] for row in metrics(tiny_config) if row["step"] in (4, 8, 12)] == [4, 8, 12]


def test_a_crash_goes_on_from_the_last_checkpoint_and_no_step_is_logged_twice(
    finished: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    with monkeypatch.context() as patch:
        at_step(patch, 9, crash)
        with pytest.raises(Crash):
            run.train(tiny_config)
    assert_same_model(run.train(tiny_config), Path(finished.output_dir) / "model")
    same = ("step", "loss", "accuracy", "grad_norm", "learning_rate")
    assert [[row[name] for name in same] for row in metrics(tiny_config)] == [
        [row[name] for name in same] for row in metrics(finished)
    ]


def test_a_full_disk_leaves_the_last_good_checkpoint(
    finished: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 8 on no file can grow beyond 10 kB, less than a checkpoint needs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = Path(tiny_config.output_dir) / "checkpoints" / "5"

    def fill_disk() -> None:
        while not first.exists():  # it is written in the background
            time.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))

    try:
        with monkeypatch.context() as patch:
            at_step(patch, 8, fill_disk)
            with pytest.raises(OSError, match="checkpoint 5 is whole .* Free some disk space"):
                run.train(tiny_config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same_model(run.train(tiny_config), Path(finished.output_dir) / "model")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = loop._Window.close

    def poisoned(self, describe):
        if self.plans[0].step == 5:
            self.metrics[1] = self.metrics[1]._replace(loss=jax.numpy.float32(np.nan))
        return close(self, describe)

    monkeypatch.setattr(loop._Window, "close", poisoned)
    with pytest.raises(FloatingPointError, match=r"loss of step 7 is nan.*batch of (en|de|el):train\d+, .*lower train"):
        run.train(tiny_config)
    assert [path.name for path in (Path(tiny_config.output_dir) / "checkpoints").iterdir()] == ["5"]


def test_another_config_in_the_same_directory_is_refused(finished: Config) -> None:
    other = dataclasses.replace(finished, train=dataclasses.replace(finished.train, learning_rate=1e-4))
    with pytest.raises(ValueError, match=r"other settings \(train.learning_rate was 0.003, is 0.0001\)"):
        run.train(other)
    with pytest.raises(ValueError, match="holds a run and resume is False"):
        run.train(dataclasses.replace(finished, resume=False))


def test_a_batch_that_devices_cannot_share_is_refused_before_anything_is_written(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, batch_size=12))
    with pytest.raises(ValueError, match="batch_size=12 cannot be divided evenly over 8 devices; .* such as 8 or 16"):
        run.train(config)
    assert not Path(config.output_dir).exists()


def test_a_language_the_data_lacks_is_named(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, languages=("en", "fi")))
    with pytest.raises(ValueError, match="no language fi; it has de, el, en"):
        run.train(config)
    assert run.claim_output_dir(tiny_config) == Path(tiny_config.output_dir)  # nothing stands in the way of another try


def test_the_best_checkpoint_stays(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluated every 3 steps with a measure that peaks at step 3; the last two stay, and the best."""
    measured = iter([0.9, 0.7, 0.6])

    class Fake(Results):
        def scalars(self):
            return {"multi/AP": next(measured)}

    config = dataclasses.replace(
        tiny_config,
        train=dataclasses.replace(tiny_config.train, steps=9),
        evaluation=dataclasses.replace(tiny_config.evaluation, every_steps=3),
        checkpoint_every_steps=4,
    )
    real = run._evaluate
    calls = []

    def sometimes(encoder, held_out):
        calls.append(1)
        return real(encoder, held_out) if len(calls) in (1, 5) else Fake("x", {})

    monkeypatch.setattr(run, "_evaluate", sometimes)
    run.train(config)  # evaluated at 3 (0.9), 6 (0.7), 9 (0.6); checkpoints at 3, 4, 6, 8, 9
    kept = sorted(int(path.name) for path in (Path(config.output_dir) / "checkpoints").iterdir())
    assert kept == [3, 8, 9]


def spawn(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "scripts/train.py", "--config", "tests/tiny_config.py", "--config.train.steps=40"]
    environment = {**os.environ, "JAXRETR_TINY_ROOT": str(root), "XLA_FLAGS": ""}
    return subprocess.Popen(
        [*command, "--config.checkpoint_every_steps=3", "--config.log_every_steps=1"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """kill -9 at random moments, from the first second of a process on."""
    whole = spawn(tmp_path / "whole")
    output, _ = whole.communicate()
    assert whole.returncode == 0, output
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 10:
        process = spawn(tmp_path / "killed")
        time.sleep(rng.uniform(1, 25))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    last = spawn(tmp_path / "killed")
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert kills >= 3
    assert_same_model(tmp_path / "killed" / "run" / "model", tmp_path / "whole" / "run" / "model")
