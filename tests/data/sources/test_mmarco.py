import pytest

from jaxretr.data import schema, sources
from jaxretr.data.sources import mmarco

from .miniature import write


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "mmarco"
    for name, mark in (("english", "en"), ("german", "de")):
        passages = "".join(f"{i}\t{mark} passage {i}\n" for i in (0, 1, 2, 5))
        write(folder / f"collections/{name}_collection.tsv", passages)
        write(folder / f"queries/train/{name}_queries.train.tsv", f"7\t{mark} seven\n8\t{mark} eight\n9\tunjudged\n")
    write(folder / "triples.train.ids.small.tsv", "7\t5\t0\n8\t1\t2\n7\t5\t0\n7\t2\t1\n7\t5\t2\n")
    return folder


def prepare(source, languages=("en", "de"), **settings):
    builder = sources.prepare("mmarco", data_dir=source.parent / "data", source=source, languages=languages, **settings)
    return {(r["language"], r["query_id"]): r for r in schema.scan(builder, "train")}


def test_triples_give_the_first_positive_and_distinct_negatives(source):
    found = prepare(source, num_negatives=2)
    assert set(found) == {("en", "7"), ("en", "8"), ("de", "7"), ("de", "8")}
    assert found["de", "7"] == schema.pair_record(
        "7", "5", "de", "de seven", "de passage 5", ["de passage 0", "de passage 1"]
    )
    assert found["en", "8"]["negatives"] == ["en passage 2"]
    assert prepare(source, num_negatives=1)["en", "7"]["negatives"] == ["en passage 0"]


def test_one_passage_in_a_thousand_is_held_out_with_its_questions(source, monkeypatch):
    held_out = [passage for passage in range(100_000) if mmarco.split_of(passage) == "validation"]
    assert len(held_out) == pytest.approx(100, abs=40)
    monkeypatch.setattr(mmarco, "split_of", lambda passage: "validation" if passage == 5 else "train")
    builder = sources.prepare(
        "mmarco", data_dir=source.parent / "data", source=source, languages=["en"], num_negatives=0
    )
    questions = {split: [r["query_id"] for r in schema.scan(builder, split)] for split in builder.info.splits}
    assert questions == {"train": ["8"], "validation": ["7"]}


def test_qrels_serve_where_there_are_no_triples(source):
    (source / "triples.train.ids.small.tsv").unlink()
    write(source / "qrels.train.tsv", "7\t0\t2\t0\n7\t0\t5\t1\n7\t0\t1\t1\n")
    assert prepare(source) == {
        ("en", "7"): schema.pair_record("7", "5", "en", "en seven", "en passage 5"),
        ("de", "7"): schema.pair_record("7", "5", "de", "de seven", "de passage 5"),
    }


def test_ids_beyond_the_first_block_of_offsets(source):
    write(source / "collections/english_collection.tsv", "0\tzero\n2500000\tfar\n1\tone\n5\tfive\n2\ttwo\n")
    write(source / "triples.train.ids.small.tsv", "7\t2500000\t5\n")
    assert prepare(source, languages=["en"])["en", "7"]["passage"] == "far"


def test_bad_input_is_described(source):
    with pytest.raises(ValueError, match=r"\['tr'\] not available; choose from \['ar', 'de'"):
        prepare(source, languages=["tr"])
    with pytest.raises(FileNotFoundError, match=r"lacks collections/french_collection\.tsv, queries/train/french_"):
        prepare(source, languages=["fr"])
    for passage in (3, 10_000_000):
        write(source / "triples.train.ids.small.tsv", f"7\t{passage}\t0\n")
        with pytest.raises(ValueError, match=f"name passage {passage}, which .*german_collection.tsv lacks"):
            prepare(source)
    write(source / "triples.train.ids.small.tsv", "7\t1\n")
    with pytest.raises(ValueError, match=r"triples\.train\.ids\.small\.tsv, line 1: expected 3 columns, found 2"):
        prepare(source)
    (source / "triples.train.ids.small.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks triples\.train\.ids\.small\.tsv or qrels\.train\.tsv"):
        prepare(source)


def test_marks_and_empty_lines_are_no_passages_and_broken_texts_are_named(source):
    collection = source / "collections/english_collection.tsv"
    text = collection.read_text(encoding="utf-8")
    collection.write_text("\ufeff" + text.replace("\n", "\r\n\r\n"), encoding="utf-8", newline="")
    assert prepare(source)["en", "7"]["passage"] == "en passage 5"
    collection.write_bytes(text.encode().replace(b"en passage 5", b"b\xe4d"))
    with pytest.raises(ValueError, match=r"english_collection\.tsv: passage 5 is not UTF-8"):
        prepare(source)
    write(collection, "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"english_collection\.tsv is a git-lfs pointer"):
        prepare(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("collections/english_collection.tsv", b"5\t\xff\n", "passage 5 is not UTF-8"),
        ("collections/english_collection.tsv", b"-1\tx\n", "line 1: expected a passage id below"),
        ("collections/english_collection.tsv", b"99999999999999999999\tx\n", "line 1: expected a passage id below"),
        ("collections/english_collection.tsv", b"5\n", "line 1: expected a passage id below .* a tab and a text"),
        ("triples.train.ids.small.tsv", b"", "has no judgement"),
        ("triples.train.ids.small.tsv", b"7\t-1\t0\n", "The judgements name passage -1"),
    ],
)
def test_broken_files_are_named(source, name, content, message):
    (source / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(source, ["en"])
