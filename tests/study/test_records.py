"""Records keep what tests need, and nothing else reads them."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxretr.eval.compare import compare
from jaxretr.study.records import RunRecord, SectionRecord, load_all
from tests.study import made


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    before = made.record("hybrid", 1, gain=0.1)
    before.save(tmp_path)
    assert load_all(tmp_path) == {"hybrid-1": before}
    assert max(map(len, (tmp_path / "hybrid-1.json").read_text().splitlines())) < 1_000


def test_quotes_and_brackets_in_texts_survive(tmp_path: Path) -> None:
    text = 'a "quoted", {braced} [one] \\ and ends in \\'
    before = RunRecord("x", 0, {"text": [text, {"inner": text}]})
    before.save(tmp_path)
    assert RunRecord.load(tmp_path / "x-0.json").design == {"text": [text, {"inner": text}]}


def test_means_over_languages_give_the_same_test_as_all_values() -> None:
    """A macro average over tasks that all ask every question is the mean of the questions' means."""
    rng = np.random.default_rng(0)
    one, other = (made.results({"mono/AP": rng.random((2, made.QUESTIONS))}) for _ in range(2))
    short = [SectionRecord.of(found, by_question=True).results() for found in (one, other)]
    for_all = compare({"a": [one], "b": [other]}, measures=["mono/AP"]).measures[0].pairs[0]
    by_question = compare({"a": [short[0]], "b": [short[1]]}, measures=["mono/AP"]).measures[0].pairs[0]
    assert by_question.difference == pytest.approx(for_all.difference, abs=1e-5)
    assert by_question.p == pytest.approx(for_all.p, abs=1e-3)
    assert (by_question.low, by_question.high) == pytest.approx((for_all.low, for_all.high), abs=1e-4)


def test_ids_are_kept_once() -> None:
    values = np.arange(2.0 * made.QUESTIONS).reshape(2, -1)
    found = SectionRecord.of(made.results({"mono/AP": values, "multi/AP": values}))
    assert found.per_query["multi"]["en"]["id"] == "mono/en→en"
    (_, english) = found.results().settings["multi"].tasks
    assert english.query_ids == tuple(f"en:{question}" for question in range(made.QUESTIONS))
    np.testing.assert_array_equal(english.per_query["AP"], values[1])


def test_undefined_values_stay_undefined() -> None:
    values = np.full((2, made.QUESTIONS), 0.5)
    values[0, 3], values[:, 4] = np.nan, np.nan
    found = SectionRecord.of(made.results({"mono/AP": values}), by_question=True)
    (task,) = found.results().settings["mono"].tasks
    assert np.flatnonzero(np.isnan(task.per_query["AP"])).tolist() == [4]
    assert found.scalar("mono/AP") == 0.5


def test_only_named_measures_are_kept() -> None:
    values = np.zeros((2, made.QUESTIONS))
    found = SectionRecord.of(made.results({"mono/AP": values, "mono/RR": values}), ["AP"])
    assert list(found.by_task) == ["mono/AP"]
    assert set(found.per_query["mono"]["en→en"]) == {"id", "AP"}


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x-0.json"
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(ValueError, match="schema 99, expected 1; delete the file"):
        RunRecord.load(path)
    path.write_text("no JSON")
    with pytest.raises(ValueError, match="is not a record of a run"):
        RunRecord.load(path)
