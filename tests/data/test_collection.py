import itertools
import json

import pytest

from jaxretr.data import sources, stored_passages
from jaxretr.data.collection import load_collection
from jaxretr.eval.settings import Pool, make_tasks
from jaxretr.types import Passage, Query

from .sources.miniature import write, write_json_lines


@pytest.fixture
def pairs(tmp_path):
    """Prepares rows of (id, passage id, language, query, passage) as the test split of training pairs."""

    def prepare(rows):
        names = ("id", "passage_id", "language", "query", "passage")
        (tmp_path / "source").mkdir(exist_ok=True)
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        (tmp_path / "source/test.jsonl").write_text("\n".join(lines))
        return sources.prepare("pairs", data_dir=tmp_path / "data", source=tmp_path / "source")

    return prepare


ROWS = [
    ("q1", "p1", "en", "one?", "first"),
    ("q1", "p1", "de", "eins?", "erstens"),
    ("q2", "p1", "en", "keyword", "first"),
    ("q3", "p2", "de", "zwei?", "zweitens"),
    ("q4", "p3", "fr", "trois?", "troisième"),
    ("q4", "p3", "en", "three?", "third"),
    ("q4", "p3", "de", "drei?", "drittens"),
]


def ids(items):
    return sorted(item.id for item in items)


def test_training_pairs_become_a_collection_with_every_passage_once(pairs):
    found = load_collection(pairs(ROWS), "test")
    assert found.name == "pairs/test"
    assert found.languages == ("de", "en", "fr")
    assert Query("q1", "de", "eins?") in found.queries and len(found.queries) == 7
    assert Passage("p1", "de", "erstens") in found.passages
    assert ids(found.passages) == ["de:p1", "de:p2", "de:p3", "en:p1", "en:p3", "fr:p3"]
    assert found.qrels == {
        "q1": {"de:p1": 1, "en:p1": 1},
        "q2": {"de:p1": 1, "en:p1": 1},  # asked in English alone, answered in both
        "q3": {"de:p2": 1},
        "q4": {"de:p3": 1, "en:p3": 1, "fr:p3": 1},
    }


def test_languages_restrict_queries_passages_and_judgements(pairs):
    found = load_collection(pairs(ROWS), "test", languages=["fr", "en"])
    assert found.languages == ("en", "fr")
    assert ids(found.queries) == ["en:q1", "en:q2", "en:q4", "fr:q4"]
    assert ids(found.passages) == ["en:p1", "en:p3", "fr:p3"]
    assert found.qrels == {"q1": {"en:p1": 1}, "q2": {"en:p1": 1}, "q4": {"en:p3": 1, "fr:p3": 1}}


def test_parallel_only_keeps_questions_asked_in_every_language(pairs):
    builder = pairs(ROWS)
    assert ids(load_collection(builder, "test", parallel_only=True).queries) == ["de:q4", "en:q4", "fr:q4"]
    found = load_collection(builder, "test", languages=["en", "de"], parallel_only=True)
    assert ids(found.queries) == ["de:q1", "de:q4", "en:q1", "en:q4"]
    assert ids(found.passages) == ["de:p1", "de:p2", "de:p3", "en:p1", "en:p3"]


def test_a_sample_keeps_translations_together_and_all_passages(pairs):
    builder = pairs(
        [(f"q{i}", f"p{i}", language, "?", f"{language}{i}") for i in range(20) for language in ("en", "de")]
    )
    first, again = (load_collection(builder, "test", max_queries=5, seed=1) for _ in range(2))
    assert first == again
    assert len(first.qrels) == 5 and len(first.queries) == 10 and len(first.passages) == 40
    assert {query.key for query in first.queries} == set(first.qrels)
    assert set(load_collection(builder, "test", max_queries=5, seed=2).qrels) != set(first.qrels)
    assert len(load_collection(builder, "test", max_queries=100).qrels) == 20


def test_bad_training_pairs_are_described(pairs):
    with pytest.raises(ValueError, match="pairs/test has no language xx; it has de, en, fr"):
        load_collection(pairs(ROWS), "test", languages=["en", "xx"])
    with pytest.raises(ValueError, match="pairs has no split 'dev'; it has test"):
        load_collection(pairs(ROWS), "dev")
    with pytest.raises(ValueError, match="passage_id 'p' stands for two texts in language 'en'"):
        load_collection(pairs([("a", "p", "en", "?", "x"), ("b", "p", "en", "?", "y")]), "test")
    with pytest.raises(ValueError, match="query_id 'a' has the passages"):
        load_collection(pairs([("a", "p", "en", "?", "x"), ("a", "r", "de", "?", "y")]), "test")
    with pytest.raises(ValueError, match=r"Queries without text: en:a \(1\)"):
        load_collection(pairs([("a", "p", "en", " ", "x")]), "test")


@pytest.fixture
def lareqa(tmp_path):
    def document(sentences, asked):
        context = "".join(sentences)
        starts = [sum(map(len, sentences[:i])) for i in range(len(sentences) + 1)]
        paragraph = {
            "context": context,
            "sentence_breaks": list(itertools.pairwise(starts)),
            "qas": [{"id": k, "question": f"{k}?", "answers": [{"answer_start": starts[i]}]} for k, i in asked.items()],
        }
        return json.dumps({"data": [{"paragraphs": [paragraph]}]})

    (tmp_path / "source").mkdir()
    (tmp_path / "source/en.json").write_text(document(["a", "b"], {"x": 0, "y": 1}))
    (tmp_path / "source/de.json").write_text(document(["c"], {"x": 0}))
    return sources.prepare("lareqa", data_dir=tmp_path / "data", source=tmp_path / "source")


