import pytest

from jaxretr.data import collection, schema, sources

from .miniature import write, write_json_lines


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "miracl"
    for language, splits in (("ar", ("dev", "train")), ("sw", ("dev",))):
        corpus = folder / f"miracl-corpus-v1.0-{language}"
        write_json_lines(corpus / "docs-0.jsonl.gz", [{"docid": "1#0", "title": "T", "text": f"{language} text"}])
        write_json_lines(corpus / "docs-1.jsonl.gz", [{"docid": "1#1", "title": "T", "text": "more"}])
        for split in splits:
            name = f"miracl-v1.0-{language}-{split}.tsv"
            write(folder / f"miracl-v1.0-{language}/topics/topics.{name}", f"3\t{language} {split}?\n4\tunjudged?\n")
            write(folder / f"miracl-v1.0-{language}/qrels/qrels.{name}", "3\tQ0\t1#0\t1\n3\tQ0\t1#1\t0\n")
    return folder


def prepare(source, **settings):
    return sources.prepare("miracl", data_dir=source.parent / "data", source=source, **settings)


def test_passages_and_judged_questions_of_all_languages(source):
    builder = prepare(source)
    assert set(builder.info.splits) == {"corpus", "train", "dev"}
    corpus = {(r["language"], r["key"]): (r["title"], r["text"]) for r in schema.scan(builder, "corpus")}
    assert corpus == {
        ("ar", "1#0"): ("T", "ar text"),
        ("ar", "1#1"): ("T", "more"),
        ("sw", "1#0"): ("T", "sw text"),
        ("sw", "1#1"): ("T", "more"),
    }
    dev = {record["key"]: record for record in schema.scan(builder, "dev")}
    assert set(dev) == {"ar-3", "sw-3"}  # one id, two different questions
    assert dev["sw-3"] == schema.retrieval_record("sw-3", "sw", "sw dev?", relevant={"sw:1#0": 1, "sw:1#1": 0})
    assert [record["key"] for record in schema.scan(builder, "train")] == ["ar-3"]


def test_questions_are_relevant_in_their_own_language_alone(source):
    found = collection.load_collection(prepare(source), "dev")
    assert found.qrels == {"ar-3": {"ar:1#0": 1, "ar:1#1": 0}, "sw-3": {"sw:1#0": 1, "sw:1#1": 0}}


def test_languages_can_be_chosen_and_missing_ones_are_named(source):
    assert {record["language"] for record in schema.scan(prepare(source, languages=["sw"]), "corpus")} == {"sw"}
    with pytest.raises(FileNotFoundError, match=r"miracl-corpus-v1\.0-<language>.* of fi; both exist for ar, sw"):
        prepare(source, languages=["fi"])
    (source / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="of any language; both exist for no language. Found nothing"):
        prepare(source / "empty")


def test_judgements_that_name_what_is_not_there(source):
    qrels = source / "miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv"
    write(qrels, "3\tQ0\t1#0\t1\n3\tQ0\t8#8\t0\n")
    with pytest.raises(
        ValueError, match=r"1 passages in the judgements are not in .*miracl-corpus-v1\.0-sw, such as 8#8"
    ):
        prepare(source)
    write(qrels, "3\tQ0\t1#0\t1\n9\tQ0\t1#0\t1\n")
    with pytest.raises(ValueError, match=r"1 queries in the judgements are not in .*sw-dev\.tsv, such as sw-9"):
        prepare(source)
    for file in source.rglob("qrels.*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no judgements: looked for .*qrels\.miracl-v1\.0-<language>-dev\.tsv"):
        prepare(source)


def test_a_title_may_be_null_or_absent(source):
    rows = [{"docid": "1#0", "title": None, "text": "a"}, {"docid": "1#1", "text": "b"}]
    write_json_lines(source / "miracl-corpus-v1.0-sw/docs-0.jsonl.gz", rows[:1])
    write_json_lines(source / "miracl-corpus-v1.0-sw/docs-1.jsonl.gz", rows[1:])
    corpus = schema.scan(prepare(source, languages=["sw"]), "corpus")
    assert sorted((record["title"], record["text"]) for record in corpus) == [("", "a"), ("", "b")]
