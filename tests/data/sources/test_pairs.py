import concurrent.futures
import hashlib
import os
import threading
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jaxretr.data import schema, sources
from jaxretr.data.sources.pairs import Pairs

from .miniature import write, write_json_lines


def prepare(source, split="train", **settings):
    builder = sources.prepare("pairs", data_dir=source.parent.parent / "data", source=source, **settings)
    return {(r["language"], r["query_id"]): r for r in schema.scan(builder, split)}


def one(tmp_path, *rows):
    return list(prepare(write_json_lines(tmp_path / "source/train.jsonl", rows)).values())


def parts(record):
    return record["query"], record["passage"], record["negatives"]


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "passage": "t p", "negative_2": "n2", "negative_1": "n1", "negative_10": "n10"},
        {"anchor": "q", "positive": "t p", "negative": ["n1", "n2", "n10"]},
        {"query": "q", "pos": ["t p"], "neg": ["n1", "n2", "n10"]},
        {
            "query": "q",
            "positive_passages": [{"title": "t", "text": "p"}],
            "negative_passages": [{"title": "", "text": "n1"}, {"text": "n2"}, {"text": "n10"}],
        },
    ],
)
def test_the_three_layouts(tmp_path, row):
    (record,) = one(tmp_path, row)
    assert parts(record) == ("q", "t p", ["n1", "n2", "n10"])


def test_of_two_processes_that_prepare_the_same_data_one_finds_it_prepared(tmp_path, monkeypatch):
    source = write_json_lines(tmp_path / "source/train.jsonl", [{"query": "q", "passage": "p"}])
    records, waiting = Pairs.records, threading.Event()
    calls = []

    def slow(self, downloads):
        calls.append(self.name)
        assert waiting.wait(60)
        return records(self, downloads)

    monkeypatch.setattr(Pairs, "records", slow)
    monkeypatch.setattr(sources, "say", lambda text: waiting.set())
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        assert [len(found) for found in threads.map(prepare, [source, source])] == [1, 1]
    assert calls == ["pairs"]


def test_prepared_data_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync = os.fsync

    def record(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), os.replace(*paths)))
    prepare(write_json_lines(tmp_path / "source/train.jsonl", [{"query": "q", "passage": "p"}]))
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {"pairs-train.array_record-00000-of-00001", "dataset_info.json", "features.json"} < set(before)
    assert before[-1].startswith("incomplete.")
    assert [name.partition("-")[0] for name in after] == ["train"]  # the directory of the version


def test_a_single_negative_and_none(tmp_path):
    rows = [{"anchor": "a", "positive": "b", "negative": "c"}, {"anchor": "d", "positive": "e"}]
    assert [parts(record) for record in sorted(one(tmp_path, *rows), key=lambda r: r["query"])] == [
        ("a", "b", ["c"]),
        ("d", "e", []),
    ]


def test_ids_align_languages_and_default_to_line_and_content(tmp_path):
    folder = tmp_path / "source"
    write_json_lines(folder / "train-de.jsonl", [{"id": 5, "query": "F", "passage": "A"}])
    write_json_lines(
        folder / "train.jsonl.gz",
        [
            {"id": "5", "query": "Q", "passage": "P", "language": "fr"},
            {"query": "no id", "passage": "P"},
            {"id": "6", "passage_id": "x", "query": "Q", "passage": "P"},
        ],
    )
    found = prepare(folder, language="en")
    assert {key: record["passage_id"] for key, record in found.items()} == {
        ("de", "5"): "5",
        ("fr", "5"): "5",
        ("en", "train:2"): hashlib.sha256(b"P").hexdigest()[:16],
        ("en", "6"): "x",
    }


def test_every_answer_of_a_question_makes_a_record(tmp_path):
    records = one(tmp_path, {"query_id": "7", "query": "q", "pos": ["a", "b"], "neg": ["n"]})
    assert sorted((r["query_id"], r["passage_id"], *parts(r)) for r in records) == [
        ("7", "7", "q", "a", ["n"]),
        ("7+1", "7+1", "q", "b", ["n"]),
    ]


def test_parquet_and_splits(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    table = pyarrow.table({"query": ["q1", "q2"], "passage": ["p1", "p2"], "negative_1": ["n", None]})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    write_json_lines(folder / "validation-pt_BR.jsonl", [{"query": "v", "passage": "w"}])
    write(folder / "README.md", "no data")
    assert sorted(map(parts, prepare(folder).values())) == [("q1", "p1", ["n"]), ("q2", "p2", [])]
    assert list(prepare(folder, "validation")) == [("pt_BR", "validation-pt_BR:1")]


def test_a_single_file_of_any_name_is_the_train_split(tmp_path):
    path = write_json_lines(tmp_path / "source/mine.jsonl", [{"query": "q", "passage": "p"}])
    assert list(prepare(path)) == [("en", "mine:1")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"question": "q", "passage": "p"}', r"line 2: field 'anchor' must be .*\(the record has question, passage\)"),
        ('{"query": "q", "text": "p"}', r"line 2: field 'positive' must be .*\(the record has query, text\)"),
        ('{"query": "", "passage": "p"}', r"line 2: field 'query' must be a string that is not empty"),
        ('{"query": "q", "pos": []}', "line 2: the question has no answer"),
        ('{"query": "q", "pos": [""]}', "line 2: expected a passage that is not empty, found ''"),
        ('{"query": "q", "pos": ["p"], "neg": [null]}', "line 2: expected a passage that is not empty, found None"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "source/train.jsonl", '{"query": "q", "passage": "p"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"train\.jsonl, " + message):
        prepare(path)


def test_names_that_say_no_split(tmp_path):
    path = write_json_lines(tmp_path / "source/part1.jsonl", [{"query": "q", "passage": "p"}])
    with pytest.raises(ValueError, match=r"part1\.jsonl: name the file train, validation or test"):
        prepare(path.parent)
    path.rename(path.with_suffix(".csv"))
    with pytest.raises(ValueError, match=r"looked for files ending in \.jsonl, .* found none"):
        prepare(path.parent)
