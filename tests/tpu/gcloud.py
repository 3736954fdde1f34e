"""A gcloud that knows one slice with one host, for tests: its state is in files, its host is a directory.

`calls` gets the arguments of each call, one JSON list a line. The states of the slice and of its place in the queue are
read from `tpu-vm` and `queued-resources`, a line each time, the last line again and again. A line ERROR is a failure
of gcloud itself. Creating writes READY or ACTIVE, deleting empties. Commands run in `host`, as HOME.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

root = Path(os.environ["FAKE_GCLOUD"])
arguments = sys.argv[1:]
with (root / "calls").open("a", encoding="utf-8") as calls:
    calls.write(json.dumps(arguments) + "\n")
kind, verb = arguments[2:4]
states = root / kind


def option(name: str) -> str:
    return next((value.split("=", 1)[1] for value in arguments if value.startswith(f"--{name}=")), "")


def next_state() -> str:
    lines = states.read_text(encoding="utf-8").splitlines() if states.exists() else []
    if len(lines) > 1:
        states.write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    return lines[0] if lines else "ABSENT"


match verb:
    case "describe" if "networkEndpoints" in option("format"):
        print((root / "hosts").read_text(encoding="utf-8").strip())
    case "describe":
        state = next_state()
        if state == "ABSENT":
            sys.exit(f"ERROR: (gcloud.compute.tpus.{kind}.describe) NOT_FOUND: Resource was not found")
        if state == "ERROR":
            sys.exit("ERROR: (gcloud) PERMISSION_DENIED: no")
        print(state)
    case "create":
        if (root / "no-capacity").exists():
            (root / "no-capacity").unlink()
            sys.exit("ERROR: (gcloud) RESOURCE_EXHAUSTED: no capacity")
        states.write_text("ACTIVE\n" if kind == "queued-resources" else "READY\n", encoding="utf-8")
        (root / "tpu-vm").write_text("READY\n", encoding="utf-8")
        shutil.rmtree(root / "host", ignore_errors=True)  # a new slice has empty disks
        (root / "host").mkdir()
    case "delete":
        existed = states.exists() and states.read_text(encoding="utf-8").split()
        states.unlink(missing_ok=True)
        if not existed:
            sys.exit("ERROR: (gcloud) NOT_FOUND: Resource was not found")
    case "scp":
        shutil.copy(arguments[4], root / "host" / arguments[5].split(":", 1)[1])
    case "ssh":
        environment = {**os.environ, "HOME": str(root / "host")}
        sys.exit(subprocess.run(["bash", "-c", option("command")], cwd=root / "host", env=environment).returncode)
