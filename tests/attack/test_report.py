import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import lxml.html
import numpy as np
import pytest
from PIL import Image

from jaxretr.attack.record import AdversarialText, Record, save_texts
from jaxretr.attack.report.page import write_report
from jaxretr.attack.report.pictures import pooled_radius
from jaxretr.attack.report.strings import strongest
from jaxretr.attack.report.system import System, check_comparable
from jaxretr.eval.results import Results, SettingResult
from tests.attack.report_example import BUDGETS, HOSTILE, LANGUAGES, STRENGTHS, example, radii, systems
from tests.eval.report_example import HOSTILE_NAME

SCRIPT = Path(__file__).parents[2] / "scripts" / "report_attacks.py"
BIDI = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
Page = lxml.html.HtmlElement


def written(directory: Path, of: list[System]) -> Page:
    return lxml.html.document_fromstring(write_report(directory, of).read_bytes())


def section(page: Page, heading: str) -> Page:
    return next(h2.getparent() for h2 in page.iter("h2") if h2.text == heading)


def headings(page: Page) -> list[str]:
    return [h2.text for h2 in page.iter("h2")]


def tables(part: Page) -> dict[str, dict[str, list[str]]]:
    """First heading of each table -> first cell -> the other cells of its row."""
    found = {}
    for table in part.iter("table"):
        rows = [[cell.text_content() for cell in row] for row in table.iter("tr")]
        found[rows[0][0]] = {row[0]: row[1:] for row in rows[1:]}
    return found


def printed(svg: Page) -> set[str]:
    return {text.text_content().strip() for text in svg.iter("text")}


def changed(of: System, **changes: object) -> System:
    return dataclasses.replace(of, record=dataclasses.replace(of.record, **changes))


@pytest.fixture(scope="module")
def two() -> list[System]:
    return [example(), example("hybrid", 2.0, seed=1)]


