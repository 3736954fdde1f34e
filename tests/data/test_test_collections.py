import json
import os
from pathlib import Path
from typing import Any

import pytest

from jaxretr.data import test_collections
from jaxretr.data.sources import lareqa
from jaxretr.data.test_collections import load_test_collection
from jaxretr.types import RetrievalSet

from .sources.miniature import write, write_json_lines

HEADER = "query-id\tcorpus-id\tscore\n"


def write_beir(folder: Path, language: str = "en") -> Path:
    write_json_lines(folder / "corpus.jsonl", [{"_id": f"p{i}", "text": f"{language} {i}"} for i in range(5)])
    write_json_lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"{language} {i}?"} for i in range(5)])
    for split in ("dev", "test"):
        write(folder / f"qrels/{split}.tsv", HEADER + "".join(f"q{i}\tp{i}\t1\n" for i in range(5)))
    return folder


def write_lareqa(folder: Path, languages: tuple[str, ...]) -> Path:
    for language in languages:
        paragraph = {
            "context": f"{language} one. {language} two.",
            "sentence_breaks": [[0, len(language) + 5], [len(language) + 6, 2 * len(language) + 11]],
            "qas": [{"id": "a", "question": f"{language}?", "answers": [{"answer_start": 0}]}],
        }
        write(folder / f"{language}.json", json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    return folder


def write_monolingual(folder: Path, dataset: str) -> Path:
    """MIRACL and Mr. TyDi in Swahili."""
    corpus, topics, qrels = {
        "miracl": (
            "miracl-corpus-v1.0-sw/docs-0.jsonl.gz",
            "miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv",
            "miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv",
        ),
        "mrtydi": (
            "mrtydi-v1.1-swahili/collection/docs.jsonl.gz",
            "mrtydi-v1.1-swahili/topic.test.tsv",
            "mrtydi-v1.1-swahili/qrels.test.txt",
        ),
    }[dataset]
    passage = {"docid": "1", "id": "1", "title": "T", "text": "x", "contents": "T\n\nx"}
    write_json_lines(folder / corpus, [passage])
    write(folder / topics, "7\tswali?\n")
    write(folder / qrels, "7 Q0 1 1\n")
    return folder


def write_pairs(folder: Path) -> Path:
    write_json_lines(folder / "test.jsonl", [{"id": "1", "query": "?", "passage": "x"}])
    return folder


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(dataset: str, data_dir: Path | None, **chosen: Any) -> RetrievalSet:
        return load_test_collection(dataset, data_dir, cache_dir=tmp_path / "cache", **chosen)

    return load


def test_names_say_what_a_collection_consists_of(load: Any, tmp_path: Path) -> None:
    xquad_r = write_lareqa(tmp_path / "anything", lareqa.LANGUAGES["xquad-r"])
    assert load("xquad-r", xquad_r).name == "xquad-r (sentence)"
    found = load("xquad-r", xquad_r, candidates="sentence+context", languages=["en", "de"])
    assert found.name == "xquad-r (sentence+context, de en)"
    assert load("mlqa-r", xquad_r).name.startswith("mlqa-r (sentence, ar de el")  # not MLQA-R's languages

    beir = write_beir(tmp_path / "some.set")
    assert load("beir", beir).name == "beir some.set (test, en)"
    found = load("beir", beir, split="dev", languages=["de"], max_queries=2, seed=3)
    assert found.name == "beir some.set (dev, de, 2 questions of seed 3)"
    assert load("beir", beir, max_queries=100).name == "beir some.set (test, en)"  # there are five

    for language in ("de", "en"):
        write_beir(tmp_path / "translated" / language, language)
    assert load("parallel-beir", tmp_path / "translated").name == "parallel-beir translated (test, de en)"
    assert load("miracl", write_monolingual(tmp_path / "m", "miracl")).name == "miracl (dev, sw)"
    assert load("mrtydi", write_monolingual(tmp_path / "t", "mrtydi")).name == "mrtydi (test, sw)"
    assert load("pairs", write_pairs(tmp_path / "own")).name == "pairs own (test, en)"


def test_candidates_languages_and_questions_are_those_asked_for(load: Any, tmp_path: Path) -> None:
    source = write_lareqa(tmp_path / "xquad-r", ("de", "en", "th"))
    found = load("xquad-r", source, candidates="paragraph", languages=["th", "de"])
    assert sorted(found.passage_ids) == ["de:0.0", "th:0.0"] and found.languages == ("de", "th")
    assert found.qrels == {"a": {"de:0.0": 1, "th:0.0": 1}}
    assert {p.text for p in load("xquad-r", source, candidates="sentence+context").passages} >= {
        "th one. th one. th two."
    }
    beir = write_beir(tmp_path / "b")
    questions = [load("beir", beir, max_queries=3, seed=seed).qrels.keys() for seed in (0, 0, 1, 2, 3)]
    assert questions[0] == questions[1] and any(drawn != questions[0] for drawn in questions)


def test_one_language_is_that_of_texts_that_do_not_say_theirs(load: Any, tmp_path: Path) -> None:
    assert load("beir", write_beir(tmp_path / "set"), languages=["tr"]).languages == ("tr",)
    assert load("pairs", write_pairs(tmp_path / "own"), languages=["tr"]).languages == ("tr",)
    with pytest.raises(ValueError, match="beir is in one language, not in de, en; use parallel-beir"):
        load("beir", tmp_path / "set", languages=["de", "en"])


def test_two_directories_of_one_name_are_two_preparations(load: Any, tmp_path: Path) -> None:
    """Even where neither size nor time tells them apart, as after unpacking archives that fix the times."""
    for parent, word in (("first", "cat"), ("second", "dog")):
        folder = write_beir(tmp_path / parent / "set", word)
        for file in folder.rglob("*.*"):
            os.utime(file, ns=(0, 0))
    cats, dogs = (load("beir", tmp_path / parent / "set") for parent in ("first", "second"))
    assert {p.text[:3] for p in cats.passages} == {"cat"} and {p.text[:3] for p in dogs.passages} == {"dog"}
    assert cats.name == dogs.name  # the cache differs, what reports say does not


def test_changed_files_are_prepared_anew(load: Any, tmp_path: Path) -> None:
    source = write_lareqa(tmp_path / "xquad-r", ("de", "en"))
    assert load("xquad-r", source).languages == ("de", "en")
    write_lareqa(source, ("th",))
    assert load("xquad-r", source).languages == ("de", "en", "th")


def test_unknown_names_suggest_the_nearest(load: Any, tmp_path: Path) -> None:
    for typed, meant in (("xquad_r", "xquad-r"), ("XQuAD-R", "xquad-r"), ("parallel_beir", "parallel-beir")):
        with pytest.raises(
            ValueError, match=rf"Unknown dataset '{typed}': did you mean {meant}\? Choose from xquad-r, "
        ):
            load(typed, tmp_path)
    with pytest.raises(ValueError, match="Unknown dataset 'zzz': choose from xquad-r"):
        load("zzz", tmp_path)


def test_settings_that_do_not_fit_are_described(load: Any, tmp_path: Path) -> None:
    source = write_beir(tmp_path / "set")
    with pytest.raises(ValueError, match="candidates='sentence' applies only to xquad-r and mlqa-r"):
        load("beir", source, candidates="sentence")
    with pytest.raises(ValueError, match=r"candidates='word' must be one of \('sentence', "):
        load("xquad-r", write_lareqa(tmp_path / "x", ("en",)), candidates="word")
    for split in ("train", "corpus"):
        with pytest.raises(ValueError, match=f"beir has no split '{split}'; it has dev, test"):
            load("beir", source, split=split)
    with pytest.raises(ValueError, match="has no language fr; it has en"):
        load("xquad-r", tmp_path / "x", languages=["fr"])
    with pytest.raises(ValueError, match="max_queries=0 must be positive"):
        load("beir", source, max_queries=0)


@pytest.mark.parametrize("dataset", [name for name, known in test_collections.TEST_COLLECTIONS.items() if known.layout])
def test_a_directory_that_cannot_be_downloaded_must_be_given(load: Any, dataset: str) -> None:
    with pytest.raises(ValueError, match=f"{dataset} cannot be downloaded; set data_dir to "):
        load(dataset, None)


@pytest.mark.parametrize("dataset", [*test_collections.TEST_COLLECTIONS])
def test_a_directory_of_another_layout(load: Any, dataset: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data_dir='.*nowhere' is not an existing file or directory"):
        load(dataset, tmp_path / "nowhere")
    write(tmp_path / "data/notes.txt", "nothing that any data set has")
    with pytest.raises(
        (ValueError, FileNotFoundError), match="data.*(found notes.txt|Found notes.txt|lacks|found none|no .deb)"
    ):
        load(dataset, tmp_path / "data")
