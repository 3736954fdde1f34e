import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxretr.data import schema, sources, stored_passages
from jaxretr.data.stored_passages import StoredPassages
from jaxretr.types import Passage, Query, RetrievalSet

from .sources.miniature import write, write_json_lines

LANGUAGES = ("de", "en", "zh-CN")
SIZE = 700  # per language: more than two chunks in all


def text(language: str, number: int) -> str:
    return f"{language} ä {number}"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> sources.Source:
    """A corpus in three languages; every seventh passage has a title, two passages of de have no text."""
    folder = tmp_path_factory.mktemp("corpus")
    for language in LANGUAGES:
        passages = [
            {
                "_id": f"p{i}",
                "title": f"T{i}" if i % 7 == 0 else "",
                "text": " " if language == "de" and i in (3, 5) else text(language, i),
            }
            for i in range(SIZE)
        ]
        write_json_lines(folder / f"set/{language}/corpus.jsonl", passages)
        write_json_lines(folder / f"set/{language}/queries.jsonl", [{"_id": "q", "text": "?"}])
        write(folder / f"set/{language}/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\tp0\t1\n")
    return sources.prepare("parallel_beir", data_dir=folder / "data", source=folder / "set")


@pytest.fixture(scope="module")
def passages(builder: sources.Source) -> StoredPassages:
    return stored_passages.load(builder)


def test_all_passages_are_there_with_ids_and_languages_that_fit(passages: StoredPassages) -> None:
    read = list(passages)
    assert len(read) == len(passages) == 3 * SIZE
    assert [p.id for p in read] == list(passages.ids)
    assert [p.language for p in read] == list(passages.languages)
    expected = {Passage(f"p{i}", "zh-CN", text("zh-CN", i), f"T{i}" if i % 7 == 0 else "") for i in range(SIZE)}
    assert {p for p in read if p.language == "zh-CN"} == expected
    assert sorted(passages.blank) == ["de:p3", "de:p5"]


def test_every_way_of_reading_gives_what_tfds_reads(builder: sources.Source, passages: StoredPassages) -> None:
    source = builder.as_data_source("corpus")
    order = np.random.default_rng(0).permutation(len(passages))[:50]
    expected = [(source[int(i)]["key"].decode(), source[int(i)]["text"].decode()) for i in order]
    assert [(p.key, p.text) for p in passages.take(order)] == expected
    assert [(p.key, p.text) for p in (passages[i] for i in order)] == expected
    assert passages[-1] == passages[len(passages) - 1] and passages[10:13] == passages.take([10, 11, 12])
    assert passages.take([]) == [] and passages.take([4, 4]) == [passages[4]] * 2
    with pytest.raises(IndexError):
        passages[len(passages)]


def test_some_languages_are_selected_without_reading(passages: StoredPassages, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(schema.Records, "take", None)
        patched.setattr(schema.Records, "__getitem__", None)
        chosen = passages.select(["zh-CN", "de"])
        assert set(chosen.languages) == {"zh-CN", "de"} and len(chosen) == len(chosen.ids) == 2 * SIZE
        assert passages.select(LANGUAGES) is passages and passages.select(["en"]).blank == []
    assert [p.id for p in chosen] == [id for id in passages.ids if not id.startswith("en:")]
    assert chosen[700].id == chosen.ids[700] and len(chosen.blank) == 2


def test_the_ids_are_scanned_once(builder: sources.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stored_passages.load(builder)
    monkeypatch.setattr(stored_passages, "_scan", None)
    again = stored_passages.load(builder)
    assert (again.ids, again.languages, again.blank) == (first.ids, first.languages, first.blank)


def test_an_interrupted_scan_leaves_no_index(
    builder: sources.Source, passages: StoredPassages, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Path(builder.data_path) / ".passages.parquet"
    complete = kept.read_bytes()
    kept.unlink()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stored_passages.load(builder)
    assert not kept.exists()
    stored_passages.load(builder)
    assert kept.read_bytes() == complete


def test_texts_are_not_held_in_memory(tmp_path: Path) -> None:
    count, length = 1000, 20_000
    write_json_lines(tmp_path / "set/corpus.jsonl", [{"_id": f"p{i}", "text": "x" * length} for i in range(count)])
    write_json_lines(tmp_path / "set/queries.jsonl", [{"_id": "q", "text": "?"}])
    write(tmp_path / "set/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\tp0\t1\n")
    builder = sources.prepare("beir", data_dir=tmp_path / "data", source=tmp_path / "set")
    stored_passages.load(builder)  # what is allocated once, by imports and for the index
    tracemalloc.start()
    passages = stored_passages.load(builder)
    assert sum(len(passages[i].text) for i in range(0, count, 10)) == count // 10 * length
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 500 * count  # 20,000 bytes a text


def test_a_collection_answers_alike_for_stored_passages_and_a_tuple(passages: StoredPassages) -> None:
    queries = (Query("q", "en", "?"), Query("q", "fr", "?"))
    stored = RetrievalSet("s", queries, passages, {})
    held = RetrievalSet("s", queries, tuple(passages), {})
    assert stored.languages == held.languages == ("en",)
    assert list(stored.passage_ids) == list(held.passage_ids)
    assert list(stored.passage_languages) == list(held.passage_languages)
    order = np.array([2000, 0, 1999])
    assert stored.take_passages(order) == held.take_passages(order) == [passages[i] for i in order]


def test_checksums_are_those_of_the_texts_and_need_no_reading(
    builder: sources.Source, passages: StoredPassages, monkeypatch: pytest.MonkeyPatch
) -> None:
    german = passages.select(["de"])
    held = [RetrievalSet("s", (), tuple(some), {}).fingerprint for some in (passages, german)]
    monkeypatch.setattr(schema.Records, "take", None)
    stored = [RetrievalSet("s", (), some, {}).fingerprint for some in (passages, german)]
    assert stored == held and stored[0] != stored[1]


def test_a_corpus_that_has_changed_is_scanned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json_lines(tmp_path / "set/corpus.jsonl", [{"_id": "p", "text": "text"}])
    write_json_lines(tmp_path / "set/queries.jsonl", [{"_id": "q", "text": "?"}])
    write(tmp_path / "set/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\tp\t1\n")
    builder = sources.prepare("beir", data_dir=tmp_path / "data", source=tmp_path / "set")
    stored_passages.load(builder)
    (shard,) = Path(builder.data_path).glob("*corpus*array_record*")
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    monkeypatch.setattr(stored_passages, "_scan", lambda _: pytest.fail("scanned"))
    with pytest.raises(pytest.fail.Exception, match="scanned"):
        stored_passages.load(builder)
