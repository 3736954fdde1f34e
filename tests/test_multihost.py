"""Several processes train, evaluate and encode together, on CPU: what one process does with as many devices."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxretr.parallel import PROCESS_DIED

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # seconds for what takes a minute on a machine that is not busy
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # A process that finds its program compiled would wait for one that does not, and gloo waits for 30 seconds only.
    "JAX_ENABLE_COMPILATION_CACHE": "0",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "PYTHONPATH": str(ROOT),
}
EVERY_2 = ("--config.checkpoint_every_steps=2", "--config.log_every_steps=1", "--config.evaluation.every_steps=4")


@dataclasses.dataclass(frozen=True)
class Job:
    """As many processes as `processes`, together; `logs[i]` gets what number i prints."""

    processes: list[subprocess.Popen[bytes]]
    logs: list[Path]

    def end(self) -> list[str]:
        """What each has printed, when all have ended."""
        for process in self.processes:
            process.wait(timeout=PATIENCE)
        return [log.read_text(encoding="utf-8") for log in self.logs]


@pytest.fixture
def start(tmp_path: Path):
    """Starts a job of Python processes with so many devices each; ends them with the test."""
    jobs: list[Job] = []

    def started(arguments: list[str], processes: int, devices: int, **environment: str) -> Job:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment |= {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": str(devices)}
        if processes > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            }
        job = Job([], [])
        jobs.append(job)
        for number in range(processes):
            log = tmp_path / f"{len(jobs)}.{number}.log"
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=ROOT,
                    env={**os.environ, **environment, "JAX_PROCESS_ID": str(number)},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            job.processes.append(process)
            job.logs.append(log)
        return job

    yield started
    for job in jobs:
        for process in job.processes:
            process.kill()
            process.wait()


def made(job: Job) -> list[dict[str, Any]]:
    """What each worker has made."""
    return [json.loads(output.split("made ")[1]) for output in job.end()]


def test_two_processes_share_devices_and_encoding(start, tmp_path: Path) -> None:
    workers = made(start(["-m", "tests.multihost_worker", str(tmp_path / "out")], 2, 2))
    for worker in workers:
        assert worker["devices"] == 4 and worker["is_local"] and worker["is_global"]
        assert worker["difference"] < 1e-6
        assert worker["gathered"] == list(range(16))
        # Device i has rows 4i to 4i + 3; twice the mean of these over the devices.
        assert worker["mean"] == worker["back"] == [12, 14, 16, 18]
        assert worker["any"] == [True, False] and worker["main"] == [True, False]
        assert worker["whole"] == list(range(30))
        assert worker["scalars"] == workers[0]["scalars"]
    # Four devices have eight elements each; two zeros pad the 30 elements.
    assert [worker["shards"] for worker in workers] == [list(range(16)), [*range(16, 30), 0, 0]]
    assert [worker["by_share"] for worker in workers] == [6, 5]
    assert sum(worker["by_evaluation"] for worker in workers) == 11 + 11  # each query and each passage once
    written = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["mono"]["measures"]
    assert written["AP"] == workers[0]["scalars"]["mono/AP"]


@pytest.fixture
def train(start, tiny_root: Path, tmp_path: Path) -> Callable[..., Job]:
    """Starts a run of eight steps."""

    def started(output_dir: Path, processes: int, devices: int, *flags: str) -> Job:
        command = ["scripts/train.py", "--config", "tests/tiny_config.py", f"--config.output_dir={output_dir}"]
        command += ["--config.train.steps=8", *EVERY_2, *flags]
        return start(command, processes, devices, JAXRETR_TINY_ROOT=str(tiny_root))

    return started


@pytest.fixture(scope="module")
def alone(tiny_root: Path) -> Path:
    """What a run leaves of one process with four devices."""
    output_dir = tiny_root / "alone"
    command = [sys.executable, "scripts/train.py", "--config", "tests/tiny_config.py", "--config.train.steps=8"]
    environment = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": "4", "JAXRETR_TINY_ROOT": str(tiny_root)}
    subprocess.run(
        [*command, *EVERY_2, f"--config.output_dir={output_dir}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
    )
    return output_dir


def assert_same_run(run: Path, expected: Path) -> None:
    """Losses, parameters and results, to float tolerance: sums over processes have another order."""
    for name in ("results_before.json", "results.json"):
        assert json.loads((run / name).read_text()) == json.loads((expected / name).read_text())
    rows = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (run, expected)
    ]
    for row, other in zip(*rows, strict=True):
        assert row["step"] == other["step"] and row.get("accuracy") == other.get("accuracy")
        for figure in {"loss", "grad_norm", "multi/AP"} & other.keys():
            assert row[figure] == pytest.approx(other[figure], rel=1e-5)
    first, second = (load_file(path / "model" / "model.safetensors") for path in (run, expected))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-5, err_msg=name)


def checkpoint(output_dir: Path, step: int) -> None:
    """Returns when it is whole."""
    until = time.monotonic() + PATIENCE
    while not (output_dir / "checkpoints" / str(step)).exists():
        assert time.monotonic() < until, f"no checkpoint {step}"
        time.sleep(0.05)


def wait_for_end(log: Path, message: str) -> None:
    """Returns when `log` ends with `message`, which its writer prints a moment after the process has ended."""
    until = time.monotonic() + 20
    while not log.read_text(encoding="utf-8").rstrip().endswith(message):
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_several_processes_train_what_one_trains(
    processes: int, devices: int, train: Callable[..., Job], alone: Path, tmp_path: Path
) -> None:
    job = train(tmp_path / "run", processes, devices)
    first, *others = job.end()
    assert [process.returncode for process in job.processes] == [0] * processes, first
    assert_same_run(tmp_path / "run", alone)
    assert "step 8: loss" in first and not any("step" in other for other in others)
    assert PROCESS_DIED not in "".join([first, *others])


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "then"), [(0, (1, 4)), (1, (4, 1))])
def test_one_killed_ends_all_and_any_number_goes_on(
    victim: int, then: tuple[int, int], train: Callable[..., Job], alone: Path, tmp_path: Path
) -> None:
    job = train(tmp_path / "run", 2, 2)
    checkpoint(tmp_path / "run", 2)
    job.processes[victim].kill()
    killed = time.monotonic()
    job.end()
    assert time.monotonic() - killed < 100
    assert all(process.returncode != 0 for process in job.processes)
    for log in job.logs:
        wait_for_end(log, PROCESS_DIED)
    assert not (tmp_path / "run" / "results.json").exists()

    again = train(tmp_path / "run", *then)
    first, *_ = again.end()
    assert again.processes[0].returncode == 0, first
    assert "resuming after step" in first
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_one_told_to_stop_stops_all_after_the_same_step(train: Callable[..., Job], alone: Path, tmp_path: Path) -> None:
    job = train(tmp_path / "run", 2, 2)
    checkpoint(tmp_path / "run", 2)
    job.processes[1].send_signal(signal.SIGTERM)
    said = {output.strip().splitlines()[-1] for output in job.end()}
    assert len(said) == 1 and "Interrupted: stopped after step" in said.pop()
    train(tmp_path / "run", 2, 2).end()
    assert_same_run(tmp_path / "run", alone)
