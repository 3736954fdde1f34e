import math
import os
from dataclasses import replace
from pathlib import Path

import lxml.html
import numpy as np
import pytest
from PIL import Image

from jaxretr.eval.hardest import hardest
from jaxretr.eval.report import write_report
from jaxretr.eval.results import Results, SettingResult
from jaxretr.eval.table import language_rows
from tests.eval.report_example import HOSTILE, HOSTILE_NAME, Example, example

Page = lxml.html.HtmlElement


def written(directory: Path, found: Example) -> Page:
    path = write_report(directory, found.results, found.collection, found.top)
    assert path == directory / "report.html"
    return lxml.html.document_fromstring(path.read_bytes())


def section(page: Page, heading: str) -> Page:
    return next(h2.getparent() for h2 in page.iter("h2") if h2.text == heading)


def headings(page: Page) -> list[str]:
    return [h2.text for h2 in page.iter("h2")]


def cells(table: Page) -> list[list[str]]:
    return [[cell.text_content() for cell in row] for row in table.iter("tr")]


def without_values(results: Results) -> Results:
    settings = {
        name: SettingResult(tuple(replace(task, query_ids=(), per_query={}) for task in setting.tasks))
        for name, setting in results.settings.items()
    }
    return replace(results, settings=settings)


@pytest.fixture(scope="module")
def found() -> Example:
    return example()


