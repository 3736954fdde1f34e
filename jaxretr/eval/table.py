"""Results of several systems side by side: named `Results` come in, a rich or a Markdown table goes out."""

import math
from collections.abc import Mapping

from rich.table import Table

from jaxretr.eval.bias import OWN_LANGUAGE_SHARE, RANK_DISTANCE
from jaxretr.eval.results import Results
from jaxretr.eval.settings import Setting

# Heading, setting, measure, decimals. Shares and effectiveness lie in [0, 1], distances are in ranks.
_COLUMNS: tuple[tuple[str, Setting, str, int], ...] = (
    ("mono mAP", "mono", "AP", 4),
    ("mono R@1", "mono", "R@1", 4),
    ("mono nDCG@10", "mono", "nDCG@10", 4),
    ("cross mAP", "cross", "AP", 4),
    ("cross R@1", "cross", "R@1", 4),
    ("cross nDCG@10", "cross", "nDCG@10", 4),
    ("multi mAP", "multi", "AP", 4),
    ("multi R@10", "multi", "R@10", 4),
    ("multi nDCG@10", "multi", "nDCG@10", 4),
    ("rank distance ↓", "multi", RANK_DISTANCE, 1),
    ("own language @10", "multi", OWN_LANGUAGE_SHARE, 3),
)


def rows(systems: Mapping[str, Results]) -> list[list[str]]:
    """The heading and one row per system, formatted. Columns that no system has a value for are left out.

    Raises:
      ValueError: no systems, or systems evaluated on different collections, whose figures do not compare.
    """
    collections = sorted({results.collection for results in systems.values()})
    if len(collections) != 1:
        raise ValueError(f"a table compares systems on one collection, got {collections}; make a table for each")
    values = {name: [_value(results, *column[1:3]) for column in _COLUMNS] for name, results in systems.items()}
    shown = [i for i in range(len(_COLUMNS)) if any(not math.isnan(row[i]) for row in values.values())]
    heading = [collections[0], *(_COLUMNS[i][0] for i in shown)]
    return [heading, *([name, *(_format(row[i], _COLUMNS[i][3]) for i in shown)] for name, row in values.items())]


def rich_table(systems: Mapping[str, Results]) -> Table:
    """A table for the terminal: a column per system, since a row per system does not fit into 80 characters."""
    heading, *body = zip(*rows(systems), strict=True)
    table = Table(caption="means over languages or pairs of languages; ↓ lower is better")
    table.add_column(heading[0], no_wrap=True)
    for system in heading[1:]:
        table.add_column(system, justify="right")
    for line in body:
        table.add_row(*line)
    return table


def markdown(systems: Mapping[str, Results]) -> str:
    """The same figures in Markdown, a row per system, for a model card or a README."""
    heading, *body = rows(systems)
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "".join(f"| {' | '.join(cell.replace('|', r'\|') for cell in line)} |\n" for line in lines)


def _value(results: Results, setting: Setting, measure: str) -> float:
    return results.settings[setting].measures.get(measure, math.nan) if setting in results.settings else math.nan


def _format(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"