@pytest.fixture(scope="module")
def directory(two: list[System], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    write_report(directory, two)
    return directory


@pytest.fixture(scope="module")
def page(directory: Path) -> Page:
    return lxml.html.document_fromstring((directory / "report.html").read_bytes())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(tmp_path_factory.mktemp("alone"), systems(1))


def test_the_summary_follows_from_the_values_per_query(two: list[System], page: Page) -> None:
    shown = tables(section(page, "Summary"))
    for measure, name in (("AP", "mAP"), ("nDCG@10", "nDCG@10")):
        for i, system in enumerate(two):
            clean = np.mean([task.per_query[measure].mean() for task in system.tasks])
            assert shown[name]["clean"][i] == f"{clean:.3f}"
            for label, row in (("pgd@0.1", "pgd@0.1"), ("typos@1", "typos@1"), ("worst", "worst case")):
                before, after = [], []
                for task in system.tasks:
                    attacked = task.per_query[f"{label} {measure}"]
                    before.append(task.per_query[measure][~np.isnan(attacked)].mean())
                    after.append(np.nanmean(attacked))
                drop = np.mean(after) - np.mean(before)
                expected = f"{np.mean(after):.3f} ({drop:.3f}, {drop / np.mean(before):.0%})"
                assert shown[name][row][i] == expected.replace("-", "−").replace("%", " %")
    assert shown["forward passes per query"] == {
        "pgd@0.1": ["62", "62"],
        "typos@1": ["33", "33"],
        "unicode@1": ["33", "33"],
        "worst case": ["128", "128"],
    }


def test_robust_success_area_and_budget_follow_from_the_radii(two: list[System], page: Page) -> None:
    shown = tables(section(page, "Summary"))
    for i, system in enumerate(two):
        of_task = [radius[~np.isnan(radius)] for radius in radii(system).values()]
        success = np.mean([np.mean(radius > 0.1) for radius in of_task])
        assert shown["robust success@10"]["pgd@0.1"][i] == f"{success:.3f}"
        for attack, strength in STRENGTHS.items():
            needed = np.concatenate(of_task) / strength
            smallest = [next((b for b in BUDGETS if b >= one), np.inf) for one in needed]
            median = np.median(smallest)
            expected = f"ρ {median:g}" if np.isfinite(median) else "> ρ 1"
            assert shown["median smallest budget"][attack][i] == expected
            curves = [np.mean(radius[None] > np.array(BUDGETS)[:, None] * strength, axis=1) for radius in of_task]
            at = np.log(BUDGETS)
            area = np.trapezoid(np.mean(curves, axis=0), at) / (at[-1] - at[0])
            assert shown["area under success"][attack][i] == f"{area:.3f}"


def test_curves_and_their_intervals(two: list[System]) -> None:
    system = two[0]
    curve = system.curve("pgd")
    of_task = [radius[~np.isnan(radius)] for radius in radii(system).values()]
    expected = [np.mean([np.mean(radius > budget) for radius in of_task]) for budget in BUDGETS]
    np.testing.assert_allclose(curve.values, expected)
    np.testing.assert_array_equal(curve.budgets, BUDGETS)
    assert (curve.low <= curve.values).all() and (curve.values <= curve.high).all()
    assert (curve.low >= 0).all() and (curve.high <= 1).all()
    # About as wide as a normal interval of independent values, at a budget in the middle of the curve.
    middle = int(np.argmin(np.abs(curve.values - 0.5)))
    error = np.sqrt(sum(np.var(r > BUDGETS[middle], ddof=1) / len(r) for r in of_task)) / len(of_task)
    assert (curve.high - curve.low)[middle] == pytest.approx(2 * 1.96 * error, rel=0.35)


def test_one_system_shows_its_attacks_and_several_show_themselves(page: Page, alone: Page) -> None:
    (svg,) = section(alone, "Robust success by budget").iter("svg")
    assert {"random", "fgm", "pgd", "clean", "ε / distance to the nearest row"} <= printed(svg)
    pictures = [*section(page, "Robust success by budget").iter("svg")]
    assert [svg.get("aria-label").split(",")[1].strip() for svg in pictures] == ["pgd", "fgm", "random"]
    assert all({"base <1>", "hybrid"} <= printed(svg) for svg in pictures)
    says = section(page, "Robust success by budget").text_content()
    assert "0.33 for base <1>, 0.67 for hybrid" in says  # 0.2 times the row norm 1.5 or 3 over 0.9


def test_each_language_clean_and_attacked(two: list[System], page: Page) -> None:
    part = section(page, "By language of the query")
    for system, svg, caption in zip(two, part.iter("svg"), part.iter("figcaption"), strict=True):
        worst = {task.query_language: task.per_query["worst nDCG@10"].mean() for task in system.tasks}
        clean = [task.per_query["nDCG@10"].mean() for task in system.tasks]
        assert {f"{value:.2f}" for value in (*clean, *worst.values())} | set(LANGUAGES) <= printed(svg)
        low, high = min(worst, key=worst.__getitem__), max(worst, key=worst.__getitem__)
        assert f"Worst language under attack: {low}, {worst[low]:.3f}" in caption.text_content()
        assert f"gap to the best, {high}: {worst[high] - worst[low]:.3f}" in caption.text_content()


def test_transfer_bias_radius(two: list[System], page: Page) -> None:
    maps = [*section(page, "Poisoning across languages").iter("svg")]
    assert [{".80", ".20"} <= printed(maps[0]), {".40", ".10"} <= printed(maps[1])] == [True, True]
    assert all({"optimised on", "tested on"} <= printed(svg) for svg in maps)
    assert len([*section(page, "Language bias").iter("svg")]) == 4
    for system, svg in zip(two, section(page, "Pooled radius").iter("svg"), strict=True):
        assert {f"{task.measures['pooled_radius@10']:.3f}" for task in system.tasks} <= printed(svg)


def test_the_ceiling_of_poisoning_and_the_poisoned_passages_beside_it(two: list[System], page: Page) -> None:
    part = section(page, "Ceiling of poisoning")
    first, second = part.iter("table")
    for system, shown in zip(two, (first, second), strict=True):
        ceiling, transfer = system.record.ceiling, system.record.transfer
        heading, *rows = [[cell.text_content() for cell in row] for row in shown.iter("tr")]
        assert heading[1:4] == ["ceiling, optimization queries", "ceiling, held out", "in other languages"]
        assert heading[4:] == ["hotflip, held out", "in other languages", "iterations"]
        for i, row in enumerate(rows):
            cells = [LANGUAGES[i], f"{ceiling.optimised[-1][i]:.3f} of 11"]
            for success in (ceiling.success[-1][i], transfer.success[i]):
                cells += [f"{success[i]:.3f}", f"{np.mean([v for j, v in enumerate(success) if j != i]):.3f}"]
            assert row == [*cells, "81"]
    pictures = [*part.iter("svg")]
    names = {"optimization queries", "held out, same language", "held out, other languages", "hotflip, same language"}
    assert len(pictures) == 2 and all(names | {"poisoned passages"} <= printed(svg) for svg in pictures)
    assert "With 3 passages: 0.90 optimization queries, 0.80 held out, same language" in part.text_content()
    assert "81 iterations, 9,000 forward passes" in section(page, "Adversarial strings").text_content()


def test_detection_and_checks(two: list[System], page: Page) -> None:
    (first, _) = section(page, "Detection").iter("table")
    shown = [[cell.text_content() for cell in row] for row in first.iter("tr")]
    assert shown[0] == ["filter, attack", *LANGUAGES]
    of = {(one.filter, one.language): one for one in two[0].record.detections}
    for row, name in zip(shown[1:], ("norm", "hubness"), strict=True):
        found = [of[name, language] for language in LANGUAGES]
        assert row == [f"{name}, hotflip", *(f"{d.true_positive_rate:.2f} ({d.area:.2f})" for d in found)]
    checks = section(page, "Checks")
    assert [row[0].text for row in checks.iter("tr")][1:3] == ["✓ passed", "✗ failed"]
    assert "5 restarts lower success by .04 & more" in checks.text_content()
    assert len([*checks.iter("svg")]) == 2


def test_the_strongest_texts_are_spread_over_languages() -> None:
    def text(query_id: str, after: int) -> AdversarialText:
        return AdversarialText("a", query_id, None, "x", "y", 1, after)

    some = [
        text("en:q1", 90),
        text("en:q2", 80),
        text("en:q3", 70),
        text("de:q1", 60),
        text("de:q4", 5),
        text("ar:q5", 1),
    ]
    # German question 1 is English question 1; the Arabic text lowered nothing.
    assert [t.query_id for t in strongest(some, 3)] == ["en:q1", "en:q2", "de:q4"]
    assert [t.query_id for t in strongest(reversed(some), 9)] == ["en:q1", "en:q2", "en:q3", "de:q4"]


def test_adversarial_strings_are_shown_and_harmless(page: Page, directory: Path) -> None:
    part = section(page, "Adversarial strings")
    labels = {label.text for label in part.iter("bdi")}
    assert {"ZWSP", "RLO", "PDF", "ZWJ", "BOM", "SHY", "RLI", "PDI", "U+0430 CYRILLIC"} <= labels
    assert "ZWSP U+200B ZERO WIDTH SPACE" in part.text_content()
    assert HOSTILE in part.text_content() and "rank 1 → 40" in part.text_content()
    assert "unh" not in part.text_content()  # its rank did not fall
    assert {p.get("dir") for p in part.iter("p") if p.getparent().tag == "li"} == {"auto"}
    arabic = [p for p in part.iter("p") if p.get("lang") == "ar"]
    assert arabic and all(re.search("[\u0600-\u06ff]", p.text_content()) for p in arabic)
    text = (directory / "report.html").read_text("utf-8")
    assert not set(BIDI + "\u200b\u200c\u200d\ufeff\u00ad") & set(text)
    assert not [*page.iter("script")]


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """The names of collection, systems and attacks, in tables, headings, pictures and their alternative texts."""

    def renamed(name: str) -> str:
        return name.replace("typos", HOSTILE_NAME).replace("pgd", f"pgd {HOSTILE_NAME}")

    system = example(HOSTILE_NAME, collection=HOSTILE_NAME)
    record, tasks = system.record, system.tasks
    tasks = tuple(
        dataclasses.replace(
            task,
            measures={renamed(name): value for name, value in task.measures.items()},
            per_query={renamed(name): value for name, value in task.per_query.items()},
        )
        for task in tasks
    )
    record = dataclasses.replace(
        record,
        threat_model={HOSTILE_NAME: HOSTILE_NAME},
        trials=tuple(dataclasses.replace(trial, attack=renamed(trial.attack)) for trial in record.trials),
        transfer=dataclasses.replace(record.transfer, attack=HOSTILE_NAME),
        detections=tuple(dataclasses.replace(one, attack=HOSTILE_NAME) for one in record.detections),
        checks=tuple(dataclasses.replace(one, name=HOSTILE_NAME, says=HOSTILE_NAME) for one in record.checks),
    )
    results = dataclasses.replace(system.results, settings={"multi": SettingResult(tasks)})
    texts = tuple(dataclasses.replace(text, label=renamed(text.label)) for text in system.texts)
    page = written(tmp_path, [System(record, results, texts)])
    assert page.findtext(".//h1") == f"Attacks on {HOSTILE_NAME}: {HOSTILE_NAME}"
    assert f"{HOSTILE_NAME}@1" in tables(section(page, "Summary"))["robust success@10"]
    method = tables(section(page, "Threat model and method"))
    assert method["threat model"] == {HOSTILE_NAME: [HOSTILE_NAME]} and HOSTILE_NAME in method["attack"]
    folds = [span.text for span in section(page, "Adversarial strings").xpath(".//summary/span[1]")]
    assert folds == ["unicode@1", f"{HOSTILE_NAME}@1", f"poisoned passages, {HOSTILE_NAME}"]
    labels = [svg.get("aria-label") for svg in page.iter("svg")]
    assert len([label for label in labels if HOSTILE_NAME in label]) > 3
    assert not [*page.iter("script", "img")] and not page.xpath("//@onerror")


def test_each_trial_has_its_line(alone: Page) -> None:
    shown = [
        [c.text_content() for c in row]
        for row in [*section(alone, "Threat model and method").iter("table")][-1].iter("tr")
    ]
    assert len(shown) == 1 + len(STRENGTHS) * len(BUDGETS) + 2
    heading, *rows = shown
    first, last = (dict(zip(heading, row, strict=True)) for row in (rows[0], rows[-1]))
    assert (first["attack"], first["budget"], first["ε"], first["ε / nearest row"]) == (
        "random",
        "ρ 0.01",
        "0.015",
        "0.0167",
    )
    assert (last["budget"], last["changed"], last["edits undone"]) == ("1 edit", "75 %", "300")
    assert (last["reference"], last["further"], last["ε"]) == ("✓", "offered 700", "–")
    assert "no relevant passage in the top 10" in section(alone, "Threat model and method").text_content()


def test_the_page_needs_nothing_else_and_its_names_are_its_own(directory: Path, page: Page) -> None:
    assert page.findtext(".//h1") == "Attacks on 2 systems: Rivers & co"
    addresses = [*page.xpath("//@src"), *page.xpath("//@href"), *page.xpath("//@*[name()='xlink:href']")]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    text = (directory / "report.html").read_text("utf-8")
    assert "@import" not in text and text.count("url(") == text.count("url(#")
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in page.iter("svg"))
    assert all(cell.get("scope") and cell.text_content() for cell in page.iter("th"))
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))


