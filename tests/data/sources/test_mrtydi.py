import pytest

from jaxretr.data import collection, schema, sources

from .miniature import write, write_json_lines


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "mrtydi"
    for language in ("swahili", "thai"):
        part = folder / f"mrtydi-v1.1-{language}"
        write_json_lines(
            part / "collection/docs.jsonl.gz",
            [{"id": "1#0", "contents": f"Title\n\n{language} text"}, {"id": "1#1", "contents": "no title"}],
        )
        for split in ("train", "test"):
            write(part / f"topic.{split}.tsv", f"3\t{language} {split}?\n4\tunjudged?\n")
            write(part / f"qrels.{split}.txt", "3 Q0 1#0 1\n")
        write(part / "topic.tsv", "all of them\n")
        write(part / "qrels.txt", "all of them\n")
    return folder


def prepare(source, **settings):
    return sources.prepare("mrtydi", data_dir=source.parent / "data", source=source, **settings)


def test_passages_and_judged_questions_of_all_languages(source):
    builder = prepare(source)
    assert set(builder.info.splits) == {"corpus", "train", "test"}
    corpus = {(r["language"], r["key"]): (r["title"], r["text"]) for r in schema.scan(builder, "corpus")}
    assert corpus == {
        ("sw", "1#0"): ("Title", "swahili text"),
        ("sw", "1#1"): ("", "no title"),
        ("th", "1#0"): ("Title", "thai text"),
        ("th", "1#1"): ("", "no title"),
    }
    found = collection.load_collection(builder, "test")  # one id, two different questions
    assert found.qrels == {"sw-3": {"sw:1#0": 1}, "th-3": {"th:1#0": 1}}
    assert {(q.id, q.text) for q in found.queries} == {("sw:sw-3", "swahili test?"), ("th:th-3", "thai test?")}


def test_languages_can_be_chosen_and_missing_ones_are_named(source):
    assert {record["language"] for record in schema.scan(prepare(source, languages=["th"]), "corpus")} == {"th"}
    with pytest.raises(FileNotFoundError, match=r"of fi \(among ar, bn, .*exists for sw, th\. Found mrtydi-v1\.1-sw"):
        prepare(source, languages=["fi"])
    (source / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="of any language .*exists for no language. Found nothing"):
        prepare(source / "empty")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("qrels.test.txt", "3 Q0 9#9 1\n", r"1 passages in the judgements are not in .*docs\.jsonl\.gz, such as 9#9"),
        ("qrels.test.txt", "7 Q0 1#0 1\n", r"1 queries in the judgements are not in .*topic\.test\.tsv, such as th-7"),
        (
            "qrels.test.txt",
            "3 Q0 1#0 1\n3 Q0 1#0 0\n",
            r"qrels\.test\.txt, line 2: query 'th-3' and .* have a different grade",
        ),
        ("qrels.test.txt", "3 Q0 1#0\n", r"qrels\.test\.txt, line 1: expected 4 columns, found 3"),
        ("topic.test.tsv", "3\t \n", r"topic\.test\.tsv, line 1: the judged query 'th-3' has no text"),
        ("topic.test.tsv", "3\tone?\n3\ttwo?\n", "two records have the key 'th-3' in language 'th'"),
        ("collection/docs.jsonl.gz", '{"id": "1#0"}\n', r"docs\.jsonl\.gz, line 1: field 'contents' must be a string"),
    ],
)
def test_broken_files_are_named(source, file, content, message):
    write(source / "mrtydi-v1.1-thai" / file, content)
    with pytest.raises(ValueError, match=message):
        prepare(source)


def test_a_collection_without_judgements(source):
    for file in source.rglob("qrels.*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no judgements: looked for .*qrels\.<split>\.txt"):
        prepare(source)
