"""An evaluation as one HTML page, `report.html`.

Input: `Results`, their collection and the top passages. Output: a self-contained page without scripts, and its pictures
as PNG in `plots/`. A section without data is omitted.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import chain

import numpy as np

from jaxretr.eval import plots
from jaxretr.eval.bias import OWN_LANGUAGE_SHARE, RANK_DISTANCE
from jaxretr.eval.hardest import HardQuery, Hit, hardest
from jaxretr.eval.measures import DEPTH
from jaxretr.eval.page import Picture, section, table, write_page
from jaxretr.eval.results import Results, TaskResult
from jaxretr.eval.settings import Setting
from jaxretr.eval.table import language_rows, rows
from jaxretr.files import AnyPath
from jaxretr.types import RetrievalSet, ScoredPassage

Top = Mapping[str, Sequence[ScoredPassage]]
"""Id of a query -> its first passages, best first."""

_HARDEST = 10  # number of queries shown
_CHARACTERS = 400  # characters of a passage that are shown
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
    asked, read = {query.language for query in collection.queries}, set(collection.passage_languages)
    hardest_queries = _hardest_queries(results, collection, top)
    pictures = _pictures(results, len(read))
    sections = [
        _summary(results),
        *(section(heading, "".join(picture.html() for picture in some)) for heading, some in pictures.items()),
        _by_language(results),
        hardest_queries,
        _method(results),
    ]
    return write_page(
        directory,
        title=f"{results.system} on {results.collection}" if results.system else results.collection,
        subtitle=f"{len(collection.queries):,} queries in {_languages(asked)}, "
        f"{len(collection.passages):,} passages in {_languages(read)}",
        sections=sections,
        pictures=chain.from_iterable(pictures.values()),
    )


def _summary(results: Results) -> str:
    """Return the macro averages: a table of settings by measures, and a table of language bias."""
    heading, values = rows({results.system: results})
    by_setting: dict[Setting, dict[str, str]] = {setting: {} for setting in results.settings}
    bias: list[list[str]] = []
    for name, value in zip(heading[1:], values[1:], strict=True):
        setting = next((setting for setting in by_setting if name.startswith(f"{setting} ")), None)
        if setting:
            by_setting[setting][name.removeprefix(f"{setting} ")] = value
        else:
            bias.append([name, value])
    measures = [*dict.fromkeys(measure for row in by_setting.values() for measure in row)]
    body = [[_SETTINGS[s][0], *(row.get(m, "–") for m in measures)] for s, row in by_setting.items()]
    tables = table(["effectiveness", *measures], body, "headline")
    if bias:
        tables += table(["language bias", "mean"], bias, "headline")
    note = "Means over languages, or over pairs of languages, each of which counts alike."
    return section("Summary", f'<div class="side">{tables}</div><p class="meta">{note}</p>')


def _pictures(results: Results, languages: int) -> dict[str, list[Picture]]:
    """Return the pictures under each heading; `languages` is the number of passage languages."""
    pictures = {}
    if "cross" in results.settings:
        pictures["Pairs of languages"] = [_heat_map(results)]
    if "multi" in results.settings:
        tasks = results.settings["multi"].tasks
        if bias := _bias(tasks, languages):
            pictures["Language bias"] = bias
        if any(task.language_mix for task in tasks):
            pictures["Languages of the top 10"] = [_mix(tasks)]
    return pictures


def _heat_map(results: Results) -> Picture:
    tasks = [task for name in ("cross", "mono") if name in results.settings for task in results.settings[name].tasks]
    measure = next(name for name in ("nDCG@10", "AP", *tasks[0].measures) if name in tasks[0].measures)
    values = {(task.query_language, str(task.corpus_language)): task.measures[measure] for task in tasks}
    asked, read = (sorted({pair[side] for pair in values}) for side in (0, 1))
    low, high = min(values, key=lambda pair: values[pair]), max(values, key=lambda pair: values[pair])
    return Picture(
        "pairs",
        plots.heat_map(np.array([[values.get((q, p), math.nan) for p in read] for q in asked]), asked, read),
        f"{measure} by language of the queries and of the passages: lowest, {values[low]:.2f}, for queries in {low[0]} "
        f"and passages in {low[1]}; highest, {values[high]:.2f}, for queries in {high[0]} and passages in {high[1]}.",
        f"{escape(measure)} of queries in one language against passages in one language. Darker is better. Bold: "
        "queries and passages share their language.",
    )


def _bias(tasks: Sequence[TaskResult], languages: int) -> list[Picture]:
    asked = [task.query_language for task in tasks]
    distance, share = (
        np.array([task.measures.get(measure, math.nan) for task in tasks])
        for measure in (RANK_DISTANCE, OWN_LANGUAGE_SHARE)
    )
    pictures = []
    if not np.isnan(distance).all():
        alternative = "Rank distance by language of the queries; the figures are in the table by language."
        caption = (
            "Rank distance: how many ranks lie between the first and the last relevant passage of a query, in the pool "
            "of all languages. Small where translations rank next to each other."
        )
        figure = plots.bars(distance, asked, "rank distance", 0)
        pictures.append(Picture("rank_distance", figure, alternative, caption))
    if not np.isnan(share).all():
        alternative = "Share of the query's own language in the top 10; the figures are in the table by language."
        caption = (
            "Share of the top 10 that is in the query's own language. Without bias it is "
            f"1/{languages} where all languages hold the same passages."
        )
        title = f"own-language share; {1 / languages:.2f} without bias"
        figure = plots.bars(share, asked, title, 2, expected=1 / languages)
        pictures.append(Picture("own_language", figure, alternative, caption))
    return pictures


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
        "Languages of the first ten passages, for queries of each language. The query's own language stands out.",
    )


def _by_language(results: Results) -> str:
    heading, *body = language_rows(results)
    note = '<p class="meta">Means over the corpora.</p>'
    return section("By language of the query", table(heading, body) + note) if len(body) > 1 else ""


def _hardest_queries(results: Results, collection: RetrievalSet, top: Top) -> str:
    setting: Setting | None = next((name for name in ("multi", "mono") if name in results.settings), None)
    queries = hardest(results.settings[setting].tasks, collection, top, _HARDEST) if setting else []
    if not setting or not queries:
        return ""
    note = (
        f"The lowest average precision (AP) in the {_SETTINGS[setting][0]} setting, from each language in turn; a "
        f"question comes once. Passages are cut after {_CHARACTERS} characters."
    )
    return section(
        "Hardest queries", f"<p>{note}</p>" + "".join(_hard(query, query is queries[0]) for query in queries)
    )


def _hard(found: HardQuery, is_open: bool) -> str:
    query, answer = found.query, found.answer
    first = f"at rank {found.first_relevant:,}" if found.first_relevant else f"not in the first {found.depth:,}"
    hits = "".join(
        f'<li class="relevant">{_hit(rank, hit)}</li>' if hit.relevant else f"<li>{_hit(rank, hit)}</li>"
        for rank, hit in enumerate(found.hits, 1)
    )
    return f"""<details{" open" if is_open else ""}>
