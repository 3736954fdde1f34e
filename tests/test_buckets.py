"""Paths in buckets, wherever a directory is taken."""

import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxretr import Encoder, files, run
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.run import attack_into
from jaxretr.config import Config
from jaxretr.data.test_collections import load_test_collection
from jaxretr.eval.results import Results
from jaxretr.eval.runs import evaluate_into
from jaxretr.files import as_path, local_copy, replaced_file, upload_directory, write_json
from jaxretr.index.index import Index
from tests import buckets, test_run, test_tracking, tiny


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[buckets.Buckets]]:
    """Buckets below `tmp_path`, of which gs://bucket is one."""
    monkeypatch.setattr(files, "COPIES", tmp_path / "copies")
    with buckets.served(tmp_path / "buckets") as served:
        yield served


def test_a_file_is_replaced_when_it_is_whole(bucket: type[buckets.Buckets]) -> None:
    path = as_path("gs://bucket/deep/x.json")
    assert not path.exists()
    write_json(path, {"a": "Ελληνικά"})
    with pytest.raises(RuntimeError), replaced_file(path) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert json.loads(path.read_text("utf-8")) == {"a": "Ελληνικά"}
    assert [child.name for child in path.parent.iterdir()] == ["x.json"]
    assert bucket.uploads == ["bucket/deep/x.json"]


def test_a_copy_follows_what_is_in_the_bucket(bucket: type[buckets.Buckets]) -> None:
    path = as_path("gs://bucket/data")
    write_json(path / "a" / "1.json", 1)
    write_json(path / "2.json", 2)
    copy = local_copy(path)
    assert json.loads((copy / "a" / "1.json").read_text()) == 1
    kept = (copy / "2.json").stat().st_ino
    write_json(path / "a" / "1.json", 100)
    (path / "2.json").unlink()
    write_json(path / "3.json", 3)
    assert local_copy(path) == copy
    assert {str(file.relative_to(copy)) for file in copy.rglob("*.json")} == {"a/1.json", "3.json"}
    assert json.loads((copy / "a" / "1.json").read_text()) == 100
    inode = (copy / "3.json").stat().st_ino
    local_copy(path)
    assert (copy / "3.json").stat().st_ino == inode != kept  # not copied again
    assert json.loads(local_copy(path / "3.json").read_text()) == 3
    with pytest.raises(FileNotFoundError, match="gs://bucket/absent does not exist; check the name"):
        local_copy(path.parent / "absent")


def test_a_copy_follows_writes_of_one_size_within_a_second(bucket: type[buckets.Buckets]) -> None:
    path = as_path("gs://bucket/1.json")
    for value in (1, 2):
        write_json(path, value)
        time = 1_700_000_000_000_000_000 + value * 1_000_000  # a millisecond apart
        os.utime(bucket.root / "bucket" / "1.json", ns=(time, time))
        assert json.loads(local_copy(path).read_text()) == value


