import concurrent.futures
import hashlib
import os
import threading
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jaxretr.data import schema, sources
from jaxretr.data.sources import pair_rows
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


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"query": "q", "pos": "Left of the park.", "neg": "n"}, ["n"]),
        ({"query": "q", "positive_passages": "Left of the park.", "negative_passages": "n"}, ["n"]),
        ({"query": "q", "positives": ["Left of the park."], "hard_negatives": ["n", {"text": "m"}]}, ["n", "m"]),
        ({"query": "q", "positive": {"title": "Left", "text": "of the park."}, "negatives": ["n", "m"]}, ["n", "m"]),
        ({"query": "q", "passage": ["Left of the park."], "hard_negative": "n"}, ["n"]),
        ({"anchor": "q", "positive": "Left of the park.", "negative": ["n"], "negative_1": "m"}, ["n", "m"]),
        ({"query": "q", "pos": ["Left of the park."], "hard_negative_2": "m", "hard_negative_1": "n"}, ["n", "m"]),
        ({"query": "q", "pos": ["Left of the park."], "neg": []}, []),
    ],
)
def test_a_passage_is_a_list_of_one_and_negatives_have_many_names(tmp_path, row, expected):
    (record,) = one(tmp_path, row)
    assert parts(record) == ("q", "Left of the park.", expected)


@pytest.mark.parametrize("column", ["pos", "neg", "positive_passages", "negatives", "negative_1", "passage"])
@pytest.mark.parametrize("value", [3, True, {"title": "t"}, {"text": None}, {"text": ["x"]}, [3], [None], [["x"]], " "])
def test_what_is_no_passage_is_an_error_with_file_and_line(column, value):
    with pytest.raises(ValueError, match=r"^train\.jsonl, line 5: "):
        pair_rows.read({"query": "q", "passage": "p"} | {column: value}, Path("train.jsonl"), 5)


def test_columns_that_are_not_read_are_named_once(tmp_path, capfd):
    rows = [{"query": "q", "passage": "p", "anchor": "a", "idx": 1}, {"query": "q", "passage": "p", "score": 0.1}]
    write_json_lines(tmp_path / "source/train.jsonl", rows)
    pyarrow.parquet.write_table(
        pyarrow.table({"query": ["q"], "pos": [[{"text": "p", "score": 1}]], "idx": [[1, 2]], "time": [None]}),
        tmp_path / "source/test.parquet",
    )
    prepare(tmp_path / "source")
    printed = capfd.readouterr().err
    assert [line for line in printed.splitlines() if "ignored columns" in line] == [
        "pairs: ignored columns: idx, pos.score, time (test)",
        "pairs: ignored columns: anchor, score (train)",
    ]


@pytest.mark.parametrize("column", ["language", "id", "query_id", "passage_id", "negatives", "neg", "pos", "anchor"])
def test_null_and_absent_are_the_same_in_json_lines_as_in_parquet(tmp_path, column):
    row = {"query": "q", "passage": "p"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row | {column: None}]), tmp_path / "train.parquet")
    found = [
        prepare(write_json_lines(tmp_path / "a/source/train.jsonl", [row | {column: None}])),
        prepare(write_json_lines(tmp_path / "b/source/train.jsonl", [row])),
        prepare(tmp_path / "train.parquet"),
    ]
    assert found[0] == found[1] == found[2] and list(found[0]) == [("en", "train:1")]


def test_titles_and_ids_of_passages_may_be_null_and_texts_may_not(tmp_path):
    row = {"query": "q", "pos": [{"docid": None, "title": None, "text": "p"}]}
    (record,) = one(tmp_path, row)
    assert record["passage"] == "p" and record["docid"] == ""
    for column in ("query", "passage"):
        with pytest.raises(ValueError, match=r"train\.jsonl, line 1: field '\w+' must be a string"):
            one(tmp_path, {"query": "q", "passage": "p"} | {column: None})


