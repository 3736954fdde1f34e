"""Plots of attack reports: curves over budgets, paired clean and attacked bars, and ROC curves.

The plots are matplotlib figures in the style of `jaxretr.eval.plots`, which also provides the palette and renders them
(`png`, `svg`). Lines differ in dashes, markers and lightness and are labeled at their ends, so that no line is
identified by its hue alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from jaxretr.eval.plots import CHARACTER, PALETTE, ROW, STYLE, label_rows, new_figure, number

_LINES: tuple[dict[str, Any], ...] = (
    {"color": PALETTE["accent"], "linestyle": "-", "marker": "o"},
    {"color": PALETTE["ink"], "linestyle": (0, (5, 2)), "marker": "s"},
    {"color": PALETTE["bar"], "linestyle": "-", "marker": "^"},
    {"color": PALETTE["muted"], "linestyle": (0, (1, 1.5)), "marker": "D"},
    {"color": PALETTE["accent"], "linestyle": (0, (6, 2, 1, 2)), "marker": "v"},
    {"color": PALETTE["ink"], "linestyle": (0, (2, 1)), "marker": "P"},
    {"color": PALETTE["bar"], "linestyle": (0, (4, 1, 1, 1)), "marker": "X"},
)
_PANEL = 1.75  # side of one small multiple, in inches
_LOWEST_RATE = 1e-3  # start of the axis of false positives


class Line(NamedTuple):
    """One line over budgets.

    Attributes:
      budgets: positive budgets, ascending.
      values: value at each budget.
      low, high: bounds of a band around the line, or None.
      start: value without an attack, drawn at the left edge, or None.
    """

    budgets: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    start: float | None = None


def curves(
    lines: Mapping[str, Line], x_title: str, y_title: str, *, second: Mapping[float, str] | None = None
) -> Figure:
    """Plot shares over a logarithmic axis of budgets, with the name of each line at its right end.

    Args:
      lines: lines by name, each with at least one budget.
      x_title: title of the budgets.
      y_title: title of the values, which lie between 0 and 1.
      second: labels of budgets on a second axis on top, which shows radii over the distance to the nearest row.
    """
    budgets = sorted({budget for line in lines.values() for budget in line.budgets})
    with_start = any(line.start is not None for line in lines.values())
    left = budgets[0] / (2.2 if len(budgets) < 2 else max(1.6, (budgets[-1] / budgets[0]) ** (1 / (len(budgets) - 1))))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(5.2 + min(2.4, CHARACTER * max(map(len, lines))), 3.2)
        _frame(axes)
        axes.set_xscale("log")
        axes.minorticks_off()
        for (_, line), look in zip(lines.items(), looks(len(lines)), strict=True):
            x, y = list(line.budgets), list(line.values)
            if line.low is not None and line.high is not None:
                axes.fill_between(
                    x, line.low, line.high, color=look["color"], alpha=0.16 if len(lines) < 4 else 0.09, linewidth=0
                )
            if line.start is not None:
                axes.plot([left, x[0]], [line.start, y[0]], **look | {"marker": ""}, linewidth=1, alpha=0.6)
                axes.plot([left], [line.start], **look | {"linestyle": ""}, markersize=4.5, clip_on=False)
            axes.plot(x, y, **look, linewidth=1.7, markersize=4.5, clip_on=False, zorder=3)
        ticks, labels = _readable([*([left] if with_start else []), *budgets], ["clean"] if with_start else [])
        axes.set_xticks(ticks, labels)
        margin = (budgets[-1] / ticks[0]) ** 0.04
        axes.set_xlim(ticks[0] / margin, budgets[-1] * margin)
        axes.set_ylim(0, 1)
        axes.set_yticks(np.linspace(0, 1, 6), ["0", ".2", ".4", ".6", ".8", "1"])
        axes.set_xlabel(x_title)
        axes.set_title(y_title)
        _name_ends(axes, lines)
        if second:
            top = axes.secondary_xaxis("top")
            kept = [tick for tick in ticks if tick in second]
            top.set_xticks(kept, [second[tick] for tick in kept])
            top.minorticks_off()
            top.tick_params(length=0, labelsize=8)
            top.spines[:].set_visible(False)
            top.set_xlabel("ε / distance to the nearest row", fontsize=8)
            axes.set_title("")
            axes.set_ylabel(y_title)
    return figure


def paired_bars(
    clean: Float64[np.ndarray, " query_languages"],
    attacked: Float64[np.ndarray, " query_languages"],
    query_languages: Sequence[str],
    title: str,
    decimals: int,
    limit: float | None = None,
) -> Figure:
    """Plot two bars per language, clean above attacked, with their values beside them.

    Args:
      clean: nonnegative values without an attack; NaN if there is none.
      attacked: values under the attack.
      query_languages: language tags that label the bars.
      title: title of the values.
      decimals: decimals of the printed values.
      limit: value that the axis is scaled to, so that pictures compare; the longest bar if None.
    """
    at = np.arange(len(query_languages))
    longest = limit if limit is not None else float(np.nanmax([1e-9, *clean, *attacked]))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.6, max(1.5, 1.55 * ROW * len(query_languages) + 0.75))
        for offset, values, colour, name in (
            (-0.2, clean, PALETTE["bar"], "clean"),
            (0.2, attacked, PALETTE["accent"], "attacked"),
        ):
            drawn = axes.barh(at + offset, np.nan_to_num(values), height=0.37, color=colour, label=name)
            axes.bar_label(drawn, [number(value, decimals) for value in values], padding=4, size=8)
        label_rows(axes, query_languages)
        axes.set_xlim(0, longest * 1.18)
        axes.set_xticks([])
        axes.set_title(title)
        figure.legend(loc="outside lower left", ncols=2, frameon=False, handlelength=1, handleheight=1, fontsize=8)
    return figure


def roc_curves(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], rate: float) -> Figure:
    """Plot ROC curves as small multiples, with false positives on a logarithmic axis.

    Args:
      panels: language -> filter -> false and true positive rates, ascending.
      rate: false positive rate at which to draw a vertical line.
    """
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    look_of = dict(zip(names, looks(len(names)), strict=True))
    with matplotlib.rc_context(STYLE):
        width = max(3.0, _PANEL * columns + 0.6)
        figure = Figure(figsize=(width, _PANEL * rows + 0.55 + 0.2 * len(names)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (language, panel) in zip(grid.flat, panels.items(), strict=False):
            _frame(axes)
            axes.set_xscale("log")
            axes.minorticks_off()
            chance = np.geomspace(_LOWEST_RATE, 1)
            axes.plot(chance, chance, color=PALETTE["rule"], linewidth=1)
            axes.axvline(rate, color=PALETTE["muted"], linewidth=0.8, linestyle=(0, (3, 2)))
            for name, (false, true) in panel.items():
                x = np.maximum(false, _LOWEST_RATE)
                look = look_of[name] | {"marker": ""}
                axes.step(x, true, where="post", **look, linewidth=1.6, label=name)
            axes.set_xlim(_LOWEST_RATE, 1)
            axes.set_ylim(0, 1.02)
            axes.set_xticks([0.001, 0.01, 0.1, 1], ["0", "1 %", "10 %", ""])
            axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_title(language, color=PALETTE["ink"])
        figure.supxlabel("clean texts refused", size=9, color=PALETTE["muted"])
        figure.supylabel("adversarial texts refused", size=9, color=PALETTE["muted"])
        handles = [matplotlib.lines.Line2D([], [], **look_of[name] | {"marker": ""}, linewidth=1.6) for name in names]
        figure.legend(handles, names, loc="outside upper left", ncols=1, frameon=False, handlelength=3, fontsize=8)
    return figure


def looks(count: int) -> list[dict[str, Any]]:
    """Return color, dashes and marker for each of `count` lines."""
    return [_LINES[i % len(_LINES)] for i in range(count)]


def _frame(axes: Axes) -> None:
    """Replace the box around the axes with faint horizontal grid lines."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=PALETTE["rule"], linewidth=0.8)
    axes.set_axisbelow(True)


