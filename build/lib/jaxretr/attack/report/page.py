"""Render attacks on one or several models as one HTML page.

Input: `System`s. Output: `report.html` and `plots/*.png`. The page is self-contained: it needs no other files and no
scripts. A section without data is omitted. Texts of attacks are never written verbatim, see
`jaxretr.attack.report.visible`.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import chain

from jaxretr.attack.measures import AREA, PROMOTED, WORST
from jaxretr.attack.report import pictures, strings
from jaxretr.attack.report.system import System, check_comparable
from jaxretr.attack.result import Trial
from jaxretr.attack.victim import TOP
from jaxretr.eval.page import Picture, section, table, write_page
from jaxretr.files import AnyPath

_WIDE = ("Robust success by budget", "Poisoning across languages", "Detection", "Checks")
"""Sections whose pictures are stacked vertically."""
_STYLE = ".wide figure:not(:only-of-type) { display: flex; width: auto; margin: 1.25rem 0 0; }\n"
_FACTS = {
    "epsilon": "ε",
    "epsilon_over_nearest_row": "ε / nearest row",
    "undone": "edits undone",
    "zero_gradients": "zero gradients",
}
"""Headings of the trial facts that have their own column. All other facts share the last column."""


def write_report(directory: AnyPath, systems: Sequence[System]) -> AnyPath:
    """Write `report.html` and `plots/*.png` into `directory`, each atomically.

    Args:
      directory: created if absent.
      systems: systems with distinct names, attacked in one setting of one collection with the same queries.

    Returns:
      The path of the page.

    Raises:
      ValueError: `systems` is empty, the systems are not comparable, or a system has no values per query.
    """
    check_comparable(systems)
    first = systems[0]
    maps = [pictures.transfer(system, number) for number, system in enumerate(systems, 1)]
    shown: dict[str, list[Picture]] = {
        "Robust success by budget": pictures.success_curves(systems),
        "By language of the query": pictures.by_language(systems),
        "Poisoning across languages": [one for one in maps if one],
        "Language bias": pictures.language_bias(systems),
        "Pooled radius": pictures.pooled_radius(systems),
        "Detection": pictures.detection(systems),
        "Checks": pictures.check_curves(systems),
    }
    before = {"Detection": _detection(systems), "Checks": _checks(systems)}
    sections = [_summary(systems)]
    for heading, some in shown.items():
        content = before.get(heading, "") + "".join(picture.html() for picture in some)
        content = f'<div class="wide">{content}</div>' if content and heading in _WIDE else content
        sections.append(section(heading, content) if content else "")
    sections += [strings.adversarial_strings(systems), _method(systems)]
    queries = sum(task.queries for task in first.tasks)
    languages = len(first.languages)
    return write_page(
        directory,
        title=f"Attacks on {first.name if len(systems) == 1 else f'{len(systems)} systems'}: {first.record.collection}",
        subtitle=f"{first.record.setting} setting, {queries:,} queries in {languages} "
        f"language{'s' if languages > 1 else ''}, counted once per corpus",
        sections=sections,
        pictures=chain.from_iterable(shown.values()),
        style=_STYLE + strings.STYLE,
    )


def _summary(systems: Sequence[System]) -> str:
    """Return tables with one row per attack and one column per system."""
    names = [system.name for system in systems]
    measures = [m for m in ("AP", "nDCG@10") if any(m in system.tasks[0].measures for system in systems)]
    labels = [*dict.fromkeys(label for system in systems for label in system.reference), WORST]
    tables = []
    for measure in measures:
        body = [["clean", *(_number(system.average(measure)) for system in systems)]]
        body += [[_label(label), *(_drop(system, label, measure) for system in systems)] for label in labels]
        tables.append(_values(["mAP" if measure == "AP" else measure, *names], body))
    body = [[_label(label), *(_number(system.success(label)) for system in systems)] for label in labels]
    tables.append(_values([f"robust success@{TOP}", *names], body))
    attacks = dict.fromkeys(attack for system in systems for attack in system.ladders())
    body = [[attack, *(_number(system.average(f"{attack} {AREA}")) for system in systems)] for attack in attacks]
    tables.append(_values(["area under success", *names], body))
    body = [[attack, *(_smallest(system, attack) for system in systems)] for attack in attacks]
    tables.append(_values(["median smallest budget", *names], body))
    trials = dict.fromkeys(trial.label for system in systems for trial in system.record.trials)
    body = [[label, *(_number(system.average(f"{label} {PROMOTED}")) for system in systems)] for label in trials]
    tables.append(_values([f"promoted into the top {TOP}", *names], body))
    body = [[_label(label), *(_cost(system, label) for system in systems)] for label in labels]
    tables.append(_values(["forward passes a query", *names], body))
    notes = [
        "Means over languages, or over pairs of languages, each of which counts alike. In brackets, the loss against "
        "the same queries clean, absolute and relative. Robust success is of the queries that have a relevant passage "
        f"in the clean top {TOP}. The worst case takes the smallest value of each query over the attacks above it and "
        "the clean query; its cost is the sum of theirs. A median above the largest budget is marked with >.",
    ]
    if len({tuple(sorted(system.reference)) for system in systems}) > 1:
        notes.append("The systems were attacked in different ways, so their worst cases do not compare.")
    content = f'<div class="side">{"".join(tables)}</div>'
    return section("Summary", content + "".join(f'<p class="meta">{note}</p>' for note in notes))


def _detection(systems: Sequence[System]) -> str:
    parts = []
    for system in systems:
        found = {(one.filter, one.attack, one.language): one for one in system.record.detections}
        languages = sorted({language for *_, language in found})
        body = []
        for name, attack in dict.fromkeys((name, attack) for name, attack, _ in found):
            cells = [found.get((name, attack, language)) for language in languages]
            rates = [f"{one.true_positive_rate:.2f} ({one.area:.2f})" if one else "–" for one in cells]
            body.append([f"{name}, {attack}", *rates])
        parts.append(_titled(systems, system, table(["filter, attack", *languages], body)) if body else "")
    note = (
        '<p class="meta">Share of adversarial texts refused by a filter that refuses at most 1 % of the clean texts '
        "of the language; in brackets the area under the ROC curve.</p>"
    )
    return "".join(parts) + note if any(parts) else ""


def _checks(systems: Sequence[System]) -> str:
    parts = []
    for system in systems:
        body = [["✓ passed" if one.passed else "✗ failed", one.name, one.says] for one in system.record.checks]
        parts.append(_titled(systems, system, table(["result", "check", "figures"], body, "words")) if body else "")
    return "".join(parts)


def _method(systems: Sequence[System]) -> str:
    names = [system.name for system in systems]
    threats = [system.record.threat_model for system in systems]
    alike = all(threat == threats[0] for threat in threats)
    heading = ["threat model", *(["all systems"] if alike and len(systems) > 1 else names)]
    body = [
        [name, *(threat.get(name, "–") for threat in (threats[:1] if alike else threats))]
        for name in dict.fromkeys(chain.from_iterable(threats))
    ]
    content = table(heading, body, "words") if body else ""
    scales = [
        ["mean row norm", *(_number(_or_nan(system.record.row_norm)) for system in systems)],
        ["distance to the nearest row", *(_number(_or_nan(system.record.nearest_row)) for system in systems)],
    ]
    content += _values(["scale", *names], scales)
    for system in systems:
        if system.record.trials:
            content += _titled(systems, system, _trials(system))
    notes = (
        "A budget in ρ is a radius ε = ρ times the mean row norm of the checkpoint. Forward passes are the mean cost "
        "of a query in encodings of one text, a gradient counting as three. Changed is the share of the queries that "
        "the attack could change; the other queries have no value under it. Edits undone is the share of the edits "
        "that the normaliser or truncation turns back into the clean text.",
        "Along the budgets of an attack a query once lost stays lost, since a larger ball holds the smaller one.",
    )
    return section("Threat model and method", content + "".join(f"<p>{note}</p>" for note in notes))


def _trials(system: System) -> str:
    trials = system.record.trials
    facts = [fact for fact in _FACTS if any(fact in trial.facts for trial in trials)]
    measures = [name for name in ("AP", "nDCG@10") if name in system.tasks[0].measures]
    columns = [
        ("attack", [trial.attack for trial in trials]),
        ("budget", [_budget(trial) for trial in trials]),
        *(
            ("mAP" if name == "AP" else name, [_number(system.pair(trial.label, name).attacked) for trial in trials])
            for name in measures
        ),
        (f"success@{TOP}", [_number(system.success(trial.label)) for trial in trials]),
        ("reference", ["✓" if trial.reference else "" for trial in trials]),
        ("forward passes", [f"{trial.forward_passes:,.0f}" for trial in trials]),
        ("changed", [_signed(trial.changed, ".0%") for trial in trials]),
        *((_FACTS[fact], [_fact(trial.facts.get(fact)) for trial in trials]) for fact in facts),
        ("further", [_further(trial) for trial in trials]),
    ]
    kept = [(heading, column) for heading, column in columns if any(one not in ("", "–") for one in column)]
    return table([heading for heading, _ in kept], [*zip(*(column for _, column in kept), strict=True)])


def _further(trial: Trial) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_fact(v)}" for name, v in trial.facts.items() if name not in _FACTS)


def _titled(systems: Sequence[System], system: System, content: str) -> str:
    return (f"<h3>{escape(system.name)}</h3>" if len(systems) > 1 else "") + content


def _values(heading: list[str], body: list[list[str]]) -> str:
    """Return a table of the rows in which any system has a value, or "" if no row has one."""
    rows = [row for row in body if any(one != "–" for one in row[1:])]
    return table(heading, rows) if rows else ""


def _label(label: str) -> str:
    return "worst case" if label == WORST else label


def _drop(system: System, label: str, measure: str) -> str:
    clean, attacked = system.pair(label, measure)
    if math.isnan(attacked):
        return "–"
    relative = f", {_signed((attacked - clean) / clean, '+.0%')}" if clean > 0 else ""
    return f"{attacked:.3f} ({_signed(attacked - clean, '+.3f')}{relative})"


def _smallest(system: System, attack: str) -> str:
    if attack not in system.ladders():
        return "–"
    budget, beyond = system.smallest_budget(attack)
    return ("> " if beyond else "") + _amount(budget, system.unit(attack))


def _cost(system: System, label: str) -> str:
    costs = [t.forward_passes for t in system.record.trials if (t.reference if label == WORST else t.label == label)]
    return f"{sum(costs):,.0f}" if costs else "–"


def _budget(trial: Trial) -> str:
    return "–" if trial.budget is None else _amount(trial.budget, trial.unit)


def _amount(budget: float, unit: str) -> str:
    if unit == "rho":
        return f"ρ {budget:g}"
    return f"{budget:g} {unit.removesuffix('s') if budget == 1 else unit}".rstrip()


def _fact(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def _signed(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "−").replace("%", " %")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
