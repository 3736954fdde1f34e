"""tpu/*.sh against a cloud that only pretends (gcloud.py)."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tpu.conftest import Tpu

SCRIPTS = Path(__file__).parents[2] / "tpu"
TRAIN = ("scripts/train.py", "--config", "configs/hybrid.py")


def test_creates_at_once_and_only_once(tpu: Tpu) -> None:
    tpu.run("create.sh")
    assert [call for call in tpu.calls() if call[1] == "create"] == [
        ["tpu-vm", "create", "slice", "--accelerator-type=v5litepod-16", "--version=runtime"]
    ]
    assert "slice is ready" in tpu.run("create.sh").stdout
    assert tpu.verbs() == ["tpu-vm create"]


def test_creates_by_way_of_the_queue_and_waits(tpu: Tpu) -> None:
    tpu.settings(TPU_QUEUED="1", TPU_SPOT="1")
    tpu.set("tpu-vm", "ABSENT", "ABSENT", "CREATING", "READY")
    tpu.set("queued-resources", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = tpu.run("create.sh")
    assert tpu.verbs() == [], "the request is in the queue already"
    assert "PROVISIONING" in done.stdout and done.stdout.endswith("slice is ready\n")

    tpu.run("delete.sh")
    tpu.run("create.sh")
    created = [call for call in tpu.calls() if call[1] == "create"]
    request = ["--node-id=slice", "--accelerator-type=v5litepod-16", "--runtime-version=runtime", "--spot"]
    assert created == [["queued-resources", "create", "slice", *request]]


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_request_that_will_not_be_met_is_an_error(tpu: Tpu, state: str) -> None:
    tpu.settings(TPU_QUEUED="1")
    tpu.set("queued-resources", "WAITING_FOR_RESOURCES", state)
    done = tpu.run("create.sh", check=False)
    assert done.returncode == 1 and f"the request for slice is {state}; delete it" in done.stderr


def test_what_gcloud_cannot_tell_is_not_taken_for_an_absent_slice(tpu: Tpu) -> None:
    tpu.set("tpu-vm", "ERROR")
    done = tpu.run("create.sh", check=False)
    assert done.returncode != 0 and "PERMISSION_DENIED" in done.stderr and tpu.verbs() == []


def test_deleting_twice_is_deleting(tpu: Tpu) -> None:
    tpu.settings(TPU_QUEUED="1")
    tpu.run("create.sh")
    tpu.run("delete.sh")
    tpu.run("delete.sh")
    assert tpu.verbs()[1:] == 2 * ["queued-resources delete", "tpu-vm delete"]


def test_setup_puts_the_last_commit_on_the_hosts_as_often_as_asked(tpu: Tpu) -> None:
    tpu.run("create.sh")
    (tpu.repository / "tpu" / "README.md").write_text("changed", encoding="utf-8")
    for _ in range(2):
        assert "uncommitted changes are not copied" in tpu.run("setup.sh").stderr
    copied = tpu.root / "host" / "jaxretr" / "tpu"
    assert (copied / "on_host.sh").exists() and (copied / "README.md").read_text(encoding="utf-8") != "changed"
    assert not (copied / "env").exists()
    assert (tpu.root / "uv-other").read_text(encoding="utf-8") == 2 * "sync --quiet --no-default-groups --extra tpu\n"


@pytest.fixture
def ready(tpu: Tpu) -> Tpu:
    tpu.run("create.sh")
    tpu.run("setup.sh")
    return tpu


def test_arguments_arrive_as_they_were_given(ready: Tpu) -> None:
    given = ("scripts/a b.py", '--text=it\'s a "test"; $HOME `x` \\ *', "", "--output_dir={bucket}/runs/x", "über ü")
    ready.run("run.sh", *given, HF_TOKEN="secret with spaces")
    (command,) = ready.commands()
    expected = [argument.replace("{bucket}", "gs://a bucket") for argument in given]
    assert command == ["run", "--no-default-groups", "--extra", "tpu", *expected]
    environment = (ready.root / "environment").read_text(encoding="utf-8").splitlines()
    assert "HF_TOKEN=secret with spaces" in environment
    assert not any(line.startswith(("WANDB_API_KEY=", "JAX_COORDINATOR_ADDRESS=")) for line in environment)


def test_several_hosts_are_told_where_the_first_one_is(ready: Tpu) -> None:
    ready.set("hosts", "10.0.0.1;10.0.0.2")
    ready.run("run.sh", *TRAIN)
    ready.commands()
    assert "JAX_COORDINATOR_ADDRESS=10.0.0.1:8476" in (ready.root / "environment").read_text(encoding="utf-8")
    assert [call for call in ready.calls() if call[1] == "ssh"][-1][3] == "--worker=all"


def test_the_same_command_is_left_alone_while_it_runs_and_another_refused(ready: Tpu) -> None:
    ready.set("duration", "20")
    ready.run("run.sh", *TRAIN)
    ready.commands()
    assert "already running" in ready.run("run.sh", *TRAIN).stdout
    refused = ready.run("run.sh", "scripts/evaluate.py", check=False)
    assert refused.returncode == 1 and "is running scripts/train.py --config configs/hybrid.py" in refused.stderr
    assert len(ready.commands()) == 1
    pid = (ready.root / "host" / "jaxretr-run" / "pid").read_text(encoding="utf-8").strip()
    subprocess.run(["kill", "--", f"-{pid}"], check=True)


def test_logs_show_what_the_command_prints(ready: Tpu) -> None:
    ready.run("run.sh", *TRAIN)
    ready.commands()
    assert ready.run("logs.sh").stdout == "output of configs/hybrid.py\n"
    ready.run("logs.sh", "all")
    assert "--worker=all" in ready.calls()[-1]


def test_a_bucket_that_is_asked_for_and_missing(ready: Tpu) -> None:
    ready.settings(TPU_BUCKET="")
    done = ready.run("run.sh", "scripts/train.py", "--out={bucket}/x", check=False)
    assert done.returncode == 1 and "--out={bucket}/x needs TPU_BUCKET, which is not set" in done.stderr


@pytest.mark.parametrize("name", ["TPU_PROJECT", "TPU_ZONE", "TPU_NAME", "TPU_TYPE", "TPU_RUNTIME"])
def test_a_missing_setting_is_named(tpu: Tpu, name: str) -> None:
    tpu.settings(**{name: ""})
    done = tpu.run("create.sh", check=False)
    assert done.returncode == 1 and f"error: {name} is not set; give it a value in" in done.stderr
    assert tpu.calls() == []


def test_missing_settings_and_missing_commands(tpu: Tpu) -> None:
    for script in ("run.sh", "watch.sh"):
        assert "error: no command; expected one such as" in tpu.run(script, check=False).stderr
    (tpu.repository / "tpu" / "env").unlink()
    assert "copy tpu/env.example to this path" in tpu.run("create.sh", check=False).stderr


def test_the_example_has_every_setting(tpu: Tpu) -> None:
    shutil.copy(tpu.repository / "tpu" / "env.example", tpu.repository / "tpu" / "env")
    assert "--accelerator-type=v5litepod-16" in tpu.run("create.sh", DRY_RUN="1").stdout


def test_a_dry_run_prints_commands_that_a_shell_reads_as_they_are_meant(tpu: Tpu) -> None:
    tpu.settings(TPU_SPOT="1", TPU_TYPE="'v5 lite'")
    done = tpu.run("watch.sh", *TRAIN, "--a=b c", DRY_RUN="1")
    calls = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [call[3:5] for call in calls] == [["tpu-vm", verb] for verb in ("create", "scp", "ssh", "ssh")]
    assert calls[0] == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "slice", "--accelerator-type=v5 lite"),
        *("--version=runtime", "--spot", "--project=project", "--zone=zone-a"),
    ]
    started = next(word for word in calls[3] if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(started)[-5:] == ["start", *TRAIN, "--a=b c"]
    assert tpu.calls() == []


def test_shellcheck_finds_nothing() -> None:
    if not (shellcheck := shutil.which("shellcheck")):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, *map(str, sorted(SCRIPTS.glob("*.sh")))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
