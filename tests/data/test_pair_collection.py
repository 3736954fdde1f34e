"""Training pairs as a test collection: what is one question, and what is one passage."""

import json

import numpy as np
import pytest

from jaxretr.data import sources
from jaxretr.data.collection import load_collection
from jaxretr.eval.evaluate import evaluate

from .sources.miniature import write_json_lines

BRIDGE = "The harbour bridge was opened in 1932, cost six million pounds and carries eight lanes."


def encode(texts):
    return np.ones((len(texts), 1), np.float32)


def collect(tmp_path, *rows, **files):
    write_json_lines(tmp_path / "source/test.jsonl", rows)
    for name, more in files.items():
        write_json_lines(tmp_path / f"source/test-{name}.jsonl", more)
    builder = sources.prepare("pairs", data_dir=tmp_path / "data", source=tmp_path / "source")
    return load_collection(builder, "test")


def relevant(collection):
    """The texts of the relevant passages of each question."""
    texts = {passage.id: passage.text for passage in collection.passages}
    text = {query.key: query.text for query in collection.queries}
    return {text[key]: sorted(texts[id] for id in grades) for key, grades in collection.qrels.items()}


@pytest.mark.parametrize(
    "passage",
    [
        {"positive_passages": [{"docid": "d1", "title": "Harbour bridge", "text": BRIDGE}]},
        {"positive_passages": [{"text": BRIDGE}]},
        {"passage": BRIDGE},
        {"pos": [BRIDGE]},
        {"passage": BRIDGE, "passage_id": 5},
    ],
)
@pytest.mark.parametrize("ids", [True, False])
def test_the_passage_of_several_questions_is_there_once(tmp_path, passage, ids):
    questions = ["What did it cost?", "When was it opened?", "How many lanes has it?"]
    rows = [({"query_id": str(101 + i)} if ids else {}) | {"query": q} | passage for i, q in enumerate(questions)]
    found = collect(tmp_path, *rows)
    assert len(found.queries) == 3 and len(found.passages) == 1
    results = evaluate(found, encode, encode, settings=["mono"])
    assert results.scalars()["mono/AP"] == results.scalars()["mono/R@1"] == 1


ONE_ROW = [{"query_id": 7, "query": "q", "pos": ["a", "b", "a"]}]
LINES = [{"query_id": 7, "query": "q", "passage": text} for text in ("a", "b", "a")]
TRIPLES = [{"anchor": "q", "positive": text, "negative": str(i)} for i, text in enumerate(("a", "b", "a"))]
DOCIDS = [{"query": "q", "positive_passages": [{"docid": text, "text": text} for text in ("a", "b", "a")]}]


@pytest.mark.parametrize("rows", [ONE_ROW, LINES, TRIPLES, DOCIDS, LINES[:1] + TRIPLES[1:], LINES + DOCIDS])
def test_a_question_is_one_query_with_all_its_answers(tmp_path, rows):
    found = collect(tmp_path, *rows, {"query": "other", "passage": "c"})
    assert sorted(query.text for query in found.queries) == ["other", "q"]
    assert sorted(passage.text for passage in found.passages) == ["a", "b", "c"]
    assert relevant(found) == {"q": ["a", "b"], "other": ["c"]}


def test_ids_say_more_than_texts(tmp_path):
    rows = [{"query_id": i, "query": "Overview", "pos": {"docid": f"d{i}", "text": "the same"}} for i in range(2)]
    found = collect(tmp_path, *rows)
    assert sorted(passage.id for passage in found.passages) == ["en:d0", "en:d1"]
    assert found.qrels == {"0": {"en:d0": 1}, "1": {"en:d1": 1}}


def test_an_id_that_was_made_up_is_no_other_passages_id(tmp_path):
    rows = [{"id": "7", "query": "q", "passage": "a"}, {"id": "8", "query": "r", "pos": {"docid": "7", "text": "b"}}]
    assert relevant(collect(tmp_path, *rows)) == {"q": ["a"], "r": ["b"]}


def test_translations_answer_too_also_where_equal_texts_have_different_translations(tmp_path):
    english = [{"id": 1, "query": "one?", "passage": "same"}, {"id": 2, "query": "two?", "passage": "same"}]
    german = [{"id": 1, "query": "eins?", "passage": "gleich"}, {"id": 2, "query": "zwei?", "passage": "dasselbe"}]
    found = collect(tmp_path, {"query": "three?", "passage": "same"}, en=english, de=german)
    answers = ["dasselbe", "gleich", "same"]
    assert list(found.qrels) == ["1", "2", "test:1"] and len(found.queries) == 5
    assert sorted(passage.text for passage in found.passages) == answers
    assert all(sorted(grades) == sorted(found.passage_ids) for grades in found.qrels.values())


def test_questions_of_several_languages_with_one_id_share_a_passage(tmp_path):
    def rows(language, *ids):
        return [{"id": 1, "query": f"{language}?", "positive_passages": [{"docid": i, "text": language} for i in ids]}]

    found = collect(tmp_path, en=rows("en", "x", "y"), de=rows("de", "z", "y"))
    assert found.qrels == {"1": {f"{language}": 1 for language in ("en:x", "de:y", "en:y", "de:z")}}
    with pytest.raises(
        ValueError, match=r"query_id '1' has the passages .*, but translations must share one\. If .* own id"
    ):
        collect(tmp_path, en=rows("en", "x"), de=rows("de", "z"))
    german = [{"id": 1, "query": "de?", "passage": "ohne docid"}]
    assert len(collect(tmp_path, en=rows("en", "x"), de=german).qrels["1"]) == 2


def test_a_docid_with_two_texts_is_an_error(tmp_path):
    rows = [{"query": json.dumps(i), "positive_passages": [{"docid": "d", "text": str(i)}]} for i in range(2)]
    with pytest.raises(ValueError, match="passage_id 'd' stands for two texts in language 'en'; give each"):
        collect(tmp_path, *rows)