<summary>
<span>{escape(query.language)}</span>{_text(query.text, query.language, "question")}
<span class="meta">AP {found.average_precision:.3f} · first relevant passage {first} · {found.relevant} relevant</span>
</summary>
<ol>{hits}</ol>
<div class="answer"><span class="yes">relevant, {escape(answer.language)}</span>
{_text(answer.full_text, answer.language)}</div>
</details>"""


def _hit(rank: int, hit: Hit) -> str:
    relevant = '<span class="yes">relevant</span>' if hit.relevant else ""
    language = escape(hit.passage.language)
    text = _text(hit.passage.full_text, hit.passage.language)
    return f"<span>{rank}</span><span>{language}</span><span>{hit.score:.3f}</span>{relevant}{text}"


def _method(results: Results) -> str:
    settings = []
    for name, setting in results.settings.items():
        smallest, largest = (f"{extreme(task.passages for task in setting.tasks):,}" for extreme in (min, max))
        passages = smallest if smallest == largest else f"{smallest}–{largest}"
        counts = [f"{count:,}" for count in (len(setting.tasks), setting.queries, setting.dropped)]
        settings.append([_SETTINGS[name][0], *counts, passages])
    names = "; ".join(f"{_SETTINGS[name][0]}, {_SETTINGS[name][1]}" for name in results.settings)
    notes = [
        f"A task is the queries of one language against one corpus: {names}. A query counts once per task. Dropped are "
        "queries to which nothing in the corpus is relevant.",
        "A figure of a setting is the mean over its tasks; a figure of a task is the mean over its queries. Every "
        f"passage of the corpus is scored; the measures are defined as in trec_eval and see the first {DEPTH:,} ranks.",
    ]
    if "multi" in results.settings:
        notes.append(
            "Max@R is the rank of the last relevant passage in the pool. PEER is the p-value of the hypothesis that "
            "relevant passages of all languages have the same expected rank; higher is fairer."
        )
    content = table(["setting", "tasks", "queries", "dropped", "passages per task"], settings)
    content += "".join(f"<p>{note}</p>" for note in notes)
    if results.evaluation:
        content += table(
            ["option", "value"], [[name, str(value)] for name, value in results.evaluation.items()], "words"
        )
    return section("How it was evaluated", content)


def _text(text: str, language: str, css: str = "") -> str:
    """Return a text as HTML with its language and direction, truncated to `_CHARACTERS` characters."""
    short = text if len(text) <= _CHARACTERS else text[:_CHARACTERS].rstrip() + "…"
    return f'<p class="{css}" lang="{escape(language)}" dir="auto">{escape(short)}</p>'


def _languages(languages: Collection[str]) -> str:
    return f"{len(languages)} language{'s' if len(languages) != 1 else ''}"
