import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from jaxretr.eval.bias import OWN_LANGUAGE_SHARE, RANK_DISTANCE
from jaxretr.eval.compare import Comparison, Difference, compare
from jaxretr.eval.results import Results, SettingResult, TaskResult, mean
from jaxretr.eval.significance import (
    bootstrap_interval,
    contributions,
    crossed_test,
    effect_size,
    holm,
    influences,
    randomization_test,
)

Values = Mapping[tuple[str, str | None], Mapping[str, np.ndarray]]


def task(query_language: str, corpus_language: str | None, measures: Mapping[str, np.ndarray]) -> TaskResult:
    count = len(next(iter(measures.values())))
    return TaskResult(
        query_language=query_language,
        corpus_language=corpus_language,
        queries=count,
        dropped=0,
        passages=50,
        measures={name: mean(values) for name, values in measures.items()},
        query_ids=tuple(f"{query_language}:q{i}" for i in range(count)),
        per_query=dict(measures),
    )


def evaluated(setting: str, tasks: Values, system: str = "a", collection: str = "help") -> Results:
    return Results(
        collection,
        {setting: SettingResult(tuple(task(*name, values) for name, values in tasks.items()))},
        system=system,
    )


def multi(values: np.ndarray, measure: str = "AP", system: str = "a") -> Results:
    """A system with `values` [languages, questions] in the setting `multi`."""
    languages = ("de", "en", "zh")[: len(values)]
    return evaluated("multi", {(tag, None): {measure: row} for tag, row in zip(languages, values, strict=True)}, system)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def noise(random: np.random.Generator) -> np.ndarray:
    """Values of three languages and 60 questions, whose translations are alike."""
    return np.clip(0.5 + 0.2 * random.standard_normal(60) + 0.05 * random.standard_normal((3, 60)), 0, 1)


def shifted(values: np.ndarray, by: float, random: np.random.Generator) -> np.ndarray:
    return values + by + 0.05 * random.standard_normal(values.shape)


