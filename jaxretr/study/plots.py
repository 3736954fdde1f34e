"""Figures of a study, in the style of `jaxretr.eval.plots`: no figure relies on hue alone."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxretr.attack.report.plots import Line, curves, looks
from jaxretr.eval.plots import PALETTE, ROW, STYLE
from jaxretr.study.analysis import Contrast


def success_curves(arms: Mapping[str, Mapping[float, Sequence[float]]]) -> Figure:
    """Draw robust success@10 over ρ, with a line for each arm: the mean over seeds, in a band from minimum to maximum.

    Args:
      arms: arm -> budget -> value under each seed.
    """
    lines = {
        arm: Line(
            list(values),
            [float(np.mean(by_seed)) for by_seed in values.values()],
            [min(by_seed) for by_seed in values.values()],
            [max(by_seed) for by_seed in values.values()],
            start=1.0,
        )
        for arm, values in arms.items()
    }
    return curves(lines, "ρ: radius over the mean row norm of the checkpoint", "robust success@10")


def ratios(contrasts: Sequence[Contrast], margin: float) -> Figure:
    """Draw a row for each contrast: the ratio with its 95 % interval, filled if significant after correction.

    Args:
      contrasts: contrasts of measures with `log`.
      margin: largest difference of logarithms that counts as none; drawn as a band.
    """
    at = np.arange(len(contrasts))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, ROW * len(contrasts) + 0.9), layout="constrained")
        axes = figure.subplots()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.axvspan(math.exp(-margin), math.exp(margin), color=PALETTE["rule"], alpha=0.5, linewidth=0)
        axes.axvline(1, color=PALETTE["muted"], linewidth=0.8)
        for row, contrast in enumerate(contrasts):
            ends = np.exp(np.clip([contrast.low, contrast.high], -1, 1))
            axes.plot(ends, [row, row], color=PALETTE["ink"], linewidth=1.2)
            for difference in contrast.by_seed:
                axes.plot([math.exp(difference)], [row + 0.28], marker="|", color=PALETTE["muted"], markersize=5)
            fill = PALETTE["accent"] if contrast.significant else PALETTE["paper"]
            axes.plot(
                [math.exp(contrast.difference)],
                [row],
                marker="o",
                markersize=6,
                color=PALETTE["ink"],
                markerfacecolor=fill,
            )
        axes.set_yticks(at, [f"{one.arm} / {one.baseline}\n{one.measure.title}" for one in contrasts])
        axes.set_ylim(len(contrasts) - 0.5, -0.5)
        axes.set_axisbelow(True)
        note = "ratio; band: equivalence; filled: p < .05 after Holm; small strokes: single seeds"
        figure.supxlabel(note, size=9, color=PALETTE["muted"])
    return figure


def over_alpha(values: Mapping[str, Mapping[float, float]]) -> Figure:
    """Draw each measure over the share of monolingual batches, relative to its value at the largest share.

    Args:
      values: measure -> α -> value.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(axis="y", color=PALETTE["rule"], linewidth=0.8)
        shares = sorted({alpha for of_measure in values.values() for alpha in of_measure})
        for look, (title, of_measure) in zip(looks(len(values)), values.items(), strict=True):
            if not of_measure.get(shares[-1]):
                continue  # nothing to be relative to
            relative = [value / of_measure[shares[-1]] for value in of_measure.values()]
            axes.plot(list(of_measure), relative, label=title, linewidth=1.7, **look)
        axes.set_xticks(shares, [f"{alpha:g}" for alpha in shares])
        axes.set_xlabel("α: share of monolingual batches")
        axes.set_title(f"relative to α = {shares[-1]:g}")
        axes.legend(frameon=False, fontsize=8)
    return figure


class Mark(NamedTuple):
    """A mark of `trade_off`: robustness, clean quality in each panel, and a number that orders the strengths."""

    robustness: float
    quality: tuple[float, ...]
    strength: float


def trade_off(
    lines: Mapping[str, Sequence[Mark]],
    references: Mapping[str, Mark],
    panels: Sequence[str],
    x_title: str,
) -> Figure:
    """Draw clean quality over robustness: a panel for each measure of quality, a line for each method.

    Args:
      lines: "method" or "method, sides" -> marks; equal methods share color and marker, hollow for queries alone.
      references: marks without a line; dashed lines go through the first.
      panels: titles of the measures of quality.
      x_title: title of the measure of robustness.
    """
    methods = list(dict.fromkeys(name.partition(",")[0] for name in lines))
    look_of = dict(zip(methods, looks(len(methods)), strict=True))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * len(panels) + 0.4, 3.1), layout="constrained")
        for panel, (axes, title) in enumerate(
            zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
        ):
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.grid(color=PALETTE["rule"], linewidth=0.6)
            axes.set_axisbelow(True)
            axes.set_title(title)
            for name, marks in lines.items():
                look = look_of[name.partition(",")[0]]
                ordered = sorted(marks)
                x, y = [mark.robustness for mark in ordered], [mark.quality[panel] for mark in ordered]
                axes.plot(x, y, **look | {"marker": ""}, linewidth=1.1, alpha=0.7)
                ranks = {strength: rank for rank, strength in enumerate(sorted({mark.strength for mark in marks}))}
                sizes = [18 + 22 * ranks[mark.strength] for mark in ordered]
                fill = PALETTE["paper"] if name.endswith(", queries") else look["color"]
                axes.scatter(
                    x, y, sizes, facecolor=fill, edgecolor=look["color"], marker=look["marker"], label=name, zorder=3
                )
            for number, (name, mark) in enumerate(references.items()):
                at = mark.robustness, mark.quality[panel]
                axes.scatter(*at, 60, color=PALETTE["ink"], marker="*" if number == 0 else "x", label=name, zorder=4)
                if number == 0:
                    axes.axvline(at[0], color=PALETTE["muted"], linewidth=0.8, linestyle=(0, (3, 2)))
                    axes.axhline(at[1], color=PALETTE["muted"], linewidth=0.8, linestyle=(0, (3, 2)))
        figure.supxlabel(x_title, size=9, color=PALETTE["muted"])
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=4, frameon=False, fontsize=8, handletextpad=0.2)
    return figure
