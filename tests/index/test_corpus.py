"""Corpora and queries as files: one rule for ids, metadata and what is left out, whatever the layout."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from jaxretr.data.sources import beir
from jaxretr.index import IndexedPassage
from jaxretr.index.corpus import read_corpus, read_queries


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines or as parquet, by the name."""
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet"])
@pytest.mark.parametrize(
    ("row", "passage"),
    [
        ({"_id": "1", "id": "2", "text": "t"}, IndexedPassage("1", "t", metadata={"id": "2"})),
        (
            {"id": "2", "_id": 1, "docid": "3", "text": "t"},
            IndexedPassage("1", "t", metadata={"id": "2", "docid": "3"}),
        ),
        ({"_id": "1", "id": 1, "text": "t"}, IndexedPassage("1", "t")),
        ({"id": "2", "text": "t"}, IndexedPassage("2", "t")),
        ({"_id": None, "docid": "3", "text": "t"}, IndexedPassage("3", "t")),
        ({"_id": "1", "text": "t", "language": "en", "lang": "de"}, IndexedPassage("1", "t", "", "en", {"lang": "de"})),
        ({"_id": "1", "text": None, "title": "only"}, IndexedPassage("1", "", "only")),
        ({"_id": "1", "title": "only", "text": ""}, IndexedPassage("1", "", "only")),
        (
            {"_id": "1", "text": "t", "year": 1999, "url": "u", "new": True, "none": None, "score": float("nan")},
            IndexedPassage("1", "t", metadata={"year": 1999, "url": "u", "new": True}),
        ),
        (
            {"_id": "1", "text": "t", "year": 1, "metadata": {"year": 2, "a": "b"}},
            IndexedPassage("1", "t", metadata={"year": 2, "a": "b"}),
        ),
    ],
    ids=str,
)
def test_ids_and_further_fields(tmp_path: Path, name: str, row: dict[str, Any], passage: IndexedPassage) -> None:
    assert list(read_corpus(write(tmp_path / name, [row]))) == [passage]


def test_the_index_and_the_evaluation_agree_on_the_id(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", [{"id": "other", "_id": "d1", "text": "t"}])
    write(tmp_path / "queries.jsonl", [{"id": "other", "_id": "q1", "text": "t"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    part = beir.part(tmp_path)
    assert [key for key, _, _ in part.texts] == [passage.id for passage in read_corpus(corpus)] == ["d1"]
    assert [key for _, key, _ in part.queries["test"].texts] == [
        id for id, _ in read_queries(tmp_path / "queries.jsonl")
    ]


def test_what_metadata_cannot_hold_is_left_out_and_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"_id": str(i), "text": "t", "tags": ["a"], "of": {"a": 1}, "n": i} for i in range(3)]
    for name in ("c.jsonl", "c.parquet"):
        assert [passage.metadata for passage in read_corpus(write(tmp_path / name, rows))] == [
            {"n": i} for i in range(3)
        ]
        said = [line for line in capsys.readouterr().out.splitlines() if "skipped fields" in line]
        assert len(said) == 1 and said[0].endswith("of, tags") and name in said[0]


def test_every_type_of_column(tmp_path: Path) -> None:
    moment = datetime.datetime(1999, 1, 2, 3, 4, 5)
    columns = {
        "_id": ["1", "2"],
        "text": pa.array(["a", "b"], pa.large_string()),
        "gaps": pa.array([1999, None], pa.float64()),
        "single": pa.array([0.1, float("nan")], pa.float32()),
        "infinite": [float("inf"), 1.0],
        "moment": pa.array([moment, None], pa.timestamp("ns")),
        "zoned": pa.array([moment, None], pa.timestamp("us", "Europe/Berlin")),
        "day": [moment.date(), None],
        "time": [moment.time(), None],
        "took": pa.array([datetime.timedelta(seconds=1.5), None]),
        "price": [decimal.Decimal("1.50"), decimal.Decimal("2.00")],
        "kind": pa.array(["u", "v"]).dictionary_encode(),
        "late": pa.array([10**15, None], pa.timestamp("ms")),
        "list": [[1], []],
        "bytes": [b"x", None],
        "struct": [{"a": 1}, None],
        "nothing": pa.nulls(2),
        "metadata": pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string())),
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "c.parquet")
    first, second = read_corpus(tmp_path / "c.parquet")
    late = first.metadata["late"]
    assert isinstance(late, str)
    assert first.metadata == {
        "gaps": 1999.0,
        "single": 0.1,
        "moment": "1999-01-02T03:04:05",
        "zoned": "1999-01-02T04:04:05+01:00",
        "day": "1999-01-02",
        "time": "03:04:05",
        "took": 1.5,
        "price": 1.5,
        "kind": "u",
        "late": late,
        "k": "v",
    }
    assert second.metadata == {"infinite": 1.0, "price": 2, "kind": "v"}


def test_a_beir_folder_is_its_corpus(tmp_path: Path) -> None:
    write(tmp_path / "b/corpus.jsonl", [{"_id": "1", "text": "t"}])
    write(tmp_path / "b/queries.jsonl", [{"_id": "q", "text": "t"}])
    assert [passage.id for passage in read_corpus(tmp_path / "b")] == ["1"]
    write(tmp_path / "b/part.parquet", [{"_id": "2", "text": "t"}])
    with pytest.raises(ValueError, match=r"holds corpus\.jsonl and part\.parquet; give the path of the file to read"):
        list(read_corpus(tmp_path / "b"))


def test_hidden_files_are_no_shards(tmp_path: Path) -> None:
    write(tmp_path / "p/a.parquet", [{"_id": "1", "text": "t"}])
    (tmp_path / "p/._a.parquet").write_bytes(b"macOS")
    (tmp_path / "p/b.parquet").mkdir()
    assert [passage.id for passage in read_corpus(tmp_path / "p")] == ["1"]


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.parquet", LFS, r"c\.parquet is a git-lfs pointer.*git lfs pull"),
        ("c.parquet", "", r"c\.parquet is not a readable parquet file"),
        ("c.parquet", "PAR1aaaaPAR1", r"c\.parquet is not a readable parquet file"),
        ("c.jsonl", "", r"c\.jsonl holds no passage"),
        ("c.jsonl", '{"_id": true, "text": "t"}', "line 1: id is True"),
        ("c.jsonl", '{"_id": " ", "text": "t"}', "line 1: id is ' '"),
        ("d/readme.md", "x", r"d is not a corpus; expected .*; found readme\.md"),
        ("d/dataset_info.json", "x", r"dataset_info\.json cannot be read"),
        ("d/dataset_info.json", "{}", r"dataset_info\.json cannot be read"),
    ],
)
def test_what_is_no_corpus_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_corpus(path if path.parent == tmp_path else path.parent))


def test_the_second_shard_is_checked_before_the_first_is_read(tmp_path: Path) -> None:
    write(tmp_path / "p/a.parquet", [{"_id": "1", "text": "t"}])
    write(tmp_path / "p/b.parquet", [{"key": "1", "text": "t"}])
    with pytest.raises(ValueError, match=r"b\.parquet: no id; expected the columns _id and text, found key, text"):
        next(iter(read_corpus(tmp_path / "p")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query": "x"}', r"line 1: field 'text' must be a string, found none \(the record has query\)"),
        ('{"_id": "q", "text": " "}', "line 1: the query has no text"),
        ('{"_id": "q", "text": null}', "line 1: field 'text' must be a string"),
        ('{"_id": 1.5, "text": "x"}', "line 1: field '_id'"),
        ("", "holds no query"),
    ],
)
def test_what_is_no_query_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_queries(tmp_path / "q.jsonl")
