import zipfile

import pytest

from jaxretr.data import schema, sources

from .miniature import write, write_json_lines

CORPUS = [
    {"_id": "d1", "title": "Title", "text": "first"},
    {"_id": "d2", "title": "", "text": "second"},
    {"_id": "d3", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "one?"}, {"_id": "q2", "text": "two?"}, {"_id": "q3", "text": "unjudged?"}]
TEST = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n"
DEV = "query-id\tcorpus-id\tscore\nq2\td2\t1\n"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "mini"
    write_json_lines(folder / "corpus.jsonl", CORPUS)
    write_json_lines(folder / "queries.jsonl", QUERIES)
    write(folder / "qrels/test.tsv", TEST)
    write(folder / "qrels/dev.tsv", DEV)
    return folder


def prepare(source, **settings):
    return sources.prepare("beir", data_dir=source.parent / "data", source=source, **settings)


def scan(builder, split):
    return {record["key"]: record for record in schema.scan(builder, split)}


def test_passages_queries_and_grades_of_all_splits(source):
    builder = prepare(source, language="de")
    assert set(builder.info.splits) == {"corpus", "test", "dev"}
    corpus = scan(builder, "corpus")
    assert {key: (record["title"], record["text"]) for key, record in corpus.items()} == {
        "d1": ("Title", "first"),
        "d2": ("", "second"),
        "d3": ("", ""),
    }
    assert corpus["d1"]["relevant_ids"] == [] and corpus["d1"]["language"] == "de"
    test = scan(builder, "test")
    assert set(test) == {"q1", "q2"}
    assert test["q1"]["relevant_ids"] == ["de:d1", "de:d2"] and test["q1"]["relevances"] == [2, 0]
    assert set(scan(builder, "dev")) == {"q2"}


def test_a_zip_with_one_folder_holds_the_same(source, tmp_path):
    archive = tmp_path / "mini.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in source.rglob("*.*"):
            file.write(path, f"mini/{path.relative_to(source)}")
    assert scan(prepare(archive), "test") == scan(prepare(source), "test")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{"_id": \n', r"corpus\.jsonl, line 2: not JSON"),
        (
            "corpus.jsonl",
            '{"id": "d1", "text": "x"}\n',
            r"corpus\.jsonl, line 1: field '_id' .*\(the record has id, text\)",
        ),
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "x"}\n',
            r"2 passages in the judgements are not in .*corpus\.jsonl, such as d2, d3",
        ),
        (
            "queries.jsonl",
            '{"_id": "q1", "text": "x"}\n',
            r"1 queries in the judgements are not in .*queries\.jsonl, such as q2",
        ),
        ("queries.jsonl", '{"_id": "q2", "text": ""}\n', r"queries\.jsonl, line 1: the judged query 'q2' has no text"),
        (
            "queries.jsonl",
            '{"_id": "q2"}\n',
            r"queries\.jsonl, line 1: field 'text' must be .* found none \(the record has _id\)",
        ),
        (
            "corpus.jsonl",
            '{"_id": "d1", "contents": "x"}\n',
            r"corpus\.jsonl, line 1: field 'text' must be a string, found none",
        ),
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": ["x"]}\n',
            r"corpus\.jsonl, line 1: field 'text' must be a string, found \['x'\]",
        ),
        (
            "qrels/test.tsv",
            "q1\td1\t1\n",
            r"test\.tsv, line 1: expected the header 'query-id corpus-id score', found 'q1",
        ),
        ("qrels/test.tsv", TEST + "q1 0 d1 1\n", r"test\.tsv, line 5: expected 3 columns, found 1"),
        ("qrels/test.tsv", TEST + "q1\td1\thigh\n", r"test\.tsv, line 5: expected an integer, found 'high'"),
        (
            "qrels/test.tsv",
            TEST + "q1\td1\t1\n",
            r"line 5: query 'q1' and passage 'd1' have a different grade on an earlier line",
        ),
    ],
)
def test_broken_files_are_named(source, file, content, message):
    write(source / file, content)
    with pytest.raises(ValueError, match=message):
        prepare(source)


@pytest.mark.parametrize(("file", "records", "key"), [("corpus", CORPUS, "d1"), ("queries", QUERIES, "q1")])
def test_an_id_that_is_there_twice(source, file, records, key):
    write_json_lines(source / f"{file}.jsonl", [*records, records[0]])
    with pytest.raises(ValueError, match=f"beir: two records have the key '{key}' in language 'en'"):
        prepare(source)


def test_unjudged_queries_may_be_empty(source):
    write_json_lines(source / "queries.jsonl", [*QUERIES, {"_id": "q4", "text": ""}])
    assert set(scan(prepare(source), "test")) == {"q1", "q2"}


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_corpus_that_is_cut_off(source, name):
    path = write_json_lines(source / name, [{"_id": f"d{i}", "text": f"text {i}"} for i in range(1, 2000)])
    if name.endswith(".gz"):
        (source / "corpus.jsonl").unlink()
    path.write_bytes(path.read_bytes()[:-12])
    found = r"corpus\.jsonl, line 1999: not JSON" if name == "corpus.jsonl" else r"broken archive after line 1\d\d\d"
    with pytest.raises(ValueError, match=found):
        prepare(source)


def test_another_layout_is_described(source):
    (source / "qrels").rename(source / "judgements")
    with pytest.raises(ValueError, match=r"looked for corpus\.jsonl.*found corpus\.jsonl, judgements, queries\.jsonl"):
        prepare(source)
    with pytest.raises(ValueError, match="is neither a directory nor a zip"):
        prepare(source / "corpus.jsonl")


@pytest.mark.parametrize("packed", [False, True])
def test_what_systems_leave_is_no_data(source, tmp_path, packed):
    for name in ("._corpus.jsonl", "qrels/._dev.tsv", "qrels/.DS_Store", "Thumbs.db"):
        write(source / name, "\0\5")
    place = source
    if packed:
        place = tmp_path / "mini.zip"
        with zipfile.ZipFile(place, "w") as file:
            for path in source.rglob("*.*"):
                file.write(path, f"mini/{path.relative_to(source)}")
            file.writestr("__MACOSX/mini/._corpus.jsonl", "\0\5")
            file.writestr(".DS_Store", "\0\5")
    assert set(prepare(place).info.splits) == {"corpus", "test", "dev"}


def test_null_and_absent_are_the_same(source):
    write_json_lines(source / "corpus.jsonl", [*CORPUS[:2], {"_id": "d3", "title": None, "text": "x"}])
    assert scan(prepare(source), "corpus")["d3"]["title"] == ""
    write_json_lines(source / "corpus.jsonl", [*CORPUS[:2], {"_id": "d3", "title": "x", "text": None}])
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 3: field 'text' must be a string, found none"):
        prepare(source)


def test_a_zip_that_git_lfs_has_not_fetched_is_named(tmp_path):
    path = write(tmp_path / "mini.zip", "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"mini\.zip is a git-lfs pointer"):
        prepare(path)
