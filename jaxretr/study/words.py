"""How the page of a study writes figures: values come in, Markdown goes out."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from jaxretr.study.analysis import Contrast


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right of the first column."""
    lines = [list(heading), ["---", *["---:"] * (len(heading) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', r'\|') for cell in line)} |" for line in lines)


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def number(value: float, decimals: int) -> str:
    """A dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float, decimals: int) -> str:
    """With its sign; a dash for what is not finite."""
    return "–" if not math.isfinite(value) else f"{value:+.{decimals}f}".replace("-", "−")


def with_interval(one: Contrast) -> str:
    """A difference and its 95 % interval."""
    decimals = one.measure.decimals
    return f"{signed(one.difference, decimals)} [{signed(one.low, decimals)}, {signed(one.high, decimals)}]"


def p_value(value: float) -> str:
    """Three decimals, or that it is smaller."""
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def seeds(count: int) -> str:
    """How many, in words."""
    return f"{count} seeds" if count > 1 else "one seed"
