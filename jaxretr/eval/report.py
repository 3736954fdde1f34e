"""An evaluation as one HTML page: `Results`, their collection and the top passages come in, `report.html` goes out.

The page needs nothing but itself, neither files nor scripts. Its pictures also go out as PNG, into `plots/`. A section
without data is left out.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import chain
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.figure import Figure

from jaxretr.eval import plots
from jaxretr.eval.bias import OWN_LANGUAGE_SHARE, RANK_DISTANCE
from jaxretr.eval.hardest import HardQuery, Hit, hardest
from jaxretr.eval.measures import DEPTH
from jaxretr.eval.results import Results, TaskResult
from jaxretr.eval.settings import Setting
from jaxretr.eval.table import language_rows, rows
from jaxretr.files import replaced_file
from jaxretr.types import RetrievalSet, ScoredPassage

Top = Mapping[str, Sequence[ScoredPassage]]
"""Id of a query -> its first passages, best first."""

_HARDEST = 10  # queries shown
_CHARACTERS = 400  # shown of a passage
_SETTINGS: dict[Setting, tuple[str, str]] = {
    "mono": ("monolingual", "passages in the language of the query"),
    "cross": ("cross-lingual", "passages in one other language"),
    "multi": ("multilingual", "passages of all languages in one pool"),
}


@dataclass(frozen=True)
class _Picture:
    """A figure and its words; `name` is that of its file."""

    name: str
    figure: Figure
    alternative: str
    caption: str

    def html(self) -> str:
        svg = plots.svg(self.figure, self.name, self.alternative)
        return f"<figure>{_scroll(svg)}<figcaption>{self.caption}</figcaption></figure>"


def write_report(directory: Path, results: Results, collection: RetrievalSet, top: Top) -> Path:
    """Writes `report.html` and `plots/*.png` into `directory`, each whole or not at all.

    Args:
      directory: made if it does not exist.
      results: the evaluation. Without its values per query, the page shows no hardest queries.
      collection: what was evaluated on.
      top: for each query of the setting `multi`, or `mono` if there is no `multi`, its first ten passages.

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
        *(_section(heading, "".join(picture.html() for picture in some)) for heading, some in pictures.items()),
        _by_language(results),
        hardest_queries,
        _method(results),
    ]
    page = Template(resources.files("jaxretr.eval").joinpath("report.html").read_text("utf-8")).substitute(
        title=escape(f"{results.system} on {results.collection}" if results.system else results.collection),
        subtitle=f"{len(collection.queries):,} queries in {_languages(asked)}, "
        f"{len(collection.passages):,} passages in {_languages(read)}",
        palette=" ".join(f"--{name}: {value};" for name, value in plots.PALETTE.items()),
        sections="\n".join(filter(None, sections)),
    )
    for picture in chain.from_iterable(pictures.values()):
        with replaced_file(directory / "plots" / f"{picture.name}.png") as partial:
            partial.write_bytes(plots.png(picture.figure))
    path = directory / "report.html"
    with replaced_file(path) as partial:
        partial.write_text(page, "utf-8")
    return path


def _summary(results: Results) -> str:
    """The macro averages: a table of settings by measures, and one of language bias."""
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
    tables = _table(["effectiveness", *measures], body, "headline")
    if bias:
        tables += _table(["language bias", "mean"], bias, "headline")
    note = "Means over languages, or over pairs of languages, each of which counts alike."
    return _section("Summary", f'<div class="side">{tables}</div><p class="meta">{note}</p>')


def _pictures(results: Results, languages: int) -> dict[str, list[_Picture]]:
    """Headings and what stands below them; `languages` is how many the passages have."""
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