def test_figures_are_those_of_the_tests(noise: np.ndarray, random: np.random.Generator) -> None:
    other, third = shifted(noise, 0.02, random), shifted(noise, 0.05, random)
    found = compare({"a": [multi(noise)], "b": [multi(other)], "c": [multi(third)]}).measures[0]
    assert (found.name, found.better, found.questions, found.left_out) == ("multi/AP", "higher", 60, 0)
    assert [(d.system, d.other) for d in found.pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    differences = [other - noise, third - noise, third - other]
    p = [randomization_test(contributions(d)[None])[0] for d in differences]
    assert [d.p for d in found.pairs] == p
    assert [d.p_holm for d in found.pairs] == holm(np.array(p)).tolist()
    for pair, difference in zip(found.pairs, differences, strict=True):
        assert pair.difference == pytest.approx(difference.mean())
        assert pair.effect_size == effect_size(difference)
        assert [pair.low, pair.high] == pytest.approx(bootstrap_interval(influences(difference)[None])[0])
    own = found.systems[1]
    assert [own.low, own.high] == pytest.approx(bootstrap_interval(influences(other)[None])[0])
    assert own.by_seed == pytest.approx([other.mean()]) and own.by_task == pytest.approx(other.mean(1))


def test_languages_are_compared_with_the_baseline_one_by_one(noise: np.ndarray, random: np.random.Generator) -> None:
    other = noise + np.array([[0.1], [0.0], [-0.1]]) + 0.05 * random.standard_normal(noise.shape)
    found = compare({"a": [multi(noise)], "b": [multi(other)]}).measures[0]
    p = randomization_test(other - noise)
    assert [d.task for d in found.by_task] == [("de", None), ("en", None), ("zh", None)]
    assert [d.p for d in found.by_task] == p.tolist()
    assert [d.p_holm for d in found.by_task] == holm(p).tolist()
    assert [d.significant for d in found.by_task] == [True, False, True]
    table = {row[0]: row[2] for row in found.rows()}
    assert table["better, worse, undecided"] == "1, 1, 1"
    assert table["de"] == f"{other[0].mean():.4f} (+{(other - noise)[0].mean():.4f}†)"
    assert table["en"].endswith(")") and "†" not in table["en"]


def test_values_are_the_macro_averages_of_the_results(random: np.random.Generator) -> None:
    """Also where languages ask different numbers of questions and some queries have no value."""
    sizes = {("de", None): 10, ("en", None): 40, ("zh", None): 25}
    one, other = ({name: {"AP": random.random(n)} for name, n in sizes.items()} for _ in range(2))
    for of_system in (one, other):
        of_system["en", None]["AP"][5:20] = math.nan
    systems = {"a": [evaluated("multi", one)], "b": [evaluated("multi", other)]}
    found = compare(systems, resamples=100).measures[0]
    assert [s.value for s in found.systems] == pytest.approx(
        [runs[0].settings["multi"].measures["AP"] for runs in systems.values()]
    )
    assert (found.questions, found.left_out) == (40, 0)
    de = found.by_task[0]
    assert de.p == randomization_test((other["de", None]["AP"] - one["de", None]["AP"])[None], resamples=300)[0]


def test_more_translations_are_no_more_evidence(random: np.random.Generator) -> None:
    values, other = random.random((2, 1, 40))
    once = compare({"a": [multi(values)], "b": [multi(other)]}).measures[0]
    thrice = compare({"a": [multi(values.repeat(3, 0))], "b": [multi(other.repeat(3, 0))]}).measures[0]
    assert thrice.pairs[0].p == once.pairs[0].p
    assert (thrice.pairs[0].low, thrice.pairs[0].high) == pytest.approx((once.pairs[0].low, once.pairs[0].high))
    assert thrice.pairs[0].effect_size == pytest.approx(once.pairs[0].effect_size)


def systems_by(measure: str, noise: np.ndarray, random: np.random.Generator) -> Comparison:
    values = {"low": noise, "low too": noise[:, ::1] + 0, "high": shifted(noise, 0.2, random)}
    return compare({name: [multi(v, measure)] for name, v in values.items()}, measures=[f"multi/{measure}"])


@pytest.mark.parametrize(
    ("measure", "beaten", "marks", "tally"),
    [
        ("AP", [[], [], ["low", "low too"]], ["", "", "ᵃᵇ"], ["better, worse, undecided", "", "0, 0, 3", "3, 0, 0"]),
        (
            RANK_DISTANCE,
            [["high"], ["high"], []],
            ["ᶜ", "ᶜ", ""],
            ["better, worse, undecided", "", "0, 0, 3", "0, 3, 0"],
        ),
        (OWN_LANGUAGE_SHARE, [[], [], []], ["", "", ""], ["higher, lower, undecided", "", "0, 0, 3", "3, 0, 0"]),
    ],
)
def test_marks_go_by_the_direction_of_the_measure(
    measure: str, beaten: list, marks: list, tally: list, noise: np.ndarray, random: np.random.Generator
) -> None:
    found = systems_by(measure, noise, random).measures[0]
    assert [found.worse_than(s.system) for s in found.systems] == beaten
    heading, average, *body = found.rows()
    assert heading == [f"multi/{measure}", "ᵃ low", "ᵇ low too", "ᶜ high"]
    assert [cell.lstrip("0123456789.") for cell in average[1:]] == marks
    assert [row for row in body if "undecided" in row[0]] == [tally]


def test_equal_systems_do_not_differ(noise: np.ndarray, tmp_path: Path) -> None:
    comparison = compare({"a": [multi(noise)], "b": [multi(noise)]})
    pair = comparison.measures[0].pairs[0]
    assert (pair.difference, pair.low, pair.high, pair.p, pair.p_holm) == (0, 0, 0, 1, 1)
    assert ["Cohen's d", "", "–"] in comparison.measures[0].rows()
    comparison.save(tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert content["measures"][0]["pairs"][0]["effect_size"] is None


def test_pairs_of_languages_are_counted(random: np.random.Generator) -> None:
    languages = [f"l{i}" for i in range(5)]
    pairs = [(a, b) for a in languages for b in languages if a != b]
    base = {pair: {"AP": random.random(50)} for pair in pairs}
    gain = {pair: 0.3 if pair[0] == "l0" else -0.3 if pair[1] == "l1" else 0.0 for pair in pairs}
    other = {pair: {"AP": base[pair]["AP"] + gain[pair] + 0.02 * random.standard_normal(50)} for pair in pairs}
    comparison = compare({"a": [evaluated("cross", base)], "b": [evaluated("cross", other)]})
    rows = comparison.measures[0].rows()
    assert rows[-1] == ["better, worse, undecided", "", "4, 3, 13"]
    assert "higher is better, 20 pairs of languages, 50 questions" in comparison.markdown()


def test_many_tests_get_enough_draws(random: np.random.Generator) -> None:
    """With 200 tasks, 999 draws could not make any p-value significant after Holm's correction."""
    pairs = [(f"q{i}", f"c{i}") for i in range(200)]
    base = {pair: {"AP": random.random(30)} for pair in pairs}
    other = {pair: {"AP": base[pair]["AP"] + 0.2 + 0.01 * random.standard_normal(30)} for pair in pairs}
    found = compare({"a": [evaluated("cross", base)], "b": [evaluated("cross", other)]}, resamples=999).measures[0]
    assert all(d.significant for d in found.by_task)


def test_significant_is_below_five_percent_after_correction() -> None:
    figures = {"difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.001, "effect_size": 0.5}
    assert Difference(**figures, system="b", other="a", task=None, p_holm=0.049).significant
    assert not Difference(**figures, system="b", other="a", task=None, p_holm=0.05).significant


def test_the_baseline_comes_first(noise: np.ndarray, random: np.random.Generator) -> None:
    systems = {"a": [multi(noise)], "b": [multi(shifted(noise, 0.1, random))]}
    comparison = compare(systems, baseline="b")
    assert comparison.systems == ("b", "a")
    assert [(d.system, d.other) for d in comparison.measures[0].pairs] == [("a", "b")]
    assert comparison.measures[0].pairs[0].difference < 0
    assert comparison.measures[0].worse_than("b") == ["a"]


def test_queries_are_matched_by_their_ids(noise: np.ndarray, random: np.random.Generator) -> None:
    other = shifted(noise, 0.02, random)
    straight = compare({"a": [multi(noise)], "b": [multi(other)]})
    task = multi(other).settings["multi"].tasks[0]
    order = random.permutation(60)
    mixed = TaskResult(
        *("de", None, 60, 0, 50, task.measures),
        query_ids=tuple(task.query_ids[i] for i in order),
        per_query={"AP": task.per_query["AP"][order]},
    )
    tasks = (mixed, *multi(other).settings["multi"].tasks[1:])[::-1]
    turned = compare({"a": [multi(noise)], "b": [Results("help", {"multi": SettingResult(tasks)}, system="b")]})
    assert turned.measures[0].pairs == straight.measures[0].pairs
    assert turned.measures[0].by_task == straight.measures[0].by_task


def test_queries_without_a_value_under_one_system_count_for_none(noise: np.ndarray) -> None:
    holed = noise.copy()
    holed[0, :5] = math.nan
    comparison = compare({"a": [multi(noise)], "b": [multi(holed)]})
    found = comparison.measures[0]
    assert (
        found.left_out == 5
        and "60 questions, 5 queries left out: some systems have no value\n" in comparison.markdown()
    )
    assert found.systems[0].by_task[0] == pytest.approx(noise[0, 5:].mean())
    assert found.pairs[0].difference == 0


def test_languages_without_any_value_are_left_out(noise: np.ndarray) -> None:
    noise[1] = math.nan
    found = compare({"a": [multi(noise)], "b": [multi(noise)]}).measures[0]
    assert found.tasks == (("de", None), ("zh", None))
    assert found.systems[0].value == pytest.approx(noise[[0, 2]].mean())


def test_default_measures_are_average_precision_and_rank_distance(noise: np.ndarray) -> None:
    measures = {"AP": noise[0], "R@1": noise[1], RANK_DISTANCE: noise[2], OWN_LANGUAGE_SHARE: noise[2]}
    systems = {name: [evaluated("multi", {("de", None): measures})] for name in "ab"}
    assert [m.name for m in compare(systems).measures] == ["multi/AP", f"multi/{RANK_DISTANCE}"]
    assert [m.name for m in compare(systems, measures=["multi/R@1", "multi/R@1"]).measures] == ["multi/R@1"]


# Seeds


def seeds(noise: np.ndarray, random: np.random.Generator, by: float = 0.0) -> list[Results]:
    return [multi(shifted(noise, by + luck, random), system=f"s{i}") for i, luck in enumerate((-0.03, 0.0, 0.04))]


def test_seeds_are_crossed_with_questions(noise: np.ndarray, random: np.random.Generator) -> None:
    one, other, single = seeds(noise, random), seeds(noise, random, 0.02), multi(noise)
    found = compare({"a": one, "b": other, "single": [single]}).measures[0]
    values = [
        np.array([[t.per_query["AP"] for t in run.settings["multi"].tasks] for run in runs]) for runs in (one, other)
    ]
    p, low, high = crossed_test(influences(values[1]), influences(values[0]))
    assert (found.pairs[0].p, found.pairs[0].low, found.pairs[0].high) == pytest.approx((p, low, high))
    assert found.systems[0].by_seed == pytest.approx(values[0].mean((1, 2)))
    _, low, high = crossed_test(influences(values[0]), np.zeros((1, 60)))
    assert (found.systems[0].low, found.systems[0].high) == pytest.approx((low, high))
    assert found.rows()[3][0] == "sd over seeds"
    assert found.rows()[3][1:] == [*(f"{v.mean((1, 2)).std(ddof=1):.4f}" for v in values), ""]


def test_what_looks_real_on_one_seed_may_be_luck(noise: np.ndarray, random: np.random.Generator) -> None:
    one, other = seeds(noise, random), seeds(noise, random, 0.02)
    assert compare({"a": [one[0]], "b": [other[0]]}).measures[0].pairs[0].significant
    assert not compare({"a": one, "b": other}).measures[0].pairs[0].significant


# What cannot be compared


def test_different_queries_are_an_error_that_says_how_many_are_missing_where(noise: np.ndarray) -> None:
    systems = {"whole": [multi(noise)], "part": [multi(noise[:, :50], system="run")], "two": [multi(noise[:2])]}
    with pytest.raises(
        ValueError,
        match=r"part \(run\) lacks 30 .*\(tasks: 3, first: de:q50\); two .*lacks 60 .*\(tasks: 1, first: zh:q0\);",
    ):
        compare(systems)


def test_different_corpora_are_an_error(noise: np.ndarray) -> None:
    tasks = multi(noise).settings["multi"].tasks
    larger = [TaskResult(*(t.query_language, None, 60, 0, 51, t.measures, t.query_ids, t.per_query)) for t in tasks]
    with pytest.raises(ValueError, match="corpora of different sizes"):
        compare({"a": [multi(noise)], "b": [Results("help", {"multi": SettingResult(tuple(larger))}, system="b")]})


def test_results_without_values_per_query_are_an_error(noise: np.ndarray) -> None:
    bare = tuple(
        TaskResult(t.query_language, None, 60, 0, 50, t.measures) for t in multi(noise).settings["multi"].tasks
    )
    with pytest.raises(ValueError, match="b has no values of multi/AP per query; evaluate it again"):
        compare({"a": [multi(noise)], "b": [Results("help", {"multi": SettingResult(bare)}, system="b")]})


def test_other_input_that_does_not_compare(noise: np.ndarray) -> None:
    a = multi(noise)
    with pytest.raises(ValueError, match="2 to 25 systems, got 1"):
        compare({"a": [a]})
    with pytest.raises(ValueError, match="'c' is not one of the systems a, b"):
        compare({"a": [a], "b": [a]}, baseline="c")
    with pytest.raises(ValueError, match=r"\['help', 'other'\]"):
        compare({"a": [a], "b": [evaluated("multi", {("de", None): {"AP": noise[0]}}, collection="other")]})
    with pytest.raises(ValueError, match="not all systems have multi/R@1; measures that all systems have: multi/AP"):
        compare({"a": [a], "b": [a]}, measures=["multi/R@1", "multi/AP"])
    with pytest.raises(ValueError, match="not all systems have AP or rank_distance; .* multi/R@5"):
        compare({"a": [multi(noise, "R@5")], "b": [multi(noise, "R@5")]})
    with pytest.raises(ValueError, match="no query has a value of multi/AP"):
        compare({"a": [multi(noise * math.nan)], "b": [multi(noise)]})


# Files


def test_files_hold_every_figure(noise: np.ndarray, random: np.random.Generator, tmp_path: Path) -> None:
    comparison = compare({"a|x": [multi(noise)], "b": [multi(shifted(noise, 0.1, random))]})
    comparison.save(tmp_path / "new" / "directory")
    content = json.loads((tmp_path / "new" / "directory" / "comparison.json").read_text())
    assert (content["schema"], content["collection"], content["systems"]) == (1, "help", ["a|x", "b"])
    measure = content["measures"][0]
    assert measure["pairs"][0]["p_holm"] == comparison.measures[0].pairs[0].p_holm
    assert [d["task"] for d in measure["by_task"]] == [["de", None], ["en", None], ["zh", None]]
    assert measure["systems"][1]["by_seed"] == list(comparison.measures[0].systems[1].by_seed)
    text = (tmp_path / "new" / "directory" / "comparison.md").read_text()
    assert text == comparison.markdown()
    table = [
        line.removeprefix("| ").removesuffix(" |").split(" | ") for line in text.splitlines() if line.startswith("|")
    ]
    heading, *body = comparison.measures[0].rows()
    assert table == [["multi/AP", "ᵃ a\\|x", "ᵇ b"], ["---", "---:", "---:"], *body] and heading[1] == "ᵃ a|x"


def test_a_failed_write_leaves_the_last_good_files(
    noise: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare({"a": [multi(noise)], "b": [multi(noise)]}, resamples=10).save(tmp_path)
    good = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(good) == ["comparison.json", "comparison.md"]

    def disk_full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    with pytest.raises(OSError, match="no space left"):
        compare({"a": [multi(noise)], "c": [multi(noise)]}, resamples=10).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == good


def test_one_name_with_different_content_does_not_compare(noise: np.ndarray) -> None:
    content = {"queries": "1", "judgements": "2", "passages": "3"}
    old, one, other = (
        dataclasses.replace(multi(noise), content=of) for of in ({}, content, content | {"judgements": "4"})
    )
    compare({"a": [one], "b": [one]})
    compare({"a": [old], "b": [one]})
    with pytest.raises(ValueError, match="a and b were evaluated on different content .* 'help': judgements differ"):
        compare({"old": [old], "a": [one], "b": [other]})