def _readable(ticks: Sequence[float], first: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return the ticks that are far enough apart to be labeled, chosen from the largest down, and their labels."""
    span = math.log(ticks[-1] / ticks[0]) or 1
    kept: list[int] = []
    for i in reversed(range(len(ticks))):
        if not kept or math.log(ticks[kept[-1]] / ticks[i]) > 0.055 * span:
            kept.append(i)
    if first and kept[-1] != 0:
        kept[-1] = 0
    labels = [*first, *(f"{tick:g}" for tick in ticks[len(first) :])]
    return [ticks[i] for i in reversed(kept)], [labels[i] for i in reversed(kept)]


def _name_ends(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Write the name and marker of each line right of its end, spaced apart, with a thin line to the end."""
    ends = [line.values[-1] for line in lines.values()]
    for (name, line), at, look in zip(lines.items(), spread(ends, 0.075), looks(len(lines)), strict=True):
        axes.text(1.075, at, name, va="center", transform=axes.transAxes)
        axes.plot([1.05], [at], **look | {"linestyle": ""}, markersize=4.5, clip_on=False, transform=axes.transAxes)
        thread = ConnectionPatch(
            (1.05, at),
            (line.budgets[-1], line.values[-1]),
            coordsA=axes.transAxes,
            coordsB=axes.transData,
            color=look["color"],
            linewidth=0.8,
            shrinkB=5,
        )
        axes.add_artist(thread)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places in [0, 1] as little as possible so that they are `gap` apart, and keep their order."""
    order = sorted(range(len(places)), key=lambda i: (places[i], -i))
    gap = min(gap, 1 / max(1, len(places) - 1))
    moved = [min(max(places[i], 0.0), 1.0) for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    found = [0.0] * len(places)
    for i, place in zip(order, moved, strict=True):
        found[i] = place
    return found
