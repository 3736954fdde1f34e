"""tpu/watch.sh sees a command through."""

import os
import signal

from tests.tpu.conftest import Tpu

TRAIN = ("scripts/train.py", "--output_dir={bucket}/a run")
BEGUN = ["tpu-vm create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]  # create, copy, set up, start


def restarts(tpu: Tpu) -> int:
    return tpu.verbs().count("tpu-vm create") - 1


def test_ends_with_the_command(tpu: Tpu) -> None:
    done = tpu.run("watch.sh", *TRAIN)
    assert tpu.verbs()[:4] == BEGUN and restarts(tpu) == 0
    assert done.stdout.splitlines()[-1].endswith(" command: 0")


def test_takes_a_new_slice_after_preemption_and_runs_the_same_command(tpu: Tpu) -> None:
    tpu.set("duration", "1")
    tpu.set("no-capacity")
    tpu.set("tpu-vm", "READY", "READY", "CREATING", "PREEMPTED")  # seen by create.sh, then by the watch
    tpu.run("setup.sh")
    done = tpu.run("watch.sh", *TRAIN)
    assert "slice is PREEMPTED; creating it again" in done.stdout and "no capacity" in done.stderr
    verbs = tpu.verbs()
    lost = verbs.index("tpu-vm delete")
    assert verbs[lost:][:2] == ["tpu-vm delete", "tpu-vm create"] and verbs.count("tpu-vm create") == 2
    assert done.stdout.splitlines()[-1].endswith(" command: 0")
    first, second = tpu.commands(2)
    assert first == second and first[-1] == "--output_dir=gs://a bucket/a run"


def test_ends_with_the_exit_status_of_a_command_that_fails_by_itself(tpu: Tpu) -> None:
    tpu.set("exit", "7")
    done = tpu.run("watch.sh", *TRAIN, check=False)
    assert done.returncode == 7 and restarts(tpu) == 0
    assert "output of --output_dir" in done.stdout, "the end of the log says why"


def test_a_failure_that_preemption_explains_is_none(tpu: Tpu) -> None:
    tpu.run("create.sh")
    tpu.run("setup.sh")
    tpu.set("exit", "1")
    tpu.set("tpu-vm", "READY", "READY", "READY", "PREEMPTED")
    done = tpu.run("watch.sh", *TRAIN, check=False)
    assert " command: 1" in done.stdout and restarts(tpu) == 1


def test_states_that_cannot_be_known_are_waited_out(tpu: Tpu) -> None:
    tpu.run("create.sh")
    tpu.set("tpu-vm", "READY", "ERROR", "REPAIRING", "READY")
    done = tpu.run("watch.sh", *TRAIN)
    assert restarts(tpu) == 0 and "slice is REPAIRING" in done.stdout and "PERMISSION_DENIED" in done.stderr


def test_a_host_started_anew_runs_the_command_again(tpu: Tpu) -> None:
    tpu.run("create.sh")
    tpu.run("setup.sh")
    tpu.set("duration", "30")
    tpu.run("run.sh", *TRAIN)
    tpu.commands()
    run = tpu.root / "host" / "jaxretr-run"
    pid = int((run / "pid").read_text(encoding="utf-8"))
    os.killpg(pid, signal.SIGKILL)
    tpu.set("duration", "0")
    tpu.run("watch.sh", *TRAIN)
    assert len(tpu.commands(2)) == 2 and restarts(tpu) == 0