def test_every_picture_is_a_file(directory: Path, page: Page) -> None:
    files = [*(directory / "plots").iterdir()]
    assert len(files) == len([*page.iter("svg")]) > 10
    assert all(np.ptp(np.asarray(Image.open(file).convert("L"))) > 150 for file in files)
    assert {file.name for file in directory.iterdir()} == {"plots", "report.html"}


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    bare = dataclasses.replace(
        changed(
            example(setting="cross"), trials=(), transfer=None, ceiling=None, detections=(), checks=(), threat_model={}
        ),
        texts=(),
    )
    tasks = tuple(
        dataclasses.replace(task, measures={"AP": task.measures["AP"]}, per_query={"AP": task.per_query["AP"]})
        for task in bare.tasks
    )
    results = dataclasses.replace(bare.results, settings={"cross": SettingResult(tasks)})
    page = written(tmp_path, [dataclasses.replace(bare, results=results)])
    assert headings(page) == ["Summary", "Threat model and method"]
    assert tables(section(page, "Summary")).keys() == {"mAP"}


def test_the_radius_of_pairs_of_languages_is_a_matrix() -> None:
    system = example(setting="cross")
    (picture,) = pooled_radius([system])
    figures = {f"{task.measures['pooled_radius@10']:.2f}".removeprefix("0") for task in system.tasks}
    assert figures | {"queries in", "passages in"} <= printed(lxml.html.fromstring(picture.svg))


