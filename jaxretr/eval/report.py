"""Write an evaluation as one HTML page, `report.html`.

Input: `Results`, their collection and the top passages of each query. Output: a self-contained page without scripts,
and its pictures as PNG in `plots/`. The template `eval/report.html` holds the markup and the prose; it omits sections
without data.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from jaxretr.eval import plots
from jaxretr.eval.bias import BIAS_MEASURES
from jaxretr.eval.hardest import hardest
from jaxretr.eval.measures import DEPTH
from jaxretr.eval.page import Picture, write_page
from jaxretr.eval.results import Results, TaskResult
from jaxretr.eval.settings import Setting
from jaxretr.eval.table import Rows, language_rows, rows
from jaxretr.files import AnyPath
from jaxretr.types import RetrievalSet, ScoredPassage

Top = Mapping[str, Sequence[ScoredPassage]]
"""Id of a query -> its first passages, best first."""

_HARDEST = 10  # number of queries shown
_SETTINGS: dict[Setting, tuple[str, str]] = {
    "mono": ("monolingual", "passages in the language of the query"),
    "cross": ("cross-lingual", "passages in one other language"),
    "multi": ("multilingual", "passages of all languages in one pool"),
}


def write_report(directory: AnyPath, results: Results, collection: RetrievalSet, top: Top) -> AnyPath:
    """Write `report.html` and `plots/*.png` into `directory`; each file is written atomically.

    Args:
      directory: output directory; created if absent.
      results: the evaluation. If it has no values per query, the page shows no hardest queries.
      collection: the evaluated collection.
      top: the first ten passages of each query, from the setting `multi`, or from `mono` if there is no `multi`.

    Returns:
      The path of the page.

    Raises:
      ValueError: `top` lacks a query, or names a passage that the collection lacks.
    """
    query_languages, passage_languages = {q.language for q in collection.queries}, set(collection.passage_languages)
    setting: Setting | None = next((name for name in ("multi", "mono") if name in results.settings), None)
    options = [[name, str(value)] for name, value in results.evaluation.items()]
    return write_page(
        directory,
        "eval/report.html",
        _pictures(results, len(passage_languages)),
        title=f"{results.system} on {results.collection}" if results.system else results.collection,
        subtitle=f"{len(collection.queries):,} queries in {_languages(query_languages)}, "
        f"{len(collection.passages):,} passages in {_languages(passage_languages)}",
        summary=_summary(results),
        by_language=language_rows(results),
        hardest=hardest(results.settings[setting].tasks, collection, top, _HARDEST) if setting else [],
        hardest_setting=_SETTINGS[setting][0] if setting else "",
        tasks=_tasks(results),
        settings=[_SETTINGS[name] for name in results.settings],
        depth=DEPTH,
        bias_measures=[m for m in BIAS_MEASURES.values() if "averages" in m.tables and "multi" in results.settings],
        options=[["option", "value"], *options] if options else [],
    )


def _summary(results: Results) -> list[Rows]:
    """Return the macro averages: a table of settings by measures, and a table of language bias if there is any."""
    heading, values = rows({results.system: results})
    by_setting: dict[Setting, dict[str, str]] = {setting: {} for setting in results.settings}
    bias: Rows = []
    for name, value in zip(heading[1:], values[1:], strict=True):
        setting = next((setting for setting in by_setting if name.startswith(f"{setting} ")), None)
        if setting:
            by_setting[setting][name.removeprefix(f"{setting} ")] = value
        else:
            bias.append([name, value])
    measures = [*dict.fromkeys(measure for row in by_setting.values() for measure in row)]
    body = [[_SETTINGS[s][0], *(row.get(m, "–") for m in measures)] for s, row in by_setting.items()]
    effectiveness = [["effectiveness", *measures], *body]
    return [effectiveness, [["language bias", "mean"], *bias]] if bias else [effectiveness]


def _pictures(results: Results, languages: int) -> dict[str, Iterable[Picture]]:
    """Return the pictures of each section; `languages` is the number of passage languages."""
    tasks = results.settings["multi"].tasks if "multi" in results.settings else ()
    return {
        "pairs": [_heat_map(results)] if "cross" in results.settings else [],
        "bias": _bias(tasks, languages) if tasks else [],
        "mix": [_mix(tasks)] if any(task.language_mix for task in tasks) else [],
    }


def _heat_map(results: Results) -> Picture:
    tasks = [task for name in ("cross", "mono") if name in results.settings for task in results.settings[name].tasks]
    measure = next(name for name in ("nDCG@10", "AP", *tasks[0].measures) if name in tasks[0].measures)
    values = {(task.query_language, str(task.corpus_language)): task.measures[measure] for task in tasks}
    query_languages, passage_languages = (sorted({pair[side] for pair in values}) for side in (0, 1))
    matrix = np.array([[values.get((q, p), math.nan) for p in passage_languages] for q in query_languages])
    low, high = min(values, key=lambda pair: values[pair]), max(values, key=lambda pair: values[pair])
    return Picture(
        "pairs",
        plots.heat_map(matrix, query_languages, passage_languages),
        f"{measure} by language of the queries and of the passages: lowest, {values[low]:.2f}, for queries in {low[0]} "
        f"and passages in {low[1]}; highest, {values[high]:.2f}, for queries in {high[0]} and passages in {high[1]}.",
        f"{measure} for queries in one language against passages in one language. Darker is better. Bold: queries and "
        "passages have the same language.",
    )


def _bias(tasks: Sequence[TaskResult], passage_languages: int) -> Iterator[Picture]:
    languages = [task.query_language for task in tasks]
    for measure in BIAS_MEASURES.values():
        values = np.array([task.measures.get(measure.name, math.nan) for task in tasks])
        if not measure.picture or np.isnan(values).all():
            continue
        title = measure.picture
        caption = f"{title.capitalize()}: {measure.meaning}, in the pool of all languages."
        unbiased = None
        if measure.better == "neither":
            unbiased = 1 / passage_languages
            caption += f" If all languages hold the same passages, it is 1/{passage_languages} without bias."
            title += f"; {unbiased:.2f} without bias"
        figure = plots.bars(values, languages, title, measure.decimals - 1, expected=unbiased)
        name = measure.picture.removesuffix(" share").replace("-", "_").replace(" ", "_")
        alternative = (
            f"{measure.picture.capitalize()} by language of the queries; the table by language lists the values."
        )
        yield Picture(name, figure, alternative, caption)


def _mix(tasks: Sequence[TaskResult]) -> Picture:
    languages = sorted({language for task in tasks for language in task.language_mix})
    return Picture(
        "languages",
        plots.language_mix(
            np.array([[task.language_mix.get(language, 0.0) for language in languages] for task in tasks]),
            [task.query_language for task in tasks],
            languages,
        ),
        "Shares of the passages' languages in the top 10, by language of the queries.",
        "Languages of the top 10 passages, by language of the queries. The query's own language is highlighted.",
    )


def _tasks(results: Results) -> Rows:
    """Return the number and size of the tasks in each setting."""
    heading = ["setting", "tasks", "queries", "dropped", "passages per task"]
    body = []
    for name, setting in results.settings.items():
        smallest, largest = (f"{extreme(task.passages for task in setting.tasks):,}" for extreme in (min, max))
        passages = smallest if smallest == largest else f"{smallest}–{largest}"
        counts = [f"{count:,}" for count in (len(setting.tasks), setting.queries, setting.dropped)]
        body.append([_SETTINGS[name][0], *counts, passages])
    return [heading, *body]


def _languages(languages: Collection[str]) -> str:
    return f"{len(languages)} language{'s' if len(languages) != 1 else ''}"
