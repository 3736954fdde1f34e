"""Write the attacks on one or several models as one HTML page, `report.html`.

Input: `System`s. Output: a self-contained page without scripts, and its pictures as PNG in `plots/`. The template
`attack/report.html` holds the markup and the prose; it omits sections without data. `jaxretr.attack.report.strings`
prepares the texts of attacks, which the page never shows verbatim.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain

from jaxretr.attack.measures import AREA, WORST
from jaxretr.attack.rankings import PROMOTED
from jaxretr.attack.report import pictures
from jaxretr.attack.report.strings import adversarial_strings, legend
from jaxretr.attack.report.system import System, check_comparable
from jaxretr.attack.result import Trial
from jaxretr.attack.victim import TOP
from jaxretr.eval.page import write_page
from jaxretr.eval.table import Rows
from jaxretr.files import AnyPath

_FACTS = {
    "epsilon": "ε",
    "epsilon_over_nearest_row": "ε / nearest row",
    "undone": "edits undone",
    "zero_gradients": "zero gradients",
}
"""Headings of the trial facts that have their own column. All other facts share the last column."""
_ROWS = {"": "clean", WORST: "worst case"}
"""Headings of the rows that are not labels of trials."""


def write_report(directory: AnyPath, systems: Sequence[System]) -> AnyPath:
    """Write `report.html` and `plots/*.png` into `directory`; each file is written atomically.

    Args:
      directory: output directory; created if absent.
      systems: systems with distinct names, attacked in one setting of one collection with the same queries.

    Returns:
      The path of the page.

    Raises:
      ValueError: `systems` is empty, the systems are not comparable, or a system has no values per query.
    """
    check_comparable(systems)
    first = systems[0]
    shown = {system.name: lists for system in systems if (lists := adversarial_strings(system))}
    queries, languages = sum(task.queries for task in first.tasks), len(first.languages)
    return write_page(
        directory,
        "attack/report.html",
        {
            "success": pictures.success_curves(systems),
            "languages": pictures.by_language(systems),
            "ceiling": pictures.ceiling(systems),
            "transfer": pictures.transfer(systems),
            "bias": pictures.language_bias(systems),
            "radius": pictures.pooled_radius(systems),
            "detection": pictures.detection(systems),
            "checks": pictures.check_curves(systems),
        },
        title=f"Attacks on {first.name if len(systems) == 1 else f'{len(systems)} systems'}: {first.record.collection}",
        subtitle=f"{first.record.setting} setting, {queries:,} queries in {languages} "
        f"language{'s' if languages > 1 else ''}, counted once per corpus",
        several=len(systems) > 1,
        top=TOP,
        summary=_summary(systems),
        same_attacks=len({tuple(sorted(system.reference)) for system in systems}) == 1,
        poisoning={system.name: _poisoning(system) for system in systems if system.record.ceiling},
        detection={system.name: _detection(system) for system in systems if system.record.detections},
        checks={system.name: _checks(system) for system in systems if system.record.checks},
        strings=shown,
        legend=legend(chain.from_iterable(shown.values())),
        threats=_threats(systems),
        scales=_scales(systems),
        trials={system.name: _trials(system) for system in systems if system.record.trials},
    )


def _summary(systems: Sequence[System]) -> list[Rows]:
    """Return tables with one row per attack and one column per system."""
    names = [system.name for system in systems]
    measures = [m for m in ("AP", "nDCG@10") if any(m in system.tasks[0].measures for system in systems)]
    labels = [*dict.fromkeys(label for system in systems for label in system.reference), WORST]
    attacks = dict.fromkeys(attack for system in systems for attack in system.ladders())
    counted = ", distinct answers" if systems[0].counts_answers else ""
    trials = dict.fromkeys(trial.label for system in systems for trial in system.record.trials)

    def table(corner: str, rows: Iterable[str], cell: Callable[[System, str], str]) -> Rows:
        return _with_values([[corner, *names], *([_ROWS.get(r, r), *(cell(s, r) for s in systems)] for r in rows)])

    tables = [
        *(table("mAP" if m == "AP" else m, ["", *labels], partial(_drop, measure=m)) for m in measures),
        table(f"robust success@{TOP}{counted}", labels, lambda system, label: _number(system.success(label))),
        table(
            f"area under success{counted}", attacks, lambda system, attack: _number(system.average(f"{attack} {AREA}"))
        ),
        table(f"median smallest budget{counted}", attacks, _smallest),
        table(f"promoted into the top {TOP}", trials, lambda s, label: _number(s.average(f"{label} {PROMOTED}"))),
        table("forward passes per query", labels, _cost),
    ]
    return [rows for rows in tables if rows]


def _poisoning(system: System) -> Rows:
    """Return the success of the best vectors and of the poisoned passages, one row per language optimized on."""
    ceiling, transfer = system.record.ceiling, system.record.transfer
    if ceiling is None:
        return []

    def row(success: Sequence[float], language: str, tested_on: Sequence[str]) -> list[str]:
        within, across = pictures.within_and_across([success], [language], tested_on)
        return [_number(within), _number(across)]

    heading = ["language", "ceiling, optimization queries", "ceiling, held out", "in other languages"]
    if transfer:
        heading += [f"{transfer.attack}, held out", "in other languages", "iterations"]
    table = [heading]
    for i, language in enumerate(ceiling.optimised_on):
        table.append(
            [
                language,
                f"{ceiling.optimised[-1][i]:.3f} of {ceiling.optimise_queries[i]}",
                *row(ceiling.success[-1][i], language, ceiling.tested_on),
            ]
        )
        if transfer:
            iterations = f"{transfer.iterations[i]:,}" if transfer.iterations else "–"
            table[-1] += [*row(transfer.success[i], language, transfer.tested_on), iterations]
    return table


def _detection(system: System) -> Rows:
    found = {(one.filter, one.attack, one.language): one for one in system.record.detections}
    languages = sorted({language for *_, language in found})
    table = [["filter, attack", *languages]]
    for name, attack in dict.fromkeys((name, attack) for name, attack, _ in found):
        cells = [found.get((name, attack, language)) for language in languages]
        rates = [f"{one.true_positive_rate:.2f} ({one.area:.2f})" if one else "–" for one in cells]
        table.append([f"{name}, {attack}", *rates])
    return table


def _checks(system: System) -> Rows:
    body = [["✓ passed" if one.passed else "✗ failed", one.name, one.says] for one in system.record.checks]
    return [["result", "check", "figures"], *body]


def _threats(systems: Sequence[System]) -> Rows:
    """Return the threat models as columns: a single column if all systems have the same, no rows if there is none."""
    columns = {system.name: system.record.threat_model for system in systems}
    if len(systems) > 1 and all(threat == systems[0].record.threat_model for threat in columns.values()):
        columns = {"all systems": systems[0].record.threat_model}
    names = dict.fromkeys(chain.from_iterable(columns.values()))
    body = [[name, *(threat.get(name, "–") for threat in columns.values())] for name in names]
    return [["threat model", *columns], *body] if body else []


def _scales(systems: Sequence[System]) -> Rows:
    columns = [(system.name, _number(system.record.row_norm), _number(system.record.nearest_row)) for system in systems]
    rows = zip(("scale", "mean row norm", "distance to the nearest row"), *columns, strict=True)
    return _with_values([list(row) for row in rows])


def _trials(system: System) -> Rows:
    """Return one row per trial; columns without a value are omitted."""
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
    return [list(row) for row in zip(*([heading, *column] for heading, column in kept), strict=True)]


def _further(trial: Trial) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_fact(v)}" for name, v in trial.facts.items() if name not in _FACTS)


def _with_values(table: Rows) -> Rows:
    """Return the heading and the rows in which any system has a value; no rows if no system has a value."""
    heading, *body = table
    body = [row for row in body if any(cell != "–" for cell in row[1:])]
    return [heading, *body] if body else []


def _drop(system: System, label: str, measure: str) -> str:
    """Return a measure under a trial with its change, or the clean measure if `label` is ""."""
    if not label:
        return _number(system.average(measure))
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


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
