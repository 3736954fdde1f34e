"""`jaxretr.files`: whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxretr.files import replaced_file, write_json


def test_json_is_replaced_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": "Ελληνικά"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "Ελληνικά"}
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize(("value", "error"), [(object(), TypeError), (float("nan"), ValueError)])
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path: Path, value: object, error: type[Exception]) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(error):
        write_json(path, {"a": value})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    writer = (
        "import os, sys, pathlib; from jaxretr.files import replaced_file\n"
        "with replaced_file(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('ne'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", writer, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_the_name_to_write_to_keeps_the_ending(tmp_path: Path) -> None:
    with replaced_file(tmp_path / "x.npz") as partial:
        partial.write_bytes(b"1")
        assert partial.suffix == ".npz"
        assert partial.parent == tmp_path
        assert str(os.getpid()) in partial.name
    assert (tmp_path / "x.npz").read_bytes() == b"1"
