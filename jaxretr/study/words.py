"""Format the figures on the page of a study as Markdown."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from jaxretr.study.analysis import Contrast
from jaxretr.study.design import Measure


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; columns after the first are aligned to the right."""
    lines = [list(heading), ["---", *["---:"] * (len(heading) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', r'\|') for cell in line)} |" for line in lines)


def wrapped(text: str) -> str:
    """Return a paragraph in lines of at most 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def number(value: float, decimals: int) -> str:
    """Format a number with a fixed number of decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float, decimals: int) -> str:
    """Format a number with its sign; a dash if it is not finite."""
    return "–" if not math.isfinite(value) else f"{value:+.{decimals}f}".replace("-", "−")


def change(value: float, measure: Measure) -> str:
    """Format a difference; for a measure with `log`, the ratio, such as "× 0.93"."""
    if not measure.log:
        return signed(value, measure.decimals)
    return f"× {math.exp(value):.3f}" if math.isfinite(value) else "–"


def with_interval(contrast: Contrast) -> str:
    """Format a difference or ratio and its 95 % interval."""
    ends = (contrast.low, contrast.high)
    if contrast.measure.log:
        low, high = (f"{math.exp(end):.3f}" if math.isfinite(end) else "–" for end in ends)
    else:
        low, high = (signed(end, contrast.measure.decimals) for end in ends)
    return f"{change(contrast.difference, contrast.measure)} [{low}, {high}]"


def p_value(value: float) -> str:
    """Format a p-value with three decimals, or as "<.001"; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def seeds(count: int) -> str:
    """Format a number of seeds in words."""
    return f"{count} seeds" if count > 1 else "one seed"