def test_systems_that_do_not_compare_are_refused(two: list[System]) -> None:
    base = two[0]
    for other, message in (
        (example("other", collection="Lakes"), "collection 'Rivers & co', other in 'Lakes'"),
        (example("other", setting="mono"), "setting 'multi', other in 'mono'"),
        (example(), "two systems are called 'base <1>'"),
        (changed(example("other"), setting="cross"), "lack the setting 'cross'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            check_comparable([base, other])
    fewer = tuple(dataclasses.replace(task, passages=7) for task in base.tasks)
    results = dataclasses.replace(base.results, settings={"multi": SettingResult(fewer)})
    with pytest.raises(ValueError, match="different queries or passages"):
        check_comparable([base, dataclasses.replace(changed(base, system="other"), results=results)])
    empty = tuple(dataclasses.replace(task, per_query={}) for task in base.tasks)
    results = dataclasses.replace(base.results, settings={"multi": SettingResult(empty)})
    with pytest.raises(ValueError, match="no values per query"):
        check_comparable([dataclasses.replace(base, results=results)])
    with pytest.raises(ValueError, match="no system"):
        check_comparable([])


def save(system: System, directory: Path) -> None:
    system.results.save(directory)
    system.record.save(directory)
    save_texts(directory, system.texts)


def test_the_script_reads_what_attacks_wrote(
    tmp_path: Path,
    directory: Path,
    two: list[System],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = importlib.util.spec_from_file_location("report_attacks_script", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["report_attacks.py", *arguments, "--output_dir", str(tmp_path / "out")])
        script.main()

    one, other = tmp_path / "one", tmp_path / "other"
    save(two[0], one)
    save(two[1], other)
    run(str(one), str(other))
    page = tmp_path / "out" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_bytes() == (directory / "report.html").read_bytes()  # the same input, the same bytes
    with pytest.raises(SystemExit, match=r"error: two systems are called 'base <1>'; tell them apart with NAME=DIR"):
        run(str(one), str(one))
    with pytest.raises(SystemExit, match=r"error: .*nowhere' has no attacks\.json"):
        run(str(one), f"name={tmp_path / 'nowhere'}")
    (other / "attacks.json").unlink()
    with pytest.raises(SystemExit, match=r"error: .*other' has no attacks\.json"):
        run(str(one), str(other))
    assert Record.load(one) == two[0].record and Results.load(one) == two[0].results