def _heat_map(results: Results) -> _Picture:
    tasks = [task for name in ("cross", "mono") if name in results.settings for task in results.settings[name].tasks]
    measure = next(name for name in ("nDCG@10", "AP", *tasks[0].measures) if name in tasks[0].measures)
    values = {(task.query_language, str(task.corpus_language)): task.measures[measure] for task in tasks}
    asked, read = (sorted({pair[side] for pair in values}) for side in (0, 1))
    low, high = min(values, key=lambda pair: values[pair]), max(values, key=lambda pair: values[pair])
    return _Picture(
        "pairs",
        plots.heat_map(np.array([[values.get((q, p), math.nan) for p in read] for q in asked]), asked, read),
        f"{measure} by language of the queries and of the passages: lowest, {values[low]:.2f}, for queries in {low[0]} "
        f"and passages in {low[1]}; highest, {values[high]:.2f}, for queries in {high[0]} and passages in {high[1]}.",
        f"{escape(measure)} of queries in one language against passages in one language. Darker is better. Bold: "
        "queries and passages share their language.",
    )


def _bias(tasks: Sequence[TaskResult], languages: int) -> list[_Picture]:
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
        pictures.append(_Picture("rank_distance", figure, alternative, caption))
    if not np.isnan(share).all():
        alternative = "Share of the query's own language in the top 10; the figures are in the table by language."
        caption = (
            "Share of the top 10 that is in the query's own language. Without bias it is "
            f"1/{languages} where all languages hold the same passages."
        )
        title = f"own-language share; {1 / languages:.2f} without bias"
        figure = plots.bars(share, asked, title, 2, expected=1 / languages)
        pictures.append(_Picture("own_language", figure, alternative, caption))
    return pictures


def _mix(tasks: Sequence[TaskResult]) -> _Picture:
    languages = sorted({language for task in tasks for language in task.language_mix})
    return _Picture(
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
    return _section("By language of the query", _table(heading, body) + note) if len(body) > 1 else ""


def _hardest_queries(results: Results, collection: RetrievalSet, top: Top) -> str:
    setting: Setting | None = next((name for name in ("multi", "mono") if name in results.settings), None)
    queries = hardest(results.settings[setting].tasks, collection, top, _HARDEST) if setting else []
    if not setting or not queries:
        return ""
    note = (
        f"The lowest average precision (AP) in the {_SETTINGS[setting][0]} setting, from each language in turn; a "
        f"question comes once. Passages are cut after {_CHARACTERS} characters."
    )
    return _section(
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
        "A figure of a setting is the mean over its tasks, that of a task the mean over its queries. Every passage of "
        f"the corpus is scored; the measures are those of trec_eval and see the first {DEPTH:,} ranks.",
    ]
    if "multi" in results.settings:
        notes.append(
            "Max@R is the rank of the last relevant passage in the pool. PEER is the p-value of the hypothesis that "
            "relevant passages of all languages have the same expected rank; higher is fairer."
        )
    content = _table(["setting", "tasks", "queries", "dropped", "passages per task"], settings)
    content += "".join(f"<p>{note}</p>" for note in notes)
    if results.evaluation:
        content += _table(
            ["option", "value"], [[name, str(value)] for name, value in results.evaluation.items()], "words"
        )
    return _section("How it was evaluated", content)


def _text(text: str, language: str, css: str = "") -> str:
    """A text in its own language and direction, cut to a bearable length."""
    short = text if len(text) <= _CHARACTERS else text[:_CHARACTERS].rstrip() + "…"
    return f'<p class="{css}" lang="{escape(language)}" dir="auto">{escape(short)}</p>'


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>"


def _table(heading: Sequence[str], body: Sequence[Sequence[str]], css: str = "") -> str:
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heading)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in body
    )
    return _scroll(f'<table class="{css}"><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>')


def _scroll(content: str) -> str:
    """What may be wider than the page scrolls by itself, with the keyboard too."""
    return f'<div class="scroll" tabindex="0">{content}</div>'


def _languages(languages: Collection[str]) -> str:
    return f"{len(languages)} language{'s' if len(languages) != 1 else ''}"