@pytest.fixture(scope="module")
def directory(found: Example, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    write_report(directory, found.results, found.collection, found.top)
    return directory


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return lxml.html.document_fromstring((directory / "report.html").read_bytes())


def test_the_summary_is_the_macro_averages(found: Example, page: Page) -> None:
    effectiveness, bias = section(page, "Summary").iter("table")
    mono, cross, multi = (found.results.settings[name].measures for name in ("mono", "cross", "multi"))
    assert cells(effectiveness) == [
        ["effectiveness", "mAP", "R@1", "nDCG@10", "R@10"],
        ["monolingual", f"{mono['AP']:.4f}", f"{mono['R@1']:.4f}", f"{mono['nDCG@10']:.4f}", "–"],
        ["cross-lingual", f"{cross['AP']:.4f}", f"{cross['R@1']:.4f}", f"{cross['nDCG@10']:.4f}", "–"],
        ["multilingual", f"{multi['AP']:.4f}", "–", f"{multi['nDCG@10']:.4f}", f"{multi['R@10']:.4f}"],
    ]
    assert cells(bias)[1:] == [
        ["rank distance ↓", f"{multi['rank_distance']:.1f}"],
        ["Max@R ↓", f"{multi['Max@R']:.1f}"],
        ["own language @10", f"{multi['own_language_share@10']:.3f}"],
    ]


def test_the_heat_map_holds_every_pair(found: Example, page: Page) -> None:
    tasks = [task for name in ("mono", "cross") for task in found.results.settings[name].tasks]
    expected = [
        f"{task.measures['nDCG@10']:.2f}".removeprefix("0")
        for task in sorted(tasks, key=lambda task: (task.query_language, str(task.corpus_language)))
    ]
    (svg,) = section(page, "Pairs of languages").iter("svg")
    printed = [text.text_content().strip() for text in svg.iter("text")]
    assert [text for text in printed if text[0] in ".1"] == expected
    assert f"{max(task.measures['nDCG@10'] for task in tasks):.2f}" in svg.get("aria-label")


def test_pictures_of_bias_show_the_figures_of_the_tasks(found: Example, page: Page) -> None:
    tasks = found.results.settings["multi"].tasks
    distance, share = section(page, "Language bias").iter("svg")
    for svg, measure, form in ((distance, "rank_distance", ".0f"), (share, "own_language_share@10", ".2f")):
        printed = [text.text_content().strip() for text in svg.iter("text")]
        assert {format(task.measures[measure], form) for task in tasks} <= {*printed}
    assert "own-language share; 0.33 without bias" in share.text_content()
    (mix,) = section(page, "Languages of the top 10").iter("svg")
    assert {text.text_content().strip() for text in mix.iter("text")} >= {"ar", "de", "en"}


def test_each_language_has_its_line(found: Example, page: Page) -> None:
    (table,) = section(page, "By language of the query").iter("table")
    assert cells(table) == language_rows(found.results)


def test_hardest_queries(found: Example) -> None:
    tasks = found.results.settings["multi"].tasks
    queries = hardest(tasks, found.collection, found.top, 6)
    precision = {id: ap for task in tasks for id, ap in zip(task.query_ids, task.per_query["AP"], strict=True)}
    assert [query.average_precision for query in queries] == sorted(precision[query.query.id] for query in queries)
    assert len({query.query.key for query in queries}) == 6  # a question comes once
    assert sorted(query.query.language for query in queries) == ["ar", "ar", "de", "de", "en", "en"]
    # The language with the lowest mean comes first, so its worst query is there whatever the others hold.
    worst = min(tasks, key=lambda task: task.measures["AP"])
    assert worst.query_ids[int(np.argmin(worst.per_query["AP"]))] in {query.query.id for query in queries}
    for query in queries:
        relevant = found.collection.qrels[query.query.key]
        ranking = found.rankings[query.query.id]
        assert query.first_relevant == 1 + min(ranking.index(id) for id in relevant)
        assert [hit.passage.id for hit in query.hits] == ranking[:10]
        assert [hit.relevant for hit in query.hits] == [id in relevant for id in ranking[:10]]
        assert query.relevant == 3
        assert query.answer.id == f"{query.query.language}:p{query.query.key[1:]}"


def test_the_first_relevant_passage_below_the_top(found: Example) -> None:
    """Beyond the passages given, reciprocal rank tells; without it nothing is known but that they held none."""
    (task, *_) = found.results.settings["multi"].tasks
    short = {id: hits[:1] for id, hits in found.top.items()}
    (query, *_) = hardest([task], found.collection, short, 1)
    relevant = found.collection.qrels[query.query.key]
    expected = 1 + min(found.rankings[query.query.id].index(id) for id in relevant)
    assert expected > 1
    assert (query.first_relevant, query.depth) == (expected, 60)
    blind = replace(task, per_query={"AP": task.per_query["AP"]})
    (query, *_) = hardest([blind], found.collection, short, 1)
    assert (query.first_relevant, query.depth) == (None, 1)


def test_queries_answered_perfectly_are_not_hard(found: Example) -> None:
    tasks = [replace(t, per_query={"AP": np.ones(t.queries)}) for t in found.results.settings["multi"].tasks]
    assert hardest(tasks, found.collection, found.top, 10) == []


def test_hardest_queries_on_the_page(found: Example, page: Page) -> None:
    expected = hardest(found.results.settings["multi"].tasks, found.collection, found.top, 10)
    shown = [*section(page, "Hardest queries").iter("details")]
    assert len(shown) == len(expected) == 10
    for details, query in zip(shown, expected, strict=True):
        (asked,) = details.find_class("question")
        assert (asked.text, asked.get("lang"), asked.get("dir")) == (query.query.text, query.query.language, "auto")
        assert f"AP {query.average_precision:.3f}" in details.text_content()
        assert f"first relevant passage at rank {query.first_relevant} " in details.text_content()
        hits = [*details.iter("li")]
        assert [hit.get("class") == "relevant" for hit in hits] == [hit.relevant for hit in query.hits]
        for rank, (item, hit) in enumerate(zip(hits, query.hits, strict=True), 1):
            assert [span.text for span in item.iter("span")][:3] == [
                str(rank),
                hit.passage.language,
                f"{hit.score:.3f}",
            ]
            (text,) = item.iter("p")
            assert (text.text, text.get("lang"), text.get("dir")) == (hit.passage.text, hit.passage.language, "auto")


def test_how_it_was_evaluated(page: Page) -> None:
    settings, options = section(page, "How it was evaluated").iter("table")
    assert cells(settings)[1:] == [
        ["monolingual", "3", "36", "0", "20"],
        ["cross-lingual", "6", "72", "0", "20"],
        ["multilingual", "3", "36", "0", "60"],
    ]
    assert cells(options)[1:] == [["model", "runs/base/model"], ["max_length", "128"]]
    assert "36 queries in 3 languages, 60 passages in 3 languages" in page.text_content()


def test_texts_are_text(page: Page) -> None:
    assert page.findtext(".//title") == page.findtext(".//h1") == "base <1> on Rivers & <capitals>"
    assert HOSTILE in page.text_content()
    assert not [*page.iter("script", "b")]


def test_hostile_names_are_text(tmp_path: Path, found: Example) -> None:
    collection = replace(
        found.collection, queries=tuple(replace(q, text=HOSTILE_NAME) for q in found.collection.queries)
    )
    options = {HOSTILE_NAME: HOSTILE_NAME}
    results = replace(found.results, system=HOSTILE_NAME, collection=HOSTILE_NAME, evaluation=options)
    page = written(tmp_path, replace(found, results=results, collection=collection))
    assert page.findtext(".//title") == page.findtext(".//h1") == f"{HOSTILE_NAME} on {HOSTILE_NAME}"
    assert {question.text for question in page.find_class("question")} == {HOSTILE_NAME}
    assert cells([*section(page, "How it was evaluated").iter("table")][-1])[1:] == [[HOSTILE_NAME, HOSTILE_NAME]]
    assert not [*page.iter("script", "img")] and not page.xpath("//@onerror")


def test_the_page_needs_nothing_else(directory: Path, page: Page) -> None:
    addresses = [*page.xpath("//@src"), *page.xpath("//@href"), *page.xpath("//@*[name()='xlink:href']")]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    text = (directory / "report.html").read_text("utf-8")
    assert "@import" not in text
    assert text.count("url(") == text.count("url(#")


def test_accessible_names(page: Page) -> None:
    assert page.get("lang") == "en"
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in page.iter("svg"))
    assert {cell.get("scope") for cell in page.iter("th")} == {"col", "row"}
    assert all(cell.text_content() for cell in page.iter("th"))
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))


