"""Draw the pictures of an attack report, with their captions and alternative texts.

Input: `System`s. Output: `Picture`s; none if there is nothing to show. If there are several systems, every picture of a
single system names the system.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from jaxretr.attack.defenses import Detection
from jaxretr.attack.measures import AREA, RADIUS, WORST, success_measure
from jaxretr.attack.rankings import ANSWER_SUCCESS
from jaxretr.attack.record import Check
from jaxretr.attack.report import plots
from jaxretr.attack.report.system import System
from jaxretr.attack.victim import TOP
from jaxretr.eval.bias import BIAS_MEASURES
from jaxretr.eval.page import Picture
from jaxretr.eval.plots import bars, heat_map
from jaxretr.eval.results import mean

UNITS = {
    "rho": "ρ, perturbation as a share of the mean row norm",
    "radius": "movement of the query vector, whose length is 1",
    "edits": "edits",
    "words": "words replaced",
    "passages": "poisoned passages",
    "": "budget",
}
"""Axis title for each unit of budgets."""
_FALSE_POSITIVES = 0.01


def success_curves(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw robust success by budget.

    For one system, each line is an attack, and each picture holds the attacks of one unit. For several systems, each
    line is a system and each picture an attack, the strongest attack first.
    """
    if len(systems) == 1:
        (system,) = systems
        of_unit: dict[str, dict[str, tuple[System, str]]] = {}
        for attack in system.ladders():
            of_unit.setdefault(system.unit(attack), {})[attack] = system, attack
        yield from (_success(i, "", unit, lines) for i, (unit, lines) in enumerate(of_unit.items(), 1))
        return
    attacks = dict.fromkeys(attack for system in systems for attack in system.ladders())
    numbers = count(1)
    for attack in sorted(attacks, key=lambda a: mean([s.average(f"{a} {AREA}") for s in systems])):  # strongest first
        having = [system for system in systems if attack in system.ladders()]
        if len({system.unit(attack) for system in having}) == 1:
            lines = {system.name: (system, attack) for system in having}
            yield _success(next(numbers), attack, having[0].unit(attack), lines)


