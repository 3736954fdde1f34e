"""`jaxretr.files`: whole or not at all."""

import errno
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaxretr.files import as_path, make_directory, on_disk, replaced_file, sync_tree, write_json


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


def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What reaches the disk from here on, in order: ("sync" or "replace", path)."""
    events = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        events.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        events.append(("replace", str(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return events


def test_a_power_cut_after_the_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = synced(monkeypatch)
    with replaced_file(tmp_path / "a" / "b" / "x.txt") as partial:
        partial.write_text("new")
    assert events == [
        ("sync", str(tmp_path / "a")),  # holds the entry b
        ("sync", str(tmp_path)),  # holds the entry a
        ("sync", str(partial)),
        ("replace", str(partial)),
        ("sync", str(tmp_path / "a" / "b")),
    ]


def test_a_tree_is_synced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "a/y", "a/b/z"):
        make_directory((tmp_path / name).parent)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("nowhere")
    events = synced(monkeypatch)
    sync_tree(tmp_path)
    assert {path for _, path in events} == {str(tmp_path / name) for name in ("", "x", "a", "a/y", "a/b", "a/b/z")}


def test_a_file_system_that_cannot_sync_directories_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int, code: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", lambda descriptor: refuse(descriptor, errno.EINVAL))
    write_json(tmp_path / "x.json", 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: refuse(descriptor, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        write_json(tmp_path / "x.json", 2)


def test_two_writers_of_one_process_number_do_not_meet(tmp_path: Path) -> None:
    """As two threads have it, or two hosts or containers that share a directory."""
    path = tmp_path / "x.txt"
    with replaced_file(path) as first, replaced_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # renamed last
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("give", [str, Path])
def test_home_directories_are_expanded(give: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    account = pwd.getpwuid(0)
    for given, path in {
        "~/runs/x": "/home/ada/runs/x",
        "~": "/home/ada",
        f"~{account.pw_name}/x": f"{account.pw_dir}/x",
        "runs/~/x": "runs/~/x",
        "/a/~x": "/a/~x",
    }.items():
        assert as_path(give(given)) == on_disk(give(given), "it") == Path(path)
    with pytest.raises(ValueError, match="~nobody-of-this-name/x begins with the home directory of an unknown user"):
        as_path(give("~nobody-of-this-name/x"))