def test_plots_are_pictures(directory: Path) -> None:
    names = {"pairs.png", "rank_distance.png", "own_language.png", "languages.png"}
    assert {file.name for file in (directory / "plots").iterdir()} == names
    for name in names:
        image = Image.open(directory / "plots" / name)
        assert np.ptp(np.asarray(image.convert("L"))) > 150
    assert {file.name for file in directory.iterdir()} == {"plots", "report.html"}


@pytest.mark.parametrize("languages", [("en",), ("ar", "en")])
def test_a_monolingual_evaluation(tmp_path: Path, languages: tuple[str, ...]) -> None:
    page = written(tmp_path, example(languages, ["mono"]))
    several = ["By language of the query"] if len(languages) > 1 else []
    assert headings(page) == ["Summary", *several, "Hardest queries", "How it was evaluated"]
    assert "PEER" not in page.text_content() and not [*page.iter("svg")]
    assert not (tmp_path / "plots").exists()


def test_cross_lingual_alone_has_no_diagonal(tmp_path: Path) -> None:
    page = written(tmp_path, example(settings=["cross"]))
    assert headings(page) == ["Summary", "Pairs of languages", "By language of the query", "How it was evaluated"]
    assert section(page, "Pairs of languages").text_content().count("–") == 3


def test_saved_results_make_the_same_page(tmp_path: Path, found: Example, directory: Path) -> None:
    found.results.save(tmp_path)
    write_report(tmp_path, Results.load(tmp_path), found.collection, found.top)
    assert (tmp_path / "report.html").read_bytes() == (directory / "report.html").read_bytes()


def test_without_values_per_query_there_are_no_hardest_queries(tmp_path: Path, found: Example) -> None:
    page = written(tmp_path, replace(found, results=without_values(found.results), top={}))
    assert "Hardest queries" not in headings(page) and "Language bias" in headings(page)


def test_undefined_bias(tmp_path: Path, found: Example) -> None:
    """With one relevant passage to a question there is no distance: a dash, and no picture of nothing but dashes."""

    def bias_without(count: int) -> Page:
        tasks = found.results.settings["multi"].tasks
        some = [replace(task, measures=task.measures | {"rank_distance": math.nan}) for task in tasks[:count]]
        settings = found.results.settings | {"multi": SettingResult((*some, *tasks[count:]))}
        results = replace(found.results, settings=settings)
        return section(written(tmp_path, replace(found, results=results)), "Language bias")

    assert [svg.text_content().count("–") for svg in bias_without(1).iter("svg")] == [1, 0]
    assert ["own-language" in svg.text_content() for svg in bias_without(3).iter("svg")] == [True]


def test_top_passages_of_another_evaluation_are_refused(tmp_path: Path, found: Example) -> None:
    with pytest.raises(ValueError, match="no top passages for the query"):
        write_report(tmp_path, found.results, found.collection, {})
    foreign = {id: [replace(hit, passage_id="fr:p1") for hit in hits] for id, hits in found.top.items()}
    with pytest.raises(ValueError, match="has no passage 'fr:p1'"):
        write_report(tmp_path, found.results, found.collection, foreign)
    assert not [*tmp_path.iterdir()]


def test_a_failure_leaves_the_last_page(tmp_path: Path, found: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("the last one")

    def fail(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, found.results, found.collection, found.top)
    assert (tmp_path / "report.html").read_text() == "the last one"
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "report.html"]