def test_processes_may_copy_one_path_at_once(bucket: type[buckets.Buckets], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends while the first is halfway through a file, as does a third with an older listing."""
    path = as_path("gs://bucket/data")
    for number in range(3):
        write_json(path / f"{number}.json", number)
        os.utime(bucket.root / "bucket" / "data" / f"{number}.json", (1, 1))  # older than any copy under way
    get_file = bucket.get_file

    def halfway(store, name, target):
        monkeypatch.setattr(bucket, "get_file", get_file)
        get_file(store, name, target)
        os.utime(target, (1, 1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)  # another process
            assert local_copy(path) == files.disk_place(path)

    monkeypatch.setattr(bucket, "get_file", halfway)
    copy = local_copy(path)
    assert {file.name: json.loads(file.read_text()) for file in copy.iterdir()} == {
        f"{number}.json": number for number in range(3)
    }


def test_copies_that_killed_processes_left_are_deleted(
    bucket: type[buckets.Buckets], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_path("gs://bucket/data")
    write_json(path / "1.json", 1)
    copy = local_copy(path)
    with pytest.raises(RuntimeError), replaced_file(copy / "1.json") as partial:
        raise RuntimeError
    partial.write_text("1")
    local_copy(path)
    assert partial.exists()  # may belong to a process that runs
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 86_400)
    local_copy(path)
    assert [file.name for file in copy.iterdir()] == ["1.json"]


def test_what_tells_that_a_directory_is_whole_comes_last(bucket: type[buckets.Buckets], tmp_path: Path) -> None:
    made = tmp_path / "made"
    for name in ("a.json", "last.json", "z/b.json"):
        write_json(made / name, name)
    path = as_path("gs://bucket/whole")
    write_json(path / "last.json", "old")
    write_json(path / "old.json", "old")
    bucket.left = 2
    with pytest.raises(OSError, match="network is down"):
        upload_directory(made, path, last="last.json")
    assert not (path / "last.json").exists()
    bucket.left = -1
    upload_directory(made, path, last="last.json")
    assert bucket.uploads[-1] == "bucket/whole/last.json"
    assert {file.name for file in local_copy(path).rglob("*.json")} == {"a.json", "last.json", "b.json"}


def test_models(bucket: type[buckets.Buckets]) -> None:
    encoder, texts = tiny.encoder(), ["en1 de2", "el3"]
    encoder.save("gs://bucket/model", model_card="one")
    loaded = Encoder.load("gs://bucket/model")
    np.testing.assert_array_equal(loaded.encode_query(texts), encoder.encode_query(texts))

    other = tiny.encoder()
    other.params = jax.tree.map(lambda x: x + 0.1, other.params)
    bucket.left = 3
    with pytest.raises(OSError, match="network is down"):
        other.save("gs://bucket/model")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Encoder.load("gs://bucket/model")
    bucket.left = -1
    other.save("gs://bucket/model")
    loaded = Encoder.load("gs://bucket/model")
    np.testing.assert_array_equal(loaded.encode_query(texts), other.encode_query(texts))
    assert not as_path("gs://bucket/model/README.md").exists()

    write_json(as_path("gs://bucket/mine/notes.json"), 1)
    with pytest.raises(FileExistsError, match="gs://bucket/mine exists and is not a saved model"):
        encoder.save("gs://bucket/mine")


@pytest.fixture
def in_bucket(bucket: type[buckets.Buckets], tiny_config: Config) -> Config:
    """The tiny run with everything in a bucket."""
    upload_directory(Path(tiny_config.data.source), as_path("gs://bucket/pairs"), last="test.jsonl")
    upload_directory(Path(tiny_config.model.model_name_or_path), as_path("gs://bucket/tiny"), last="config.json")
    return dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, model_name_or_path="gs://bucket/tiny"),
        data=dataclasses.replace(tiny_config.data, source="gs://bucket/pairs", data_dir="gs://bucket/data"),
        output_dir="gs://bucket/run",
    )


@pytest.mark.slow
@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_bit_for_bit(
    in_bucket: Config, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        test_run.at_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped after step 7"):
            run.train(in_bucket)
    monkeypatch.setattr(files, "COPIES", tmp_path / "another machine")
    with monkeypatch.context() as patch:
        patch.setattr("tensorflow_datasets.core.DatasetBuilder.download_and_prepare", None)  # it is in the bucket
        model = run.train(in_bucket)
    test_run.assert_same_model(local_copy(model), Path(run.train(tiny_config)))

    output = as_path(in_bucket.output_dir)
    assert {path.name for path in output.iterdir()} == {
        *("config.json", "content.json", "results_before.json", "results.json", "metrics.jsonl"),
        *("checkpoints", "tensorboard", "model"),
    }
    same = ("step", "loss", "accuracy", "grad_norm", "learning_rate")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [[row[name] for name in same] for row in rows if row["step"] in (4, 12)] == [
        [row[name] for name in same] for row in test_run.metrics(tiny_config) if row["step"] in (4, 12)
    ]
    assert Results.load(output / "results.json") == Results.load(Path(tiny_config.output_dir) / "results.json")
    curves = test_tracking.curves(local_copy(output))
    assert [step for step, _ in curves["train/loss"]] == [row["step"] for row in rows]


def test_evaluations_and_attacks(in_bucket: Config) -> None:
    encoder = Encoder.load("gs://bucket/tiny")
    collection = load_test_collection("pairs", "gs://bucket/pairs", cache_dir="gs://bucket/data", split="test")
    for _ in range(2):  # begun, and gone on with
        results = evaluate_into(
            as_path("gs://bucket/evaluation"),
            collection,
            encoder.encode_query,
            encoder.encode_document,
            system="tiny",
            evaluation={},
            fingerprint=encoder.fingerprint,
        )
        attacked = attack_into(
            as_path("gs://bucket/attack"),
            encoder,
            collection,
            AttackOptions(attacks=("fgm",), rho=(0.1,)),
            setting="mono",
            system="tiny",
            run_settings={},
            measures=("AP",),
        )
    assert Results.load("gs://bucket/evaluation").scalars() == results.scalars()
    assert Results.load("gs://bucket/attack").scalars() == attacked.scalars()
    for name in ("evaluation/report.html", "evaluation/embeddings/embeddings.json", "attack/report.html"):
        assert as_path(f"gs://bucket/{name}").exists()


def test_an_index_in_a_bucket_is_refused(bucket: type[buckets.Buckets]) -> None:
    with pytest.raises(
        ValueError, match=r"gs://bucket/index is in a bucket, but an index must be on a disk; copy it to a disk"
    ):
        Index.open("gs://bucket/index")


def test_without_gcsfs_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr("fsspec.get_filesystem_class", absent)
    with pytest.raises(RuntimeError, match=r"gs://bucket/x needs the package gcsfs .* extra gcs"):
        as_path("gs://bucket/x")
