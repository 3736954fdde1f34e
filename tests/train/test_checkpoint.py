"""Which checkpoints count, and what is said when one cannot be written. Whole runs are in tests/test_run.py."""

import dataclasses
import errno
import os
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxretr import parallel
from jaxretr.config import Config
from jaxretr.train.checkpoint import Checkpoints, finished_steps
from jaxretr.train.early_stopping import EarlyStopping
from jaxretr.train.output_dir import claim_output_dir
from jaxretr.train.step import TrainState

UNFINISHED = ("10.orbax-checkpoint-tmp", "10.orbax-checkpoint-tmp-1700000000", "8.orbax-checkpoint-tmp-12/state")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(output_dir=str(tmp_path / "run"))


@pytest.mark.parametrize("left", UNFINISHED)
def test_unfinished_checkpoints_do_not_count(left: str, config: Config) -> None:
    checkpoints = claim_output_dir(config) / "checkpoints"
    (checkpoints / left).mkdir(parents=True)
    assert finished_steps(checkpoints) == []
    other = dataclasses.replace(config, seed=1, resume=False)
    claim_output_dir(other)  # a run without a finished checkpoint is overwritten
    (checkpoints / "5").mkdir()
    (checkpoints / "15").mkdir()
    assert finished_steps(checkpoints) == [5, 15]
    with pytest.raises(ValueError, match="holds a run, and resume is False"):
        claim_output_dir(other)


def test_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "10").touch()
    (tmp_path / "5.txt").touch()
    assert finished_steps(tmp_path) == finished_steps(tmp_path / "absent") == []


def save(checkpoints: Checkpoints, step: int) -> None:
    state = TrainState(parallel.replicate(jnp.int32(step)), {"w": parallel.replicate(jnp.ones(3))}, ())
    checkpoints.save(state, {}, {}, EarlyStopping(""))
    checkpoints.wait()


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        save(checkpoints, 5)
    written = [path for path in (tmp_path / "checkpoints" / "5").rglob("*") if path.is_file()]
    assert any(path.parts[-2:] == ("data", "metadata") for path in written)
    for path in written:
        if path.name not in ("_CHECKPOINT_METADATA", "commit_success.txt"):
            before = f"{path}".replace("/5/", "/5.orbax-checkpoint-tmp/")
            assert before in synced, synced
        assert str(path) in synced
    assert str(tmp_path / "checkpoints") in synced


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "Free some disk space"), (errno.EDQUOT, "Free some"), (errno.EACCES, "Make the")],
)
def test_the_remedy_is_that_of_the_reason(
    code: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        save(checkpoints, 5)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(checkpoints._manager, "save", refuse)
        with pytest.raises(OSError, match=f"{os.strerror(code)}.*resumes from checkpoint 5.*{remedy}") as caught:
            save(checkpoints, 10)
        assert ("disk space" in str(caught.value)) == (code != errno.EACCES)


def test_a_directory_that_was_deleted_is_no_lack_of_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when two runs write into it."""
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, keep=2) as checkpoints:

        def lose(*_: object, **__: object) -> None:
            directory.rmdir()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory / "5"))

        monkeypatch.setattr(checkpoints._manager, "save", lose)
        with pytest.raises(
            OSError, match=r"No such file .*/checkpoints/5.* no checkpoint is finished yet. Make the directory writ"
        ):
            save(checkpoints, 5)
