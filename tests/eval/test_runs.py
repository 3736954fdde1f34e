import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from jaxretr.eval.evaluate import Ranking
from jaxretr.eval.results import Results
from jaxretr.eval.runs import RunWriter, evaluate_into
from jaxretr.eval.settings import Pool, make_tasks
from jaxretr.locks import DirectoryInUse
from jaxretr.types import Passage, Query, RetrievalSet

TREC_NAMES = {
    "AP": "map",
    "AP@20": "map_cut_20",
    "R@5": "recall_5",
    "nDCG@10": "ndcg_cut_10",
    "nDCG": "ndcg",
    "RR": "recip_rank",
    "Success@1": "success_1",
}


class Encoders:
    """Embeds the texts of one collection as nearly parallel vectors; texts that are equal but for case tie."""

    def __init__(self, seed: int = 0):
        self.calls = 0
        self.seed = seed

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        noise = [np.random.default_rng([self.seed, *text.lower().encode()]).normal(size=8) for text in texts]
        vectors = np.array(noise, np.float32) * 1e-3 + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def collection() -> RetrievalSet:
    """600 passages in each of two languages, every second one a duplicate; graded judgements, one question unanswered
    in German; "zh" and "zh-Hant" to tell apart."""
    languages = ("zh", "zh-Hant")
    passages = [
        Passage(f"d{i}", tag, f"{tag} {'Text' if i % 2 else 'text'} {i // 2}") for tag in languages for i in range(600)
    ]
    random = np.random.default_rng(0)
    qrels = {
        f"q{i}": {f"{tag}:d{j}": int(random.integers(0, 4)) for tag in languages for j in random.choice(600, 12, False)}
        for i in range(6)
    }
    qrels["q6"] = {"zh:d1": 2, "zh-Hant:d3": 0}
    return RetrievalSet(
        "made up",
        tuple(Query(key, tag, f"{tag} {key}") for key in qrels for tag in languages),
        tuple(passages),
        qrels,
    )


def evaluated(output_dir: Path, of: RetrievalSet | None = None, **changes: Any) -> Results:
    encode = changes.pop("encode", Encoders())
    options: dict[str, Any] = {
        "system": "a b",
        "evaluation": {"model": "m", "max_length": 64},
        "fingerprint": "f",
        "measures": [*TREC_NAMES],
        "runs": ("mono", "cross", "multi"),
    }
    return evaluate_into(output_dir, of or collection(), encode, encode, **options | changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("evaluation") / "out"
    evaluated(output_dir)
    return output_dir


def test_trec_eval_makes_the_same_values_of_the_files(written: Path) -> None:
    """To the last digit, with ties across the end of the run, grades, and runs shorter than 1000."""
    results = Results.load(written)
    tasks = [(setting, task) for setting, found in results.settings.items() for task in found.tasks]
    assert len(tasks) == 2 + 2 + 2
    ties = 0
    for setting, task in tasks:
        name = f"{setting}.{task.query_language}" + (f".{task.corpus_language}" if setting == "cross" else "")
        with (written / "runs" / f"{name}.trec").open(encoding="utf-8") as file:
            run = pytrec_eval.parse_run(file)
        with (written / "qrels" / f"{name}.qrels").open(encoding="utf-8") as file:
            qrels = pytrec_eval.parse_qrel(file)
        assert run.keys() == qrels.keys() == set(task.query_ids)
        assert {len(found) for found in run.values()} == {min(1000, task.passages)}
        ties += sum(len(found) - len(set(found.values())) for found in run.values())
        expected = pytrec_eval.RelevanceEvaluator(qrels, {*TREC_NAMES.values()}).evaluate(run)
        for measure, trec_name in TREC_NAMES.items():
            by_query = [expected[id][trec_name] for id in task.query_ids]
            np.testing.assert_array_equal(task.per_query[measure], by_query, err_msg=f"{name} {measure}")
    assert ties > 1000


def test_a_second_evaluation_in_one_directory_is_refused(tmp_path: Path) -> None:
    embed = Encoders()
    refused = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        with pytest.raises(DirectoryInUse, match="out is in use by process .* another output directory"):
            evaluated(tmp_path / "out")
        refused.append(True)
        return embed(texts)

    evaluated(tmp_path / "out", encode=encode, settings=("mono",))
    assert refused
    assert not (tmp_path / "out" / "lock").exists()


def test_a_run_reads_as_trecs_format_says(written: Path) -> None:
    lines = [line.split(" ") for line in (written / "runs" / "multi.zh-Hant.trec").read_text().splitlines()]
    assert {len(line) for line in lines} == {6}
    assert lines[0][0] == "zh-Hant:q0" and lines[0][1] == "Q0" and lines[0][5] == "a_b"
    assert [line[3] for line in lines[:1000]] == [str(rank) for rank in range(1, 1001)]
    ranked = [(float(line[4]), line[2]) for line in lines[:1000]]
    assert ranked == sorted(ranked, reverse=True)


def test_scores_come_back_as_the_same_float32(tmp_path: Path) -> None:
    source = collection()
    task = make_tasks(source, Pool.of(source), ["mono"])[0]
    bits = np.random.default_rng(0).integers(0, 0x7F800000, (len(task.queries), 600), np.uint32)
    scores = bits.view(np.float32) * np.array([1, -1], np.float32)[np.arange(600) % 2]
    passages = np.tile(np.arange(600), (len(task.queries), 1))
    RunWriter(tmp_path, source, tag="100% new\n").write(Ranking(task, scores, passages))
    lines = [line.split() for line in (tmp_path / "runs" / "mono.zh.trec").read_text().splitlines()]
    np.testing.assert_array_equal(np.array([line[4] for line in lines], np.float32), scores.ravel())
    assert lines[0][5] == "100%_new"


def test_qrels_are_those_of_the_corpus(written: Path) -> None:
    source = collection()
    lines = (written / "qrels" / "cross.zh.zh-Hant.qrels").read_text().splitlines()
    assert lines[0].split(" ")[:2] == ["zh:q0", "0"]
    expected = {
        f"zh:{key} 0 {id} {grade}"
        for key, grades in source.qrels.items()
        for id, grade in grades.items()
        if key != "q6" and id.startswith("zh-Hant:")
    }
    assert set(lines) == expected and len(lines) == len(expected)


def test_what_a_directory_holds(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == {
        *("results.json", "per_query.parquet", "results.md", "report.html", "evaluation.json"),
        *("runs", "qrels", "plots", "embeddings"),
    }
    expected = {"collection": "made up", "model": "m", "max_length": 64, "fingerprint": "f"}
    assert json.loads((written / "evaluation.json").read_text()) == expected == Results.load(written).evaluation
    assert (written / "results.md").read_text().startswith("# a b on made up\n")


def test_runs_only_of_the_settings_and_to_the_depth_asked_for(tmp_path: Path) -> None:
    evaluated(tmp_path, runs=("multi",), run_depth=3)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"multi.zh.trec", "multi.zh-Hant.trec"}
    assert len((tmp_path / "runs" / "multi.zh.trec").read_text().splitlines()) == 7 * 3
    evaluated(tmp_path / "none", run_depth=0)
    assert not (tmp_path / "none" / "runs").exists()


def test_the_same_evaluation_is_replaced_without_encoding_the_passages_again(tmp_path: Path) -> None:
    first, encode = Encoders(), Encoders()
    evaluated(tmp_path, encode=first, settings=["mono"])
    results = evaluated(tmp_path, encode=encode, settings=["multi"], measures=["RR"], system="new name")
    assert encode.calls < first.calls
    loaded = Results.load(tmp_path)
    assert loaded.system == "new name" and loaded.scalars() == results.scalars()
    assert list(loaded.settings) == ["multi"]


def test_another_evaluation_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    evaluated(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match="holds another evaluation .*max_length was 64, is 32.*another output directory"
    ):
        evaluated(tmp_path, evaluation={"model": "m", "max_length": 32})
    with pytest.raises(ValueError, match="fingerprint was 'f', is 'g'"):
        evaluated(tmp_path, fingerprint="g")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_results_of_something_else_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="holds results without evaluation.json"):
        evaluated(tmp_path)
    assert (tmp_path / "results.json").read_text() == "{}"