@pytest.mark.parametrize("language", ["None", "german", "", 3, "00000-of-00002"])
def test_what_is_no_language_tag_is_an_error(tmp_path, language):
    with pytest.raises(ValueError, match=r"line 1: field 'language' must be a language tag such as de, .*, found"):
        one(tmp_path, {"query": "q", "passage": "p", "language": language})
    with pytest.raises(ValueError, match="^language must be a language tag"):
        sources.builder("pairs", data_dir=tmp_path, source=tmp_path, language=str(language))


@pytest.mark.parametrize("value", ["", [1], True, 7.5])
@pytest.mark.parametrize("column", ["id", "query_id", "passage_id", "docid"])
def test_what_is_no_id_is_an_error(tmp_path, column, value):
    with pytest.raises(ValueError, match=f"line 1: the id '{column}' must be a string"):
        one(tmp_path, {"query": "q", "passage": "p", column: value})


def test_ids_may_be_numbers_also_with_gaps(tmp_path):
    records = one(tmp_path, {"query_id": 101.0, "query": "q", "pos": {"docid": 7, "text": "p"}})
    assert [(r["query_id"], r["passage_id"]) for r in records] == [("101", "7")]


def test_lone_surrogates_become_replacement_characters(tmp_path):
    path = write(tmp_path / "source/train.jsonl", r'{"query": "nice day \ud83d", "passage": "cut by length \ud83d"}')
    assert [parts(record) for record in prepare(path).values()] == [("nice day \ufffd", "cut by length \ufffd", [])]


def test_a_query_of_white_space_is_not_trained_on(tmp_path):
    with pytest.raises(ValueError, match=r"train\.jsonl, line 1: the query has no text"):
        one(tmp_path, {"query": " \t", "passage": "p"})


def test_answers_of_one_question_may_be_in_several_lines(tmp_path):
    rows = [
        {"query_id": 7, "query": "q", "passage": "a"},
        {"query_id": 7, "query": "q", "pos": ["b", "a"]},
        {"query_id": 7, "query": "q", "passage": "a", "language": "de"},
        {"query_id": 7, "query": "q", "positive_passages": [{"docid": "d", "text": "c"}]},
    ]
    records = one(tmp_path, *rows)
    assert sorted((r["language"], r["query_id"], r["passage_id"], r["passage"]) for r in records) == [
        ("de", "7", "7", "a"),
        ("en", "7", "7", "a"),
        ("en", "7+1", "7+1", "b"),
        ("en", "7+2", "7", "a"),
        ("en", "7+3", "d", "c"),
    ]
    assert {r["question_id"] for r in records} == {"7"}


def test_query_id_says_what_a_question_is_before_id_does(tmp_path):
    (record,) = one(tmp_path, {"id": 0, "query_id": "q7", "query": "q", "passage": "a"})
    assert record["query_id"] == "q7"


def test_shards_belong_to_their_split_and_layouts_mix(tmp_path):
    folder = tmp_path / "source"
    for number, row in enumerate([{"query": "q0", "passage": "p0"}, {"anchor": "q1", "positive": "p1"}]):
        (folder / "en").mkdir(parents=True, exist_ok=True)
        path = folder / f"en/train-0000{number}-of-00002.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    write_json_lines(folder / "train-de.jsonl", [{"query": "q2", "pos": ["p2"]}])
    write(folder / "._train.jsonl", "\0\5")
    assert sorted(prepare(folder)) == [
        ("de", "train-de:1"),
        ("en", "en/train-00000-of-00002:1"),
        ("en", "en/train-00001-of-00002:1"),
    ]


def test_byte_order_marks_windows_ends_empty_lines_and_tabs_change_nothing(tmp_path):
    text = '\ufeff{"query": "q\\tr", "passage": "p"}\r\n\r\n{"query": "s", "passage": "t"}\r\n'
    found = prepare(write(tmp_path / "source/train.jsonl.gz", text))
    assert {key: parts(record) for key, record in found.items()} == {
        ("en", "train:1"): ("q\tr", "p", []),
        ("en", "train:3"): ("s", "t", []),
    }


def test_a_file_that_git_lfs_has_not_fetched_is_named(tmp_path):
    for name in ("train.jsonl", "train.jsonl.gz", "train.parquet"):
        path = tmp_path / "source" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
        with pytest.raises(ValueError, match=rf"{name} is a git-lfs pointer"):
            prepare(path)