def _success(number: int, attack: str, unit: str, of: dict[str, tuple[System, str]]) -> Picture:
    curves = {line: system.curve(one) for line, (system, one) in of.items()}
    lines = {}
    for line, curve in curves.items():
        budgets, values, low, high = (part.tolist() for part in curve)
        lines[line] = plots.Line(budgets, values, low, high, start=1.0)  # only queries that succeed clean count
    systems = {system.name: system for system, _ in of.values()}
    budgets = sorted({budget for curve in curves.values() for budget in curve.budgets.tolist()})
    ratios = {one: {b: system.over_nearest_row(b) for b in budgets} for one, system in systems.items()}
    second, says = None, ""
    known = unit == "rho" and not any(math.isnan(r) for ratio in ratios.values() for r in ratio.values())
    if known and len(systems) == 1:
        second = {b: f"{ratio:.2g}" for b, ratio in next(iter(ratios.values())).items()}
        says = " Upper axis: the radius divided by the median distance from a token's row to the nearest other row."
    elif known:
        middle = budgets[len(budgets) // 2]
        each = ", ".join(f"{ratio[middle]:.2g} for {one}" for one, ratio in ratios.items())
        says = (
            f" At ρ = {middle:g}, the radius divided by the median distance from a token's row to the nearest other "
            f"row is {each}."
        )
    success = success_measure(next(iter(systems.values())).tasks[0].measures)
    clean = ", ".join(f"{system.average(success):.3f} for {one}" for one, system in systems.items())
    kept = f"{TOP} distinct answers" if success == ANSWER_SUCCESS else TOP
    caption = (
        f"Of the queries with a relevant passage in the clean top {kept}, the share that keep a relevant passage "
        f"there, by budget. Bands: 95 % bootstrap intervals over questions. {success.capitalize().replace('_', ' ')} "
        f"of all clean queries: {clean}.{says}"
    )
    ends = "; ".join(f"{line}, {curve.values[-1]:.2f} at {curve.budgets[-1]:g}" for line, curve in curves.items())
    title = f"robust success@{TOP}" + (f", {attack}" if attack else "")
    figure = plots.curves(lines, UNITS[unit], title, second=second)
    return Picture(f"success_{number}", figure, f"{title}, by budget: {ends}.", caption)


def by_language(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw the main measure by query language, clean and attacked."""
    for number, system in enumerate(systems, 1):
        measure, languages = system.main_measure, system.languages
        clean, attacked = _by_language(system, measure)
        if np.isnan(attacked).all():
            continue
        worst, best = languages[int(np.nanargmin(attacked))], languages[int(np.nanargmax(attacked))]
        gaps = [float(np.nanmax(values) - np.nanmin(values)) for values in (clean, attacked)]
        says = (
            f"{_of(systems, system)}{measure} by language of the queries, clean and {_under(system)}. Worst language "
            f"under attack: {worst}, {np.nanmin(attacked):.3f}; gap to the best, {best}: {gaps[1]:.3f} "
            f"({gaps[0]:.3f} clean)."
        )
        title = f"{measure}{_named(systems, system)}"
        figure = plots.paired_bars(clean, attacked, languages, title, 2, limit=1.0)
        yield Picture(f"languages_{number}", figure, says, says)


def language_bias(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw the language bias of the pooled ranking by query language, clean and attacked."""
    for measure in BIAS_MEASURES.values():
        title, decimals = measure.picture, measure.decimals - 1
        if not title:
            continue
        for number, system in enumerate(systems, 1):
            clean, attacked = _by_language(system, measure.name)
            if np.isnan(attacked).all():
                continue
            says = (
                f"{_of(systems, system)}{title}, {measure.meaning}, clean and {_under(system)}: "
                f"{mean(clean):.{decimals}f} and {mean(attacked):.{decimals}f} on average."
            )
            words = f"{title}{_named(systems, system)}"
            figure = plots.paired_bars(clean, attacked, system.languages, words, decimals)
            name = f"{title.replace('-', '_').replace(' ', '_')}_{number}"
            yield Picture(name, figure, says, says)


def transfer(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw the success of poisoned passages by the languages they were optimized on and tested on."""
    for number, system in enumerate(systems, 1):
        of = system.record.transfer
        if of is None:
            continue
        values = np.array(of.success, np.float64)
        same = np.array([[row == column for column in of.tested_on] for row in of.optimised_on])
        means = [
            f"{mean(values[where].tolist()):.2f} {words}"
            for where, words in ((same, "in the same language"), (~same, "in other languages"))
            if where.any()
        ]
        says = (
            f"{system.name}: share of the held-out queries with a poisoned passage in the top {of.k} of the pool of "
            f"all languages, by {of.attack}; mean {', '.join(means)}. Darker is more vulnerable. Bold: optimised and "
            "tested in the same language."
        )
        figure = heat_map(values, of.optimised_on, of.tested_on, row_title="optimised on", column_title="tested on")
        yield Picture(f"transfer_{number}", figure, says, says)


def ceiling(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw the success of the best vectors over the number of passages, and that of the poisoned passages beside it."""
    for number, system in enumerate(systems, 1):
        of = system.record.ceiling
        if of is None or len(of.success) < 2:
            continue
        numbers = [float(n) for n in range(1, len(of.success) + 1)]
        held_out = [within_and_across(success, of.optimised_on, of.tested_on) for success in of.success]
        values = {
            "optimization queries": [mean(row) for row in of.optimised],
            "held out, same language": [within for within, _ in held_out],
            "held out, other languages": [across for _, across in held_out],
        }
        lines = {name: plots.Line(numbers, line) for name, line in values.items() if not any(map(math.isnan, line))}
        found = system.record.transfer
        if found:
            success = within_and_across(found.success, found.optimised_on, found.tested_on)[0]
            lines[f"{found.attack}, same language"] = plots.Line(numbers[-1:], [success])
        says = (
            f"{_of(systems, system)}share of the queries with a vector in the top {of.k}, if the best unit vectors are "
            f"the poisoned passages, by the number of passages per language; mean over languages. With "
            f"{len(numbers)} passages: {', '.join(f'{line.values[-1]:.2f} {name}' for name, line in lines.items())}."
        )
        figure = plots.curves(lines, UNITS["passages"], f"ceiling of poisoning{_named(systems, system)}")
        yield Picture(f"ceiling_{number}", figure, says, says)


def within_and_across(
    success: Sequence[Sequence[float]], optimised_on: Sequence[str], tested_on: Sequence[str]
) -> tuple[float, float]:
    """Return the mean success in the language optimized on, and in the other languages (NaN if there is none)."""
    values = np.array(success, np.float64)
    same = np.array([[row == column for column in tested_on] for row in optimised_on])
    return mean(values[same].tolist()), mean(values[~same].tolist())


def pooled_radius(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw the pooled radius: how far the clean query vector is from losing its rank.

    A picture is a matrix in the setting `cross`, and bars otherwise.
    """
    for number, system in enumerate(systems, 1):
        names = [name for name in system.tasks[0].measures if name.startswith(f"{RADIUS}@")]
        if not names:
            continue
        measure = max(names, key=lambda name: int(name.partition("@")[2]))
        values = {(t.query_language, str(t.corpus_language)): t.measures[measure] for t in system.tasks}
        if all(math.isnan(value) for value in values.values()):
            continue
        says = (
            f"{_of(systems, system)}pooled radius, the distance from the query vector to the nearest vector that loses "
            f"the last relevant passage in the top {measure.partition('@')[2]}, as a share of the vector's length, in "
            "closed form; exact for one relevant passage and the top 1, a lower bound for several relevant passages "
            f"or a larger top; mean {mean([*values.values()]):.3f}. Larger is more robust."
        )
        asked = system.languages
        if system.record.setting == "cross":
            read = sorted({passages for _, passages in values})
            matrix = np.array([[values.get((q, p), math.nan) for p in read] for q in asked])
            figure = heat_map(matrix, asked, read)
        else:
            radii = np.array([mean([v for (q, _), v in values.items() if q == language]) for language in asked])
            figure = bars(radii, asked, f"pooled radius{_named(systems, system)}", 3)
        yield Picture(f"radius_{number}", figure, says, says)


def detection(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw ROC curves of the filters: one picture per system and attack, one panel per language."""
    numbers = count(1)
    for system in systems:
        of_attack: dict[str, list[Detection]] = {}
        for one in system.record.detections:
            of_attack.setdefault(one.attack, []).append(one)
        for attack, some in of_attack.items():
            panels: dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {}
            for one in sorted(some, key=lambda one: one.language):
                panels.setdefault(one.language, {})[one.filter] = one.roc
            says = (
                f"{_of(systems, system)}ROC of the filters against {attack}, by language. The dashed line marks a "
                "false positive rate of 1 %. Rates below 0.1 % are drawn at 0.1 %. The grey curve is chance."
            )
            yield Picture(f"detection_{next(numbers)}", plots.roc_curves(panels, _FALSE_POSITIVES), says, says)


def check_curves(systems: Sequence[System]) -> Iterator[Picture]:
    """Draw the curves of the checks."""
    numbers = count(1)
    for system in systems:
        for check in system.record.checks:
            if lines := _check_lines(check):
                says = f"{_of(systems, system)}{check.name}."
                yield Picture(f"check_{next(numbers)}", plots.curves(lines, "budget", check.name), says, says)


def _check_lines(check: Check) -> dict[str, plots.Line]:
    """Return the curves of a check over positive budgets. A value at budget 0 becomes the start of its line."""
    lines = {}
    for name, (budgets, values) in check.curves.items():
        points = sorted(zip(budgets, values, strict=True))
        positive = [point for point in points if point[0] > 0]
        if positive:
            start = points[0][1] if points[0][0] == 0 else None
            lines[name] = plots.Line([at for at, _ in positive], [value for _, value in positive], start=start)
    return lines


def _of(systems: Sequence[System], system: System) -> str:
    return f"{system.name}: " if len(systems) > 1 else ""


def _named(systems: Sequence[System], system: System) -> str:
    return f", {system.name}" if len(systems) > 1 else ""


def _under(system: System) -> str:
    label = system.headline
    return "in the worst case of the reference attacks, query by query" if label == WORST else f"under {label}"


def _by_language(system: System, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the clean and the attacked values of a measure, by language of the queries."""
    pairs = [system.pair(system.headline, measure, language) for language in system.languages]
    return np.array([pair.clean for pair in pairs]), np.array([pair.attacked for pair in pairs])