def test_a_retrieval_collection_keeps_its_judgements(lareqa):
    found = load_collection(lareqa, "test")
    assert found.name == "lareqa/test"
    assert ids(found.queries) == ["de:x", "en:x", "en:y"]
    assert ids(found.passages) == ["de:0.0.0", "en:0.0.0", "en:0.0.1"]
    assert found.qrels == {"x": {"de:0.0.0": 1, "en:0.0.0": 1}, "y": {"en:0.0.1": 1}}


def test_questions_without_an_answer_in_the_chosen_languages_are_left_out(lareqa):
    found = load_collection(lareqa, "test", languages=["de"])
    assert ids(found.queries) == ["de:x"] and found.qrels == {"x": {"de:0.0.0": 1}}


def test_judgements_that_name_unknown_passages_are_an_error(lareqa, monkeypatch):
    some = tuple(passage for passage in stored_passages.load(lareqa) if passage.key != "0.0.1")
    monkeypatch.setattr(stored_passages, "load", lambda _: some)
    with pytest.raises(ValueError, match=r"judgements name passages that are not in the corpus: en:0\.0\.1 \(1\)"):
        load_collection(lareqa, "test")


def test_the_corpus_is_no_split(lareqa):
    with pytest.raises(ValueError, match="lareqa has no split 'corpus'; it has test"):
        load_collection(lareqa, "corpus")


def test_questions_without_a_relevant_passage_are_kept_and_counted_as_dropped(beir):
    grades = {("good", "a"): 1, ("good", "b"): 0, ("other", "b"): 2, ("zero", "a"): 0, ("below", "b"): -1}
    builder = beir({"a": "text a", "b": "text b"}, grades)
    found = load_collection(builder, "test")
    assert ids(found.queries) == ["en:below", "en:good", "en:other", "en:zero"]
    (task,) = make_tasks(found, Pool.of(found), ["mono"])
    assert [found.queries[i].key for i in sorted(task.queries, key=lambda i: found.queries[i].key)] == ["good", "other"]
    assert task.dropped == 2
    for enough in (2, 9):
        assert load_collection(builder, "test", max_queries=enough).qrels == found.qrels
    assert len(load_collection(builder, "test", max_queries=1).qrels) == 1


def test_a_question_that_is_answered_in_other_languages_only_is_dropped_too(tmp_path):
    for language, answered in (("en", "both"), ("de", "german")):
        folder = tmp_path / "set" / language
        write_json_lines(folder / "corpus.jsonl", [{"_id": "p", "text": language}])
        write_json_lines(folder / "queries.jsonl", [{"_id": id, "text": id} for id in ("both", "german")])
        qrels = f"{answered}\tp\t1\n" + ("both\tp\t1\n" if language == "de" else "")
        write(folder / "qrels/test.tsv", "query-id\tcorpus-id\tscore\n" + qrels)
    builder = sources.prepare("parallel_beir", data_dir=tmp_path / "data", source=tmp_path / "set")
    found = load_collection(builder, "test", languages=["en"])
    (task,) = make_tasks(found, Pool.of(found), ["mono"])
    assert (len(task.queries), task.dropped) == (1, 1)


@pytest.fixture
def beir(tmp_path):
    """Prepares passages (id -> text) and graded judgements ((query, passage) -> grade) as a BEIR collection."""

    def prepare(texts, grades):
        folder = tmp_path / "source"
        write_json_lines(folder / "corpus.jsonl", [{"_id": id, "text": text} for id, text in texts.items()])
        write_json_lines(folder / "queries.jsonl", [{"_id": id, "text": f"{id}?"} for id in {q for q, _ in grades}])
        rows = "".join(f"{query}\t{passage}\t{grade}\n" for (query, passage), grade in grades.items())
        write(folder / "qrels/test.tsv", "query-id\tcorpus-id\tscore\n" + rows)
        return sources.prepare("beir", data_dir=tmp_path / "data", source=folder)

    return prepare


def test_passages_without_text_are_kept_and_counted(beir, capfd):
    grades = {("q", "full"): 2, ("q", "judged"): 1, ("q", "irrelevant"): 0}
    texts = {"full": "text", "judged": "", "irrelevant": " ", "unjudged": "\n"}
    found = load_collection(beir(texts, grades), "test")
    assert len(found.passages) == 4 and found.qrels == {"q": {"en:full": 2, "en:judged": 1, "en:irrelevant": 0}}
    assert "beir/test: 3 of 4 passages have no text (1 of them judged relevant)" in capfd.readouterr().err
    load_collection(beir({"full": "text"}, {("q", "full"): 1}), "test")
    assert capfd.readouterr().err == ""


def test_questions_that_only_passages_without_text_answer_are_an_error(beir):
    texts = {"full": "text", "blank": ""}
    grades = {("good", "full"): 1, ("lost", "blank"): 1, ("lost", "full"): 0, ("none", "blank"): 0}
    with pytest.raises(ValueError, match=r"only passages without text answer the questions lost \(1\)"):
        load_collection(beir(texts, grades), "test")
