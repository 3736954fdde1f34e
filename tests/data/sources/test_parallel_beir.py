import shutil
import zipfile
from pathlib import Path

import pytest

from jaxretr.data import collection, schema, sources

from .miniature import write, write_json_lines

HEADER = "query-id\tcorpus-id\tscore\n"


def write_part(folder: Path, language: str, passages: list[str], queries: list[str], **qrels: str) -> None:
    write_json_lines(folder / "corpus.jsonl", [{"_id": id, "text": f"{language} {id}"} for id in passages])
    write_json_lines(folder / "queries.jsonl", [{"_id": id, "text": f"{language} {id}?"} for id in queries])
    for split, rows in qrels.items():
        write(folder / f"qrels/{split}.tsv", HEADER + rows)


@pytest.fixture
def source(tmp_path):
    """en and de share passage ids, fr has its own; q3 is asked in all three and judged in English alone."""
    folder = tmp_path / "set"
    write_part(folder / "en", "en", ["p1", "p2"], ["q1", "q2", "q3"], test="q1\tp1\t2\nq1\tp2\t0\nq3\tp2\t1\n")
    write_part(folder / "de", "de", ["p1", "p2"], ["q1", "q2", "q3"], test="q1\tp1\t1\n", dev="q2\tp1\t1\n")
    write_part(folder / "fr", "fr", ["x9"], ["q1", "q3"], test="q1\tx9\t1\n")
    return folder


def prepare(source, **settings):
    return sources.prepare("parallel_beir", data_dir=source.parent / "data", source=source, **settings)


def test_judgements_of_all_languages_are_united_by_question(source):
    builder = prepare(source)
    assert set(builder.info.splits) == {"corpus", "test", "dev"}
    found = collection.load_collection(builder, "test")
    assert found.languages == ("de", "en", "fr")
    assert sorted(found.passage_ids) == ["de:p1", "de:p2", "en:p1", "en:p2", "fr:x9"]
    assert sorted(query.id for query in found.queries) == ["de:q1", "de:q3", "en:q1", "en:q3", "fr:q1", "fr:q3"]
    assert found.qrels == {"q1": {"en:p1": 2, "en:p2": 0, "de:p1": 1, "fr:x9": 1}, "q3": {"en:p2": 1}}
    assert {p.text for p in found.passages} == {"de p1", "de p2", "en p1", "en p2", "fr x9"}


def test_a_split_that_only_some_languages_have(source):
    found = collection.load_collection(prepare(source, languages=["de", "en"]), "dev", languages=["de"])
    assert found.qrels == {"q2": {"de:p1": 1}} and [query.id for query in found.queries] == ["de:q2"]


def test_what_systems_leave_is_no_language(source):
    for name in ("__MACOSX/._en", ".DS_Store", "._pt.zip", "Thumbs.db"):
        write(source / name, "\0\5")
    assert prepare(source).builder_config.languages == ("de", "en", "fr")


def test_a_zip_is_a_language_too(source):
    with zipfile.ZipFile(source / "pt-BR.zip", "w") as archive:
        for path in (source / "fr").rglob("*.*"):
            archive.write(path, path.relative_to(source))
    shutil.rmtree(source / "fr")
    found = collection.load_collection(prepare(source), "test")
    assert found.languages == ("de", "en", "pt-BR") and found.qrels["q1"]["pt-BR:x9"] == 1


def test_languages_can_be_chosen_and_missing_ones_are_named(source):
    builder = prepare(source, languages=["fr", "en"])
    assert {record["language"] for record in schema.scan(builder, "corpus")} == {"en", "fr"}
    with pytest.raises(FileNotFoundError, match="has no language it; it has de, en, fr"):
        prepare(source, languages=["it", "en"])


def test_each_language_must_have_what_its_own_judgements_name(source):
    write(source / "de/qrels/test.tsv", HEADER + "q1\tx9\t1\n")
    with pytest.raises(ValueError, match=r"1 passages in the judgements are not in .*de/corpus\.jsonl, such as x9"):
        prepare(source)
    write(source / "de/qrels/test.tsv", HEADER + "q9\tp1\t1\n")
    with pytest.raises(ValueError, match=r"1 queries in the judgements are not in .*de/queries\.jsonl, such as q9"):
        prepare(source)


def test_another_layout_is_described(source):
    with pytest.raises(FileNotFoundError, match=r"such as en/ or de\.zip; found corpus\.jsonl"):
        (source / "en/queries.jsonl").unlink()
        shutil.rmtree(source / "en/qrels")
        prepare(source / "en")
    with pytest.raises(ValueError, match=r"en' is not in BEIR layout: looked for .* found corpus\.jsonl"):
        prepare(source)
    with zipfile.ZipFile(source / "fr.zip", "w"):
        pass
    with pytest.raises(ValueError, match=r"fr\.zip and fr are both named 'fr'"):
        prepare(source)
    (source / "fr.zip").unlink()
    (source / "german").mkdir()
    with pytest.raises(ValueError, match="german: expected the tag of a language"):
        prepare(source)


def test_a_change_behind_a_link_is_noticed(source, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for language in ("en", "de"):
        (linked / language).symlink_to(source / language)
    before = prepare(linked)
    write_part(source / "de", "changed", ["p1", "p2", "p3"], ["q1", "q2", "q3"])
    after = prepare(linked)
    assert before.data_path != after.data_path
    assert "changed p3" in {record["text"] for record in schema.scan(after, "corpus")}
