"""Pictures of an evaluation.

Input: measures by language. Output: matplotlib figures, and PNG and SVG made from them.

No picture relies on hue alone: values are printed, and the query's own language also differs in lightness. In SVG, the
colors of `PALETTE` become custom properties of the surrounding page, such as `--ink` and `--muted`, so one picture
serves light and dark pages.
"""

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float64
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

PALETTE = {
    "ink": "#1d232b",
    "muted": "#5f6874",
    "rule": "#d8dde3",
    "accent": "#1f5c99",
    "on-accent": "#fefefe",
    "bar": "#8cb0d6",
    "band-a": "#d9dfe6",
    "band-b": "#e8ecf1",
    "paper": "#fdfdfd",
}
"""The colors of light pages and of PNG. All are different, because SVG recognizes each color by its value."""

_HEAT = LinearSegmentedColormap.from_list("heat", ["#f1f5fa", "#b5cce4", "#6397c8", "#20609f", "#0c2e56"])
ROW = 0.27
"""Height of the bar of one language, in inches."""
CHARACTER = 0.078
"""Width of a character, in inches."""
STYLE: Any = {
    "figure.facecolor": PALETTE["paper"],
    "axes.facecolor": "none",
    "font.size": 9,
    "axes.labelcolor": PALETTE["muted"],
    "axes.titlecolor": PALETTE["muted"],
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "jaxretr",  # makes the bytes of a picture reproducible
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["muted"],
    "text.parse_math": False,  # a dollar sign is printed, not parsed
    "ytick.labelcolor": PALETTE["ink"],
}
"""matplotlib settings for every picture."""


def heat_map(
    values: Float64[np.ndarray, "query_languages passage_languages"],
    query_languages: Sequence[str],
    passage_languages: Sequence[str],
    *,
    row_title: str = "queries in",
    column_title: str = "passages in",
) -> Figure:
    """Draw a measure for each pair of languages, printed in its cell; bold if query and passages share the language.

    Args:
      values: values of the measure; NaN if undefined. The color scale spans the smallest range of whole tenths that
        contains all defined values.
      query_languages: tags of the rows.
      passage_languages: tags of the columns.
      row_title: label of the row axis.
      column_title: label of the column axis.
    """
    shade = Normalize(math.floor(np.nanmin(values) * 10) / 10, math.ceil(np.nanmax(values) * 10) / 10)
    width = max(0.46, CHARACTER * max(map(len, passage_languages)) + 0.1)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(width * len(passage_languages) + 0.9, 0.32 * len(query_languages) + 0.6)
        axes.pcolormesh(np.ma.masked_invalid(values), cmap=_HEAT, norm=shade, edgecolors=PALETTE["paper"], linewidth=1)
        for (row, column), value in np.ndenumerate(values):
            color = PALETTE["muted"] if math.isnan(value) else "#ffffff" if shade(value) > 0.632 else "#000000"
            weight = "bold" if query_languages[row] == passage_languages[column] else "normal"
            write_inside(axes, column + 0.5, row + 0.5, number(value, 2).removeprefix("0"), color=color, weight=weight)
        label_rows(axes, query_languages, first=0.5, title=row_title)
        axes.set_xticks(np.arange(len(passage_languages)) + 0.5, passage_languages, color=PALETTE["ink"])
        axes.tick_params(top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.set_xlabel(column_title, labelpad=8)
        axes.xaxis.set_label_position("top")
    return figure


def bars(
    values: Float64[np.ndarray, " query_languages"],
    query_languages: Sequence[str],
    title: str,
    decimals: int,
    expected: float | None = None,
) -> Figure:
    """Draw a bar for each language, with its value beside it.

    Args:
      values: non-negative values; NaN if undefined.
      query_languages: tags of the bars.
      title: title of the picture.
      decimals: number of decimals of the printed values.
      expected: value at which to draw a line across all bars; None draws no line.
    """
    at = np.arange(len(query_languages))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.5, ROW * len(query_languages) + 0.4)
        drawn = axes.barh(at, np.nan_to_num(values), height=0.62, color=PALETTE["bar"])
        axes.bar_label(drawn, [number(value, decimals) for value in values], padding=4)
        axes.set_xlim(0, float(np.nanmax([1e-9, expected or 0, *values])) * 1.16)
        axes.set_xticks([])
        label_rows(axes, query_languages)
        axes.set_title(title)
        if expected is not None:
            axes.axvline(expected, color=PALETTE["ink"], linewidth=1, linestyle=(0, (4, 2)))
    return figure


