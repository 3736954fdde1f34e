"""The page of a study that compares ways and strengths of hardening.

Input: the `Analysis` of a study whose first arm is unhardened and whose other arms are hardened. Output: a figure of
clean quality over robustness, and tables of differences from the unhardened arm.
"""

from collections.abc import Iterator

from matplotlib.figure import Figure

from jaxretr.config import HardeningConfig
from jaxretr.study import plots
from jaxretr.study.analysis import CLEAN, Analysis, Contrast, family
from jaxretr.study.design import Measure
from jaxretr.study.plots import Mark
from jaxretr.study.tables import costs, provenance
from jaxretr.study.words import number, seeds, table, with_interval, wrapped

LOSS = 0.02
"""Largest loss of clean mAP that a recommended strength may have."""
TEMPLATE = """# Hardening over strengths

Every arm trains on the same batches from the same encoder, for the same number of updates.

<!-- results -->
<!-- /results -->
"""


def results(analysis: Analysis, where: str) -> Iterator[str]:
    """Yield the parts of the results block.

    Args:
      analysis: the records, with tests.
      where: directory of the figures, relative to the page.
    """
    study = analysis.study
    robustness = study.primary[0]
    tested = _tested(analysis, (robustness, *CLEAN))
    count = max(len(analysis.of_arm(arm)) for arm in analysis.arms)
    measured_on = f"{study.collection.name} ({study.collection.split or 'default split'})"
    yield wrapped(
        f"{len(analysis.records)} runs of {study.base.train.steps:,} updates of {study.base.train.batch_size} pairs "
        f"from {study.base.data.name}, {seeds(count)}. Clean quality and robustness are measured on "
        f"{measured_on}. {verdict(tested)}"
    )
    yield f"![clean mAP over robustness, one mark per arm, one line per method]({where}/trade_off.png)"
    yield wrapped(
        f"A line connects the strengths of one method in order of robustness; larger marks are stronger; the dashed "
        f"lines are {study.unhardened}, the unhardened recipe."
    )
    yield f"### Differences from {study.unhardened}"
    yield wrapped(
        "Arms without hardening have their values. Hardened arms have differences with 95 % intervals, "
        f"in bold if p < .05 after Holm's correction over all {sum(map(len, tested.values()))} differences. Tests are "
        "over questions; an arm with one seed has no variance between trainings."
    )
    yield _differences(analysis, robustness, tested)
    yield from costs(analysis)
    yield from provenance(analysis)


def figures(analysis: Analysis) -> Iterator[tuple[str, Figure]]:
    """Yield the name of the figure's file, and the figure."""
    robustness = analysis.study.primary[0]
    lines: dict[str, list[Mark]] = {}
    references: dict[str, Mark] = {}
    for arm in analysis.arms:
        hardening = analysis.study.arms[arm].hardening
        values = [analysis.values(arm, measure) for measure in (robustness, *CLEAN)]
        if all(values):
            at, *quality = (sum(of_seeds) / len(of_seeds) for of_seeds in values)
            mark = Mark(at, tuple(quality), strength(hardening))
            if hardening.method:
                lines.setdefault(method(hardening), []).append(mark)
            else:
                references[arm] = mark
    if references:
        yield "trade_off", plots.trade_off(lines, references, [m.title for m in CLEAN], robustness.title)


def verdict(tested: dict[str, list[Contrast]]) -> str:
    """Return which arms gain robustness significantly and certainly lose less than `LOSS` of every clean mAP."""
    if not tested:
        return "No hardened arm is measured completely yet."
    kept = [
        arm
        for arm, (robust, *clean) in tested.items()
        if robust.significant and robust.difference > 0 and all(contrast.low > -LOSS for contrast in clean)
    ]
    return (
        f"Arms that gain robustness significantly and whose 95 % intervals exclude a loss of {LOSS:g} in every clean "
        f"mAP: {', '.join(kept) or 'none'}."
    )


def method(hardening: HardeningConfig) -> str:
    """Return the name of the line of a hardening: its method, and the sides that it perturbs."""
    sided = hardening.method not in ("typos", "translations")
    return f"{hardening.method}, {hardening.sides}" if sided else hardening.method


def strength(hardening: HardeningConfig) -> float:
    """Return the value that orders the strengths of one method."""
    match hardening.method:
        case "translations":
            return float(hardening.translations)
        case "typos":
            return hardening.weight
        case "freelb":
            return hardening.rho
        case _:
            return hardening.rho * hardening.weight


def _tested(analysis: Analysis, measures: tuple[Measure, ...]) -> dict[str, list[Contrast]]:
    """Return the contrasts of every hardened arm that has a value of each measure, corrected together."""
    baseline = analysis.study.unhardened
    contrasts = {
        arm: [c for measure in measures if (c := analysis.contrast(arm, measure, baseline=baseline))]
        for arm in analysis.arms
        if analysis.study.arms[arm].hardening.method
    }
    measured = {arm: of_arm for arm, of_arm in contrasts.items() if len(of_arm) == len(measures)}
    corrected = iter(family([contrast for of_arm in measured.values() for contrast in of_arm]))
    return {arm: [next(corrected) for _ in of_arm] for arm, of_arm in measured.items()}


def _differences(analysis: Analysis, robustness: Measure, tested: dict[str, list[Contrast]]) -> str:
    measures = (*CLEAN, robustness)
    rows = []
    for arm in analysis.arms:
        if not analysis.study.arms[arm].hardening.method:
            values = [analysis.values(arm, measure) for measure in measures]
            rows.append([arm, *(number(sum(v) / len(v), 3) if v else "–" for v in values)])
    for arm, (robust, *clean) in tested.items():
        cells = (with_interval(c) for c in (*clean, robust))
        marked = (f"**{cell}**" if c.significant else cell for c, cell in zip((*clean, robust), cells, strict=True))
        rows.append([arm, *marked])
    return table(["", *(measure.title for measure in measures)], rows)
