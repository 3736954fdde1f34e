"""Format the figures on the page of a study as Markdown."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from jaxretr.study.analysis import Contrast


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


def with_interval(contrast: Contrast) -> str:
    """Format a difference and its 95 % interval."""
    decimals = contrast.measure.decimals
    return (
        f"{signed(contrast.difference, decimals)} [{signed(contrast.low, decimals)}, {signed(contrast.high, decimals)}]"
    )


def p_value(value: float) -> str:
    """Format a p-value with three decimals, or as "<.001"."""
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def seeds(count: int) -> str:
    """Format a number of seeds in words."""
    return f"{count} seeds" if count > 1 else "one seed"
