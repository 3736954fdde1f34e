import collections
import json
import os
from pathlib import Path

import pytest

from jaxretr.data import schema, sources
from jaxretr.data.sources import lareqa

from .miniature import write

REAL = os.environ.get("JAXRETR_XQUAD_R")  # the folder xquad-r of google-research-datasets/lareqa


def squad(*paragraphs):
    """Paragraphs of (sentences, {question id: (text, number of the answering sentence)}); one article each."""
    data = []
    for sentences, asked in paragraphs:
        context = " ".join(sentences)
        starts = [context.index(sentence) for sentence in sentences]
        breaks = [[start, start + len(sentence)] for start, sentence in zip(starts, sentences, strict=True)]
        qas = [
            {"id": key, "question": text, "answers": [{"answer_start": starts[place], "text": "?"}]}
            for key, (text, place) in asked.items()
        ]
        paragraph = {"context": context, "sentences": sentences, "sentence_breaks": breaks, "qas": qas}
        data.append({"title": "t", "paragraphs": [paragraph]})
    return {"data": data, "version": "1"}


@pytest.fixture
def source(tmp_path):
    english = squad((["One.", "Two.", "One."], {"a": ("A?", 1)}), (["Three."], {"b": ("B?", 0)}))
    german = squad((["Eins und zwei."], {"a": ("A auf deutsch?", 0)}))
    write(tmp_path / "mini/en.json", json.dumps(english))
    write(tmp_path / "mini/de.json", json.dumps(german))
    return tmp_path / "mini"


def prepare(source, **settings):
    builder = sources.prepare("lareqa", data_dir=source.parent / "data", source=source, **settings)
    return [{(r["language"], r["key"]): r for r in schema.scan(builder, split)} for split in ("corpus", "test")]


def test_sentences_are_candidates_and_answers_are_matched_across_languages(source):
    corpus, test = prepare(source)
    assert {key: record["text"] for key, record in corpus.items()} == {
        ("en", "0.0.0"): "One.",
        ("en", "0.0.1"): "Two.",
        ("en", "0.0.2"): "One.",  # not deduplicated
        ("en", "1.0.0"): "Three.",
        ("de", "0.0.0"): "Eins und zwei.",
    }
    assert {key: (record["text"], record["relevant_ids"]) for key, record in test.items()} == {
        ("en", "a"): ("A?", ["de:0.0.0", "en:0.0.1"]),
        ("de", "a"): ("A auf deutsch?", ["de:0.0.0", "en:0.0.1"]),
        ("en", "b"): ("B?", ["en:1.0.0"]),
    }


def test_candidates_with_context_and_whole_paragraphs(source):
    corpus, _ = prepare(source, candidates="sentence+context")
    assert corpus["en", "0.0.1"]["text"] == "Two. One. Two. One."
    corpus, test = prepare(source, candidates="paragraph")
    assert corpus["en", "0.0"]["text"] == "One. Two. One." and len(corpus) == 3
    assert test["de", "a"]["relevant_ids"] == ["de:0.0", "en:0.0"]


def test_an_answer_at_a_sentence_end_belongs_to_the_next(tmp_path):
    paragraph = {
        "context": "OneTwo",
        "sentence_breaks": [[0, 3], [3, 6]],
        "qas": [{"id": "a", "question": "?", "answers": [{"answer_start": 3}]}],
    }
    write(tmp_path / "mini/en.json", json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    assert prepare(tmp_path / "mini")[1]["en", "a"]["relevant_ids"] == ["en:0.0.1"]


def test_bad_input_is_described(source):
    with pytest.raises(ValueError, match="candidates='word' must be one of"):
        prepare(source, candidates="word")
    (source / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"files named <language>\.json, such as de\.json; found nothing"):
        prepare(source / "empty")
    write(source / "empty/xquad.de.json", "{}")
    with pytest.raises(FileNotFoundError, match=r"such as de\.json; found xquad\.de\.json"):
        prepare(source / "empty")
    with pytest.raises(FileNotFoundError, match="looked for a directory of JSON files"):
        prepare(source / "en.json")
    write(source / "en.json", '{"data": [{"paragraphs": [{"context": "x", "qas": []}]}]}')
    with pytest.raises(ValueError, match=r"en\.json is not in LAReQA's layout .*sentence_breaks"):
        prepare(source)
    paragraph = squad((["One."], {"a": ("A?", 0)}))
    paragraph["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 4
    write(source / "en.json", json.dumps(paragraph))
    with pytest.raises(ValueError, match="the answer to question a is outside all sentences"):
        prepare(source)


def test_what_systems_leave_is_no_data_and_lone_surrogates_become_replacement_characters(source):
    for name in ("._de.json", ".DS_Store", "Thumbs.db"):
        write(source / name, "\0\5")
    write(source / "de.json", "\ufeff" + json.dumps(squad((["Eins \ud83d."], {"a": ("A?", 0)}))))
    corpus, _ = prepare(source)
    assert {language for language, _ in corpus} == {"en", "de"} and corpus["de", "0.0.0"]["text"] == "Eins \ufffd."


def test_a_file_that_is_no_json_is_named(source):
    write(source / "de.json", "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"de\.json is a git-lfs pointer"):
        prepare(source)
    (source / "de.json").write_bytes(b'"b\xe4d"')
    with pytest.raises(ValueError, match=r"de\.json: not JSON"):
        prepare(source)


def test_without_a_network_the_error_says_what_to_give(tmp_path, monkeypatch):
    def offline(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr("tensorflow_datasets.download.DownloadManager.download", offline)
    with pytest.raises(RuntimeError, match=r"mlqa-r could not be downloaded \(no route\)\..* give it as source"):
        sources.prepare("lareqa", data_dir=tmp_path, collection="mlqa-r")


@pytest.mark.skipif(not REAL, reason="JAXRETR_XQUAD_R does not name the folder of XQuAD-R")
def test_xquad_r_has_the_published_counts(tmp_path):
    builder = sources.prepare("lareqa", data_dir=tmp_path, source=Path(str(REAL)))
    count = collections.Counter(record["language"] for record in schema.scan(builder, "corpus"))
    assert count == {
        "ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244, "ru": 1219, "th": 852, "tr": 1167,
        "vi": 1209, "zh": 1196,
    }  # fmt: skip
    assert count.total() == 13_014
    queries = list(schema.scan(builder, "test"))
    assert len(queries) == 11 * 1190
    assert all(sorted(i.partition(":")[0] for i in query["relevant_ids"]) == sorted(count) for query in queries)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[]",
        b'{"data": [{"paragraphs": [{"context": 5, "sentence_breaks": [], "qas": []}]}]}',
        b'{"data": [{"paragraphs": [{"context": "x", "sentence_breaks": [[0]], "qas": []}]}]}',
        b'{"data": [{"paragraphs": [{"context": "x", "sentence_breaks": [], "qas": [{"id": "q", "question": 1}]}]}]}',
    ],
)
def test_a_file_in_another_layout_is_named(tmp_path, content):
    (tmp_path / "en.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"en\.json is not in LAReQA's layout"):
        list(lareqa.candidates(tmp_path / "en.json", "sentence"))
