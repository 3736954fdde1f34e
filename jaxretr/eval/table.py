"""Results as tables.

Input: named `Results`. Output: rich tables for a terminal, or Markdown.
"""

import math
from collections.abc import Iterable, Mapping

from rich.console import Group
from rich.table import Table

from jaxretr.eval.bias import BIAS_MEASURES, BIAS_SETTING, BiasMeasure, BiasTable
from jaxretr.eval.evaluate import MEASURES
from jaxretr.eval.results import Results, SettingResult
from jaxretr.eval.settings import SETTINGS, Setting

# The most informative of the default measures in each setting. Other measures are shown in every setting.
_SHOWN: dict[Setting, tuple[str, ...]] = {
    "mono": ("AP", "R@1", "nDCG@10"),
    "cross": ("AP", "R@1", "nDCG@10"),
    "multi": ("AP", "R@10", "nDCG@10"),
}

_CAPTION = "means over languages or pairs of languages; ↓ lower is better"

Rows = list[list[str]]
"""The heading and the rows of a table, formatted."""

_Values = Mapping[Setting, Mapping[str, float]]


def rows(systems: Mapping[str, Results]) -> Rows:
    """Return the macro averages, one row per system. Columns without a value for any system are omitted.

    Raises:
      ValueError: there are no systems, or they were evaluated on different collections, so that figures do not compare.
    """
    collections = sorted({results.collection for results in systems.values()})
    if len(collections) != 1:
        raise ValueError(f"a table compares systems on one collection, got {collections}; make a table for each")
    measures = {name: None for results in systems.values() for name in _effectiveness(results)}
    shown = _SHOWN if measures.keys() == set(MEASURES) else dict.fromkeys(SETTINGS, tuple(measures))
    lines = {
        name: {setting: setting_result.measures for setting, setting_result in results.settings.items()}
        for name, results in systems.items()
    }
    return _rows(collections[0], shown, _biases("averages"), lines)


def language_rows(results: Results) -> Rows:
    """Return one row per query language, with means over the corpora.

    The columns are the first measure in each setting, and the measures of language bias.
    """
    first = next(iter(_effectiveness(results)), "")
    languages = sorted(
        {task.query_language for setting_result in results.settings.values() for task in setting_result.tasks}
    )
    lines: dict[str, dict[Setting, dict[str, float]]] = {language: {} for language in languages}
    for setting, setting_result in results.settings.items():
        for language in {task.query_language for task in setting_result.tasks}:
            of_language = SettingResult(tuple(task for task in setting_result.tasks if task.query_language == language))
            lines[language][setting] = of_language.measures
    return _rows("query", dict.fromkeys(SETTINGS, (first,)), _biases("languages"), lines)


def mix_rows(results: Results) -> Rows:
    """Return one row per query language with the share of each passage language in the top 10 of the pool.

    The result is empty if there is no pool.
    """
    tasks = [task for setting_result in results.settings.values() for task in setting_result.tasks if task.language_mix]
    languages = sorted({language for task in tasks for language in task.language_mix})
    lines = [
        [task.query_language, *(f"{task.language_mix.get(language, 0):.3f}" for language in languages)]
        for task in tasks
    ]
    return [["query", *languages], *lines] if lines else []


def left_out(results: Results) -> str:
    """Return a sentence on the queries left out for lack of a relevant passage in the corpus; "" if there are none."""
    counts = [
        f"{setting_result.dropped:,} of {setting_result.queries + setting_result.dropped:,} in {setting}"
        for setting, setting_result in results.settings.items()
        if setting_result.dropped
    ]
    return f"Left out, with no relevant passage in the corpus: {', '.join(counts)}." if counts else ""


def rich_table(systems: Mapping[str, Results]) -> Table:
    """Return a table for the terminal with a column per system; a row per system does not fit into 80 characters."""
    return _rich([list(line) for line in zip(*rows(systems), strict=True)], _CAPTION)


def summary(results: Results) -> Group:
    """Return the terminal output of one evaluation: macro averages, each query language, queries left out."""
    tables = rich_table({results.system: results}), _rich(language_rows(results), "means over the corpora")
    return Group(*tables, *filter(None, [left_out(results)]))


def markdown(systems: Mapping[str, Results]) -> str:
    """Return the macro averages in Markdown, a row per system, for a model card or a README."""
    return _markdown(rows(systems))


def page(results: Results) -> str:
    """Return all tables of one evaluation as a Markdown page, with the options of the evaluation."""
    parts = [
        f"# {results.system} on {results.collection}",
        markdown({results.system: results}),
        f"({_CAPTION})",
        left_out(results),
        "## By query language",
        _markdown(language_rows(results)),
    ]
    if mix := mix_rows(results):
        parts += ["## Languages of the top 10 passages in the pool", _markdown(mix)]
    if results.evaluation:
        lines = "\n".join(f"- {name}: {value}" for name, value in results.evaluation.items())
        parts += ["## Evaluation", lines]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _effectiveness(results: Results) -> list[str]:
    """Return the measures of an evaluation without the measures of bias, which only `BIAS_SETTING` has."""
    names = (name for setting_result in results.settings.values() for name in setting_result.measures)
    return [name for name in dict.fromkeys(names) if name not in BIAS_MEASURES]


def _biases(table: BiasTable) -> list[BiasMeasure]:
    """Return the measures of language bias that have a column in a table."""
    return [measure for measure in BIAS_MEASURES.values() if table in measure.tables]


def _rows(
    corner: str, shown: Mapping[Setting, Iterable[str]], biases: Iterable[BiasMeasure], lines: Mapping[str, _Values]
) -> Rows:
    columns: list[tuple[str, Setting, str, int]] = [
        (f"{setting} {'mAP' if name == 'AP' else name}", setting, name, 4)
        for setting in SETTINGS
        for name in shown[setting]
    ]
    columns += [
        (f"{measure.heading}{' ↓' if measure.better == 'lower' else ''}", BIAS_SETTING, measure.name, measure.decimals)
        for measure in biases
    ]

    def value(line: _Values, setting: Setting, name: str) -> float:
        return line.get(setting, {}).get(name, math.nan)

    columns = [c for c in columns if not all(math.isnan(value(line, *c[1:3])) for line in lines.values())]
    body = [[name, *(_format(value(line, s, m), d) for _, s, m, d in columns)] for name, line in lines.items()]
    return [[corner, *(heading for heading, *_ in columns)], *body]


def _rich(rows: Rows, caption: str) -> Table:
    heading, *body = rows
    table = Table(caption=caption)
    table.add_column(heading[0], no_wrap=True)
    for cell in heading[1:]:
        table.add_column(cell, justify="right")
    for line in body:
        table.add_row(*line)
    return table


def _markdown(rows: Rows) -> str:
    heading, *body = rows
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "".join(f"| {' | '.join(cell.replace('|', r'\|') for cell in line)} |\n" for line in lines)


def _format(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"
