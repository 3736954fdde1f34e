"""Locks: one process per directory."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxretr.files import as_path
from jaxretr.locks import DirectoryInUse, lock_directory, unlock_directory
from jaxretr.parallel import in_locked_directory, locked

HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print(f"process {os.getpid()} on some host", end="", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "run"
    held = lock_directory(directory, "stop it")
    message = rf"{directory} is in use by process {os.getpid()} on \S+, which holds {directory / 'lock'}; stop it$"
    with pytest.raises(DirectoryInUse, match=message):
        lock_directory(directory, "stop it")
    unlock_directory(held)
    assert list(directory.iterdir()) == []
    unlock_directory(lock_directory(directory, "stop it"))


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(DirectoryInUse, match=f"in use by process {holder.pid} on"), locked(tmp_path, "stop it"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()
    with locked(tmp_path, "stop it"):
        pass


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_lock_is_released_when_the_block_ends(tmp_path: Path, error: type[BaseException] | None) -> None:
    try:
        with locked(tmp_path / "run", "stop it"):
            (tmp_path / "run" / "x").touch()
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["x"]


def test_a_directory_that_stays_empty_is_not_left_behind(tmp_path: Path) -> None:
    @in_locked_directory
    def refuse(output_dir: Path, reason: str) -> None:
        assert (output_dir / "lock").exists()
        raise ValueError(reason)

    with pytest.raises(ValueError, match="no such setting"):
        refuse(tmp_path / "run", reason="no such setting")
    assert list(tmp_path.iterdir()) == []


def test_who_waits_gets_the_lock_next(tmp_path: Path) -> None:
    """Also if the file it waited for was deleted: a third process may hold a new one."""
    order, said = [], []
    held = lock_directory(tmp_path, "stop it")

    def wait(name: str) -> None:
        waited = lock_directory(tmp_path, "", wait=said.append)
        order.append(f"{name} begins")
        time.sleep(0.05)
        order.append(f"{name} ends")
        unlock_directory(waited)

    threads = [threading.Thread(target=wait, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert order == [] and len(said) == 4
    unlock_directory(held)
    for thread in threads:
        thread.join()
    assert [event.partition(" ")[2] for event in order] == ["begins", "ends"] * 4
    assert all(begun[0] == ended[0] for begun, ended in zip(order[::2], order[1::2], strict=True))


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    message = r"lock cannot be locked \(Operation not supported\); let only one process use the directory"
    with pytest.warns(UserWarning, match=message), locked(tmp_path, "stop it"):
        pass


def test_nothing_is_locked_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda _: None)
    with locked(as_path("gs://bucket/run"), "stop it"):
        pass
