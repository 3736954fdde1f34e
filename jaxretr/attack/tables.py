"""Clean and attacked measures as tables for a terminal: `Results` of a run of attacks come in."""

import math

from rich.console import Group
from rich.table import Table

from jaxretr.attack.robustness import AREA, PROMOTED, SMALLEST, SUCCESS, WORST
from jaxretr.attack.transfer import POISONED
from jaxretr.eval.results import Results, SettingResult

_SHOWN = ("AP", "nDCG@10", SUCCESS, PROMOTED, POISONED, "own_language_share@10", "rank_distance", AREA, SMALLEST)
_MAIN = "nDCG@10"


def summary(results: Results) -> Group:
    """A line for each attack, means over languages; then the main measure for each query language."""
    (found,) = results.settings.values()
    return Group(_averages(found, results.collection), *_by_language(found))


def _averages(found: SettingResult, collection: str) -> Table:
    measures = found.measures
    columns = [name for name in _SHOWN if any(measure.rpartition(" ")[2] == name for measure in measures)]
    table = Table("attack", *columns, title=collection, caption="means over tasks, each of which counts alike")
    for label in labels(found):
        table.add_row(label or "clean", *(_number(measures.get(f"{label} {name}".strip())) for name in columns))
    return table


def _by_language(found: SettingResult) -> list[Table]:
    languages = sorted({task.query_language for task in found.tasks})
    shown = [label for label in labels(found) if f"{label} {_MAIN}".strip() in found.measures]
    if not shown:
        return []
    table = Table("attack", *languages, title=f"{_MAIN} by language of the query")
    own = {
        language: SettingResult(tuple(task for task in found.tasks if task.query_language == language)).measures
        for language in languages
    }
    for label in shown:
        values = (own[language].get(f"{label} {_MAIN}".strip()) for language in languages)
        table.add_row(label or "clean", *map(_number, values))
    return [table]


def labels(found: SettingResult) -> list[str]:
    """What measures begin with, in their order: "" for the clean ones, trials, attacks as a whole, the worst case."""
    names = dict.fromkeys(measure.rpartition(" ")[0] for measure in found.tasks[0].measures)
    return sorted(names, key=lambda label: (label != "", label == WORST))


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
