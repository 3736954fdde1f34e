"""Tables of clean and attacked measures for a terminal, from the `Results` of a run of attacks."""

import math
from collections.abc import Mapping

from rich.console import Group
from rich.table import Column, Table

from jaxretr.attack.measures import AREA, POISONED, SMALLEST, SUCCESS, WORST
from jaxretr.attack.rankings import ANSWER_SUCCESS, PROMOTED
from jaxretr.attack.victim import TOP
from jaxretr.eval.bias import BIAS_MEASURES
from jaxretr.eval.results import Results, SettingResult

# Measure -> heading. Measures of rankings have a row per attack and budget, measures of attacks a row per attack.
_OF_RANKINGS = {
    "AP": "AP",
    "nDCG@10": "nDCG@10",
    SUCCESS: f"success@{TOP} left",
    **{measure.name: measure.heading for measure in BIAS_MEASURES.values() if measure.picture},
}
_OF_ATTACKS = {
    AREA: f"area under success@{TOP}",
    SMALLEST: "smallest budget",
    PROMOTED: f"promoted to top {TOP}",
    POISONED: f"poisoned top {TOP}",
}
_MAIN = "nDCG@10"


def summary(results: Results) -> Group:
    """Return tables of ranking measures per attack and budget, of nDCG@10 by query language, and of whole attacks."""
    (found,) = results.settings.values()
    note = "each mean weights every task equally"
    if ANSWER_SUCCESS in found.measures:
        note += f"; success@{TOP} counts distinct answers"
    tables = _table(found, _OF_RANKINGS, results.collection, note), _by_language(found), _table(found, _OF_ATTACKS)
    return Group(*filter(None, tables))


def _table(found: SettingResult, headings: Mapping[str, str], title: str = "", note: str = "") -> Table | None:
    measures = found.measures
    columns = [name for name in headings if any(measure.rpartition(" ")[2] == name for measure in measures)]
    lines = {label: [measures.get(f"{label} {name}".strip()) for name in columns] for label in labels(found)}
    lines = {label: values for label, values in lines.items() if any(value is not None for value in values)}
    if not lines:
        return None
    table = Table(Column("attack", no_wrap=True), *(headings[name] for name in columns), title=title, caption=note)
    for label, values in lines.items():
        table.add_row(label or "clean", *map(_number, values))
    return table


def _by_language(found: SettingResult) -> Table | None:
    languages = sorted({task.query_language for task in found.tasks})
    shown = [label for label in labels(found) if f"{label} {_MAIN}".strip() in found.measures]
    if not shown:
        return None
    table = Table(Column("attack", no_wrap=True), *languages, title=f"{_MAIN} by language of the query")
    own = {
        language: SettingResult(tuple(task for task in found.tasks if task.query_language == language)).measures
        for language in languages
    }
    for label in shown:
        values = (own[language].get(f"{label} {_MAIN}".strip()) for language in languages)
        table.add_row(label or "clean", *map(_number, values))
    return table


def labels(found: SettingResult) -> list[str]:
    """Return the prefixes of measure names in order: "" for clean, trials, whole attacks, and the worst case last."""
    names = dict.fromkeys(measure.rpartition(" ")[0] for measure in found.tasks[0].measures)
    return sorted(names, key=lambda label: (label != "", label == WORST))


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
