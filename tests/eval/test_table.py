import dataclasses
import io
import math

import pytest
from rich.console import Console

from jaxretr.eval.evaluate import MEASURES
from jaxretr.eval.results import Results, SettingResult, TaskResult
from jaxretr.eval.table import language_rows, left_out, markdown, mix_rows, page, rich_table, rows, summary


def system(ap: float, distance: float) -> Results:
    return Results(
        "help",
        {
            "mono": SettingResult((TaskResult("de", "de", 1, 0, 9, {"AP": ap, "R@1": 1.0}),)),
            "multi": SettingResult((TaskResult("de", None, 1, 0, 9, {"AP": ap / 2, "rank_distance": distance}),)),
        },
    )


def test_one_row_per_system_and_one_column_per_measured_value() -> None:
    heading, *body = rows({"before": system(0.5, math.nan), "after": system(0.75, 12.25)})
    assert heading == ["help", "mono mAP", "mono R@1", "multi mAP", "rank distance ↓"]
    assert body == [["before", "0.5000", "1.0000", "0.2500", "–"], ["after", "0.7500", "1.0000", "0.3750", "12.2"]]


def test_any_measures_are_shown_in_every_setting() -> None:
    values = {"nDCG@20": 0.5, "R@10": 0.25}
    results = Results("c", {"mono": SettingResult((TaskResult("de", "de", 1, 0, 9, values),))})
    assert rows({"s": results}) == [["c", "mono nDCG@20", "mono R@10"], ["s", "0.5000", "0.2500"]]


def test_of_the_usual_measures_each_setting_shows_a_few() -> None:
    values = dict.fromkeys(MEASURES, 0.5)
    task = TaskResult("de", None, 1, 0, 9, values | {"Max@R": 3.0, "PEER": 0.25, "Max@R_norm": 90.0})
    heading, line = rows({"s": Results("c", {"multi": SettingResult((task,))})})
    assert heading == ["c", "multi mAP", "multi R@10", "multi nDCG@10", "Max@R ↓", "PEER"]
    assert line == ["s", "0.5000", "0.5000", "0.5000", "3.0", "0.250"]


def full() -> Results:
    """English and German queries; a German one has no answer in English."""

    def task(query: str, corpus: str | None, ap: float, dropped: int = 0, **more: float) -> TaskResult:
        mix = {"de": 0.75, "en": 0.25} if corpus is None else {}
        return TaskResult(query, corpus, 1000, dropped, 9, {"AP": ap, "R@1": 0.0, **more}, language_mix=mix)

    return Results(
        "help",
        {
            "mono": SettingResult((task("de", "de", 0.9), task("en", "en", 0.8))),
            "cross": SettingResult((task("de", "en", 0.5, dropped=7), task("de", "fr", 0.25), task("en", "de", 0.4))),
            "multi": SettingResult(
                (task("de", None, 0.3, rank_distance=12.0), task("en", None, 0.2, rank_distance=3.5))
            ),
        },
        system="mini",
        evaluation={"model": "m", "max_length": 64},
    )


def test_one_line_per_query_language() -> None:
    assert language_rows(full()) == [
        ["query", "mono mAP", "cross mAP", "multi mAP", "rank distance ↓"],
        ["de", "0.9000", "0.3750", "0.3000", "12.0"],
        ["en", "0.8000", "0.4000", "0.2000", "3.5"],
    ]


def test_languages_of_the_top() -> None:
    assert mix_rows(full()) == [["query", "de", "en"], ["de", "0.750", "0.250"], ["en", "0.750", "0.250"]]
    assert mix_rows(system(0.5, 1.0)) == []


def test_queries_left_out_are_counted() -> None:
    assert left_out(full()) == "Left out, with no relevant passage in the corpus: 7 of 3,007 in cross."
    assert left_out(system(0.5, 1.0)) == ""


def test_the_summary_fits_a_terminal() -> None:
    every = {"rank_distance": 11234.5, "Max@R": 12345.6, "own_language_share@10": 0.125, "PEER": 0.375}
    results = full()
    multi = SettingResult((TaskResult("zh-Hant", None, 9, 0, 99, {"AP": 0.0625, **every}),))
    console = Console(file=io.StringIO(), width=80)
    console.print(summary(dataclasses.replace(results, settings={**results.settings, "multi": multi})))
    shown = console.file.getvalue()
    for value in ("0.8500", "0.3833", "0.0625", "11234.5", "12345.6", "0.125", "0.375"):
        assert f" {value} " in shown
    assert shown.count("Max@R") == 1  # of all, not by language
    assert "…" not in shown and shown.rstrip().endswith("7 of 3,007 in cross.")


def test_the_page_holds_every_table() -> None:
    text = page(full())
    assert text.startswith("# mini on help\n\n| help | mono mAP |")
    for table in (rows({"mini": full()}), language_rows(full()), mix_rows(full())):
        for line in table:
            assert f"| {' | '.join(line)} |\n" in text
    assert "7 of 3,007 in cross" in text and text.endswith("- model: m\n- max_length: 64\n")


def test_markdown() -> None:
    assert markdown({"a|b": system(0.5, 3.0)}) == (
        "| help | mono mAP | mono R@1 | multi mAP | rank distance ↓ |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| a\\|b | 0.5000 | 1.0000 | 0.2500 | 3.0 |\n"
    )


def test_the_terminal_shows_the_same_figures_in_80_characters() -> None:
    systems = {"before": system(0.5, 30.0), "after": system(0.75, 12.25)}
    console = Console(file=io.StringIO(), width=80)
    console.print(rich_table(systems))
    shown = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in console.file.getvalue().splitlines()
        if line[0] in "│┃"
    ]
    assert shown == [list(line) for line in zip(*rows(systems), strict=True)]


def test_different_collections_do_not_compare() -> None:
    with pytest.raises(ValueError, match=r"\['help', 'other'\]"):
        rows({"a": system(1.0, 1.0), "b": Results("other", {})})
