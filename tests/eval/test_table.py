import io
import math

import pytest
from rich.console import Console

from jaxretr.eval.results import Results, SettingResult, TaskResult
from jaxretr.eval.table import markdown, rich_table, rows


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