def language_mix(
    shares: Float64[np.ndarray, "query_languages passage_languages"],
    query_languages: Sequence[str],
    passage_languages: Sequence[str],
) -> Figure:
    """Draw one bar for each query language, divided by the languages of the top passages.

    The segment of the query's own language is highlighted.

    Args:
      shares: shares of the languages; each row sums to 1.
      query_languages: tags of the bars.
      passage_languages: tags of the segments, from the left; written into segments that are wide enough.
    """
    inches = 6.6
    starts = np.cumsum(shares, axis=1) - shares
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(inches + 0.6, ROW * len(query_languages) + 0.5)
        for row, query_language in enumerate(query_languages):
            bands = [PALETTE["band-b" if column % 2 else "band-a"] for column in range(len(passage_languages))]
            fills = [
                PALETTE["accent"] if name == query_language else band
                for name, band in zip(passage_languages, bands, strict=True)
            ]
            spans = [*zip(starts[row].tolist(), shares[row].tolist(), strict=True)]
            axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=fills, edgecolor=PALETTE["paper"], linewidth=0.8)
            for name, (start, share) in zip(passage_languages, spans, strict=True):
                if share * inches > CHARACTER * len(name) + 0.06:
                    color = PALETTE["on-accent" if name == query_language else "ink"]
                    write_inside(axes, start + share / 2, float(row), name, color=color, size=8)
        label_rows(axes, query_languages)
        axes.set_xlim(0, 1)
        axes.set_xticks(np.linspace(0, 1, 5), ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.tick_params(axis="x", length=3)
    return figure


def png(figure: Figure) -> bytes:
    """Return the picture as PNG on light paper, with 200 dots per inch."""
    return _saved(figure, format="png", dpi=200)


def svg(figure: Figure, name: str, alternative: str) -> Markup:
    """Return the picture as an SVG element for HTML, transparent and in the colors of the page.

    Args:
      figure: a figure made by a function of this module.
      name: prefix of the ids in the SVG, so that one page can hold several pictures.
      alternative: alternative text for screen readers.
    """
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    text = _saved(figure, format="svg", transparent=True, metadata=metadata).decode().partition("<svg")[2]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)
    for color, value in PALETTE.items():
        text = text.replace(value, f"var(--{color})")
    return Markup('<svg role="img" aria-label="{}"').format(alternative) + Markup(text)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, but at least high enough for the label of the rows."""
    figure = Figure(figsize=(width, max(height, 1.2)), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def label_rows(axes: Axes, languages: Sequence[str], first: float = 0, title: str = "queries in") -> None:
    """Label the rows with tags from the top down, the first centered at `first`; no margins above and below."""
    axes.set_yticks(first + np.arange(len(languages)), languages)
    axes.set_ylim(first + len(languages) - 0.5, first - 0.5)
    axes.set_ylabel(title, labelpad=8)


def write_inside(axes: Axes, x: float, y: float, text: str, **font: Any) -> None:
    """Write text in the middle of a cell; the layout reserves no space for it."""
    axes.text(x, y, text, ha="center", va="center_baseline", **font).set_in_layout(False)


def number(value: float, decimals: int) -> str:
    """Format a value for a picture; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:,.{decimals}f}"


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, **options)
    return buffer.getvalue()