def test_an_attempt_that_left_nothing_gives_way(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean nDCG"):
        evaluated(tmp_path, measures=["ndgc"], evaluation={"model": "other"})
    evaluated(tmp_path)
    assert Results.load(tmp_path).evaluation["model"] == "m"


def test_ids_that_a_run_cannot_hold_are_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    encode = Encoders()
    source = collection()
    for broken in (
        dataclasses.replace(source, passages=(*source.passages, Passage("a\u00a0b", "zh", "text"))),
        dataclasses.replace(source, queries=(*source.queries, Query("a b", "zh", "text"))),
        dataclasses.replace(source, queries=(*source.queries, Query("a\n", "zh", "text"))),
        dataclasses.replace(source, queries=(*source.queries, Query("a\0b", "zh", "text"))),
    ):
        with pytest.raises(ValueError, match="the id .* has white space.*rename it in the data, or write no runs"):
            evaluated(tmp_path, broken, encode=encode)
    assert encode.calls == 0


@pytest.mark.usefixtures("as_users_run")
def test_runs_that_cannot_be_written_are_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    encode = Encoders()
    with pytest.raises(ValueError, match="cannot write runs of 'bi'; the settings are mono, cross, multi"):
        evaluated(tmp_path, runs=("mono", "bi"), encode=encode)
    with pytest.raises(ValueError, match="run_depth is -1"):
        evaluated(tmp_path, run_depth=-1, encode=encode)
    assert encode.calls == 0


def test_a_crash_while_writing_leaves_no_half_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = collection()
    task = make_tasks(source, Pool.of(source), ["mono"])[0]
    passages = np.full((len(task.queries), 3), 10**6)  # no such passage
    with pytest.raises(IndexError):
        RunWriter(tmp_path, source, tag="t").write(Ranking(task, np.zeros(passages.shape, np.float32), passages))
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_evaluation_of_other_content_under_the_same_name_is_refused(tmp_path: Path) -> None:
    evaluated(tmp_path, settings=["mono"])
    source = collection()
    changed = dataclasses.replace(
        source, passages=(dataclasses.replace(source.passages[0], text="new"), *source.passages[1:])
    )
    with pytest.raises(
        ValueError, match=r"different content under the name 'made up' \(passages was '\w+', is '\w+'\)"
    ):
        evaluated(tmp_path, changed, settings=["mono"])
    assert Results.load(tmp_path).content == source.fingerprint
