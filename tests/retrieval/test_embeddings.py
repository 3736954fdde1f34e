import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jaxretr.locks import DirectoryInUse
from jaxretr.retrieval.embeddings import Embeddings, Rows, check_embeddings, embed

TEXTS = [f"text {i}" for i in range(23)]


def encode(texts: Sequence[str]) -> np.ndarray:
    """Three numbers of each text that only this text has."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return np.array([np.frombuffer(digest[:12], np.uint32) / 2**32 for digest in digests], np.float32)


class Counted:
    """Counts the texts of each call."""

    def __init__(self, fail_at: int = -1):
        self.calls: list[list[str]] = []
        self.fail_at = fail_at

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        if len(self.calls) == self.fail_at:
            raise RuntimeError("out of memory")
        self.calls.append(list(texts))
        return encode(texts)


def shards(directory: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in directory.iterdir() if path.name != "embeddings.json")


def test_slices_equal_the_array(tmp_path: Path) -> None:
    found, expected = embed(TEXTS, encode, tmp_path / "new" / "folder", fingerprint="a", shard_size=5), encode(TEXTS)
    assert found.shape == (23, 3) and len(found) == 23
    assert isinstance(found, Rows) and isinstance(expected, Rows)
    for rows in (slice(None), slice(5, 10), slice(6, 8), slice(3, 17), slice(-2, None), slice(9, 9), slice(20, 99)):
        np.testing.assert_array_equal(found[rows], expected[rows])
        assert found[rows].dtype == np.float32
    assert isinstance(found[5:10], np.memmap) and not found[5:10].flags.writeable
    with pytest.raises(ValueError, match="must have step 1, got 2"):
        found[::2]
    np.testing.assert_array_equal(Embeddings(tmp_path / "new" / "folder")[:], expected)


def test_texts_are_read_one_shard_at_a_time(tmp_path: Path) -> None:
    class Lazy(Sequence[str]):
        def __len__(self) -> int:
            return 23

        def __getitem__(self, index):
            assert not isinstance(index, slice) or index.stop - index.start <= 10
            return TEXTS[index]

    counted = Counted()
    np.testing.assert_array_equal(embed(Lazy(), counted, tmp_path, fingerprint="a", shard_size=10)[:], encode(TEXTS))
    assert counted.calls == [TEXTS[:10], TEXTS[10:20], TEXTS[20:]]


def test_what_is_finished_is_not_redone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        embed(TEXTS, Counted(fail_at=2), tmp_path, fingerprint="a", shard_size=5)
    assert shards(tmp_path) == ["00000", "00001"]
    with pytest.raises(FileNotFoundError, match="no finished embeddings"):
        Embeddings(tmp_path)
    again, third = Counted(), Counted()
    np.testing.assert_array_equal(embed(TEXTS, again, tmp_path, fingerprint="a", shard_size=5)[:], encode(TEXTS))
    assert again.calls == [TEXTS[10:15], TEXTS[15:20], TEXTS[20:]]
    embed(TEXTS, third, tmp_path, fingerprint="a", shard_size=5)
    assert third.calls == []


KILLED = """
import os, signal, stat, sys
from jaxretr.retrieval.embeddings import embed
from tests.retrieval.test_embeddings import TEXTS, encode

sync, synced = os.fsync, []
def kill(file):
    if stat.S_ISREG(os.fstat(file).st_mode):  # no directory
        synced.append(file)
    if len(synced) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(file)
