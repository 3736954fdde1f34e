"""The scripts of tpu/ in a repository of their own, with a gcloud and a uv that only pretend."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SETTINGS = """\
TPU_PROJECT=project
TPU_ZONE=zone-a
TPU_NAME=slice
TPU_TYPE=v5litepod-16
TPU_RUNTIME=runtime
TPU_BUCKET="gs://a bucket"
TPU_QUEUED=0
TPU_SPOT=0
TPU_FORWARD="HF_TOKEN WANDB_API_KEY"
TPU_POLL=0.05
"""

UV = """\
#!/usr/bin/env bash
if [[ $1 == run ]]; then
  env >"$FAKE_GCLOUD/environment"
  { printf '%s\\0' "$@"; printf '\\n'; } >>"$FAKE_GCLOUD/uv"
  echo "output of ${*: -1}"
  sleep "$(cat "$FAKE_GCLOUD/duration" 2>/dev/null || echo 0)"
  exit "$(cat "$FAKE_GCLOUD/exit" 2>/dev/null || echo 0)"
fi
echo "$@" >>"$FAKE_GCLOUD/uv-other"
"""


@dataclass
class Tpu:
    """`root` holds the state of the pretended cloud, `repository` the scripts."""

    root: Path
    repository: Path

    def run(self, script: str, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess:
        environment = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "FAKE_GCLOUD": str(self.root),
            **variables,
        }
        done = subprocess.run(
            [str(self.repository / "tpu" / script), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def set(self, name: str, *lines: str) -> None:
        (self.root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def settings(self, **changed: str) -> None:
        """The settings with some changed; a value of "" takes the line away."""
        lines = dict(line.split("=", 1) for line in SETTINGS.splitlines()) | changed
        text = "".join(f"{name}={value}\n" for name, value in lines.items() if value)
        (self.repository / "tpu" / "env").write_text(text, encoding="utf-8")

    def calls(self) -> list[list[str]]:
        """What gcloud was called with, without what all calls have."""
        path = self.root / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        calls = [json.loads(line) for line in lines]
        assert all(call[:2] == ["compute", "tpus"] for call in calls)
        assert all({"--project=project", "--zone=zone-a"} <= set(call) for call in calls)
        return [[word for word in call[2:] if not word.startswith(("--project=", "--zone="))] for call in calls]

    def verbs(self) -> list[str]:
        """The calls that change something, as `kind verb`."""
        return [" ".join(call[:2]) for call in self.calls() if call[1] != "describe"]

    def commands(self, expected: int = 1) -> list[list[str]]:
        """What ran on the host, arguments of uv; waits until there are as many as expected."""
        path = self.root / "uv"
        commands: list[str] = []
        for _ in range(200):
            commands = path.read_text(encoding="utf-8").split("\0\n")[:-1] if path.exists() else []
            if len(commands) >= expected:
                break
            time.sleep(0.05)
        return [command.split("\0") for command in commands]


@pytest.fixture
def tpu(tmp_path: Path) -> Tpu:
    repository, binaries = tmp_path / "a checkout", tmp_path / "bin"
    shutil.copytree(Path(__file__).parents[2] / "tpu", repository / "tpu", ignore=shutil.ignore_patterns("env"))
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "m"]):
        subprocess.run([*git, *command], check=True)
    binaries.mkdir()
    gcloud = (Path(__file__).parent / "gcloud.py").read_text(encoding="utf-8")
    for name, text in (("gcloud", f"#!{sys.executable} -S\n{gcloud}"), ("uv", UV)):
        (binaries / name).write_text(text, encoding="utf-8")
        (binaries / name).chmod(0o755)
    (tmp_path / "host").mkdir()
    made = Tpu(tmp_path, repository)
    made.set("hosts", "10.0.0.1")
    made.settings()
    return made