os.fsync = kill
embed(TEXTS, encode, sys.argv[1], fingerprint="a", shard_size=5)
"""


def test_a_killed_process_leaves_whole_shards(tmp_path: Path) -> None:
    """Killed while it writes the third shard."""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert len(list(tmp_path.glob("0*.npy"))) == 2 and len(list(tmp_path.glob(".*.npy"))) == 1
    counted = Counted()
    np.testing.assert_array_equal(embed(TEXTS, counted, tmp_path, fingerprint="a", shard_size=5)[:], encode(TEXTS))
    assert counted.calls == [TEXTS[10:15], TEXTS[15:20], TEXTS[20:]]
    assert shards(tmp_path) == ["00000", "00001", "00002", "00003", "00004"]  # nothing half-written is left


@pytest.mark.parametrize("size", [0, 40, 130])  # the header of a shard has 128 bytes
def test_a_truncated_shard_is_redone(tmp_path: Path, size: int) -> None:
    embed(TEXTS, encode, tmp_path, fingerprint="a", shard_size=5)
    (broken,) = tmp_path.glob("00001-*")
    broken.write_bytes(broken.read_bytes()[:size])
    with pytest.raises(ValueError, match="00001-.* is missing or damaged, expected \\(5, 3\\)"):
        Embeddings(tmp_path)
    counted = Counted()
    np.testing.assert_array_equal(embed(TEXTS, counted, tmp_path, fingerprint="a", shard_size=5)[:], encode(TEXTS))
    assert counted.calls == [TEXTS[5:10]]


def test_only_shards_whose_texts_changed_are_redone(tmp_path: Path) -> None:
    embed(TEXTS, encode, tmp_path, fingerprint="a", shard_size=5)
    changed = [*TEXTS[:7], "text", "7", *TEXTS[9:18]]  # shorter too
    counted = Counted()
    np.testing.assert_array_equal(embed(changed, counted, tmp_path, fingerprint="a", shard_size=5)[:], encode(changed))
    assert counted.calls == [changed[5:10], changed[15:]]
    assert shards(tmp_path) == ["00000", "00001", "00002", "00003"]


def test_another_fingerprint_embeds_anew_and_until_then_leaves_the_old(tmp_path: Path, capsys) -> None:
    embed(TEXTS, encode, tmp_path, fingerprint="old", shard_size=5)
    with pytest.raises(RuntimeError):
        embed(TEXTS, Counted(fail_at=3), tmp_path, fingerprint="new", shard_size=5)
    assert "another encoder" in capsys.readouterr().out
    np.testing.assert_array_equal(Embeddings(tmp_path)[:], encode(TEXTS))

    counted: list[str] = []
    found = embed(
        TEXTS, lambda texts: counted.extend(texts) or -encode(texts), tmp_path, fingerprint="new", shard_size=5
    )
    assert counted == TEXTS[15:]  # the other shards are the interrupted run's
    np.testing.assert_array_equal(found[15:], -encode(TEXTS[15:]))
    assert len(shards(tmp_path)) == 5
    assert json.loads((tmp_path / "embeddings.json").read_text()) == {
        "fingerprint": "new",
        "dim": 3,
        "texts": 23,
        "shard_size": 5,
        "shards": sorted(path.name for path in tmp_path.glob("*.npy")),
    }


def test_a_second_call_for_one_directory_is_refused(tmp_path: Path) -> None:
    def slow(texts: Sequence[str]) -> np.ndarray:
        with pytest.raises(DirectoryInUse, match="in use by process .* embed into another directory"):
            embed(TEXTS, encode, tmp_path, fingerprint="b")
        return encode(texts)

    np.testing.assert_array_equal(embed(TEXTS, slow, tmp_path, fingerprint="a")[:], encode(TEXTS))


def test_other_files_of_the_directory_are_left_alone(tmp_path: Path) -> None:
    for name in ("queries.npy", "2024-01.npy"):
        np.save(tmp_path / name, encode(TEXTS))
    embed(TEXTS, encode, tmp_path, fingerprint="old", shard_size=5)
    embed(TEXTS, encode, tmp_path, fingerprint="new", shard_size=23)
    assert len(list(tmp_path.iterdir())) == 2 + 1 + 1
    for name in ("queries.npy", "2024-01.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), encode(TEXTS))


def test_another_dimension_under_the_same_fingerprint_is_refused(tmp_path: Path) -> None:
    embed(TEXTS, encode, tmp_path, fingerprint="a", shard_size=5)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    with pytest.raises(
        ValueError, match="from encode have 2 dimensions, earlier embeddings in .* have 3 and the same fingerprint"
    ):
        embed([*TEXTS, "more"], lambda texts: encode(texts)[:, :2], tmp_path, fingerprint="a", shard_size=5)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_broken_embeddings_are_refused_and_not_written(tmp_path: Path) -> None:
    def broken(texts: Sequence[str]) -> np.ndarray:
        return np.where(np.array([text == "text 8" for text in texts])[:, None], np.inf, encode(texts))

    with pytest.raises(ValueError, match="encode returned values that are not finite for 1 texts, the first 'text 8'"):
        embed(TEXTS, broken, tmp_path, fingerprint="a", shard_size=5)
    assert shards(tmp_path) == ["00000"]
    with pytest.raises(ValueError, match=r"shape \(4, 3\); expected \[5, dim\].*'text 5'"):
        embed(TEXTS, lambda texts: encode(texts)[1:], tmp_path, fingerprint="a", shard_size=5)
    with pytest.raises(ValueError, match=r"someone returned shape \(3,\); expected \[1, dim\]"):
        check_embeddings(np.zeros(3), ["one"], "someone")
    with pytest.raises(ValueError, match="0 texts in shards of 16384"):
        embed([], encode, tmp_path, fingerprint="a")
