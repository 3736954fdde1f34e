from itertools import pairwise

import numpy as np
import pytest
from matplotlib.text import Text

from jaxretr.attack.report import plots
from jaxretr.attack.report.plots import Line
from jaxretr.eval.plots import png, svg
from tests.eval.test_plots import luminance

BUDGETS = [0.01, 0.1, 1.0]


def lines(count: int) -> dict[str, Line]:
    return {f"system {i}": Line(BUDGETS, [1 - 0.01 * i, 0.6, 0.1 * i / count], start=1.0) for i in range(count)}


def curves_of(figure) -> list:
    """The lines through all budgets, without those that lead to the clean value."""
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(BUDGETS)]


def test_curves_go_through_their_values_on_a_logarithmic_axis() -> None:
    figure = plots.curves(lines(2), "rho", "success")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    first, second = curves_of(figure)
    np.testing.assert_allclose(first.get_xydata(), [*zip(BUDGETS, [1, 0.6, 0.0], strict=True)])
    np.testing.assert_allclose(second.get_ydata(), [0.99, 0.6, 0.05])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["clean", "0.01", "0.1", "1"]
    left = axes.get_xticks()[0]
    starts = [line for line in axes.lines if line.get_xdata()[0] == left]
    assert left < BUDGETS[0] and {float(line.get_ydata()[0]) for line in starts} == {1.0}


def test_bands_are_where_they_should_be() -> None:
    figure = plots.curves({"a": Line(BUDGETS, [0.9, 0.5, 0.1], [0.8, 0.4, 0.0], [1.0, 0.7, 0.3])}, "rho", "success")
    (band,) = figure.axes[0].collections
    corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    assert {(0.01, 0.8), (0.01, 1.0), (0.1, 0.4), (0.1, 0.7), (1.0, 0.0), (1.0, 0.3)} <= corners


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_lines_are_told_apart_without_hue(count: int) -> None:
    found = curves_of(plots.curves(lines(count), "rho", "success"))
    assert len({line.get_marker() for line in found}) == count
    looks = {(str(line._dash_pattern), round(luminance(line.get_color()), 2)) for line in found}
    assert len(looks) == count


@pytest.mark.parametrize("count", [1, 5, 7])
def test_names_stand_apart_at_the_ends(count: int) -> None:
    figure = plots.curves(lines(count), "rho", "success")
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the threads
    assert [text.get_text() for text in figure.axes[0].texts] == [*lines(count)]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert max(box.x1 for box in boxes) <= figure.bbox.x1 and min(box.y0 for box in boxes) >= 0


def test_close_budgets_do_not_overlap() -> None:
    budgets = [0.01, 0.03, 0.05, 0.06, 0.1, 0.11, 0.3, 0.5, 1.0, 3.0]
    figure = plots.curves(
        {"a": Line(budgets, [0.5] * 10, start=1.0)}, "rho", "success", second={0.01: ".02", 1.0: "1.7"}
    )
    figure.draw_without_rendering()
    boxes = sorted((tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()), key=lambda box: box.x0)
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    (top,) = figure.axes[0].child_axes
    assert [tick.get_text() for tick in top.get_xticklabels()] == [".02", "1.7"]


def test_spread_moves_no_more_than_needed() -> None:
    assert plots.spread([0.1, 0.9, 0.5], 0.1) == [0.1, 0.9, 0.5]
    moved = plots.spread([0.0, 0.0, 0.0], 0.1)
    assert sorted(moved) == pytest.approx([0, 0.1, 0.2])
    assert sorted(plots.spread([1.0, 1.0, 0.97], 0.1)) == pytest.approx([0.8, 0.9, 1.0])
    assert sorted(plots.spread([0.5] * 5, 0.9)) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_paired_bars_have_the_length_of_their_values() -> None:
    figure = plots.paired_bars(np.array([0.8, np.nan]), np.array([0.4, 0.25]), ["ar", "de"], "nDCG@10", 2, limit=1.0)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.8, 0, 0.4, 0.25]
    assert [text.get_text() for text in axes.texts] == ["0.80", "–", "0.40", "0.25"]
    assert axes.get_xlim()[1] > 1
    clean, attacked = axes.patches[0].get_facecolor(), axes.patches[2].get_facecolor()
    assert luminance(clean) > 2 * luminance(attacked)


def test_roc_curves_show_the_rate_that_matters() -> None:
    roc = ([0.0, 0.005, 0.5, 1.0], [0.2, 0.6, 0.9, 1.0])
    figure = plots.roc_curves({name: {"norm": roc, "hubness": roc} for name in ("ar", "de", "en", "hi", "zh")}, 0.01)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == ["ar", "de", "en", "hi", "zh"]
    for axes in shown:
        chance, rate, *filters = axes.lines
        np.testing.assert_array_equal(chance.get_xdata(), chance.get_ydata())
        assert rate.get_xdata() == [0.01, 0.01]
        assert len(filters) == 2
        np.testing.assert_allclose(filters[0].get_xdata(), [0.001, 0.005, 0.5, 1])  # 0 has no logarithm
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["norm", "hubness"]


def test_the_same_figure_has_the_same_bytes_and_a_dollar_is_a_dollar() -> None:
    one, other = (plots.curves({"$a$ & $b$": Line(BUDGETS, [1.0, 0.5, 0.0])}, "rho", "success") for _ in range(2))
    assert png(one) == png(other)
    assert svg(one, "a", "b") == svg(other, "a", "b")
    assert "$a$ &amp; $b$" in svg(one, "a", "b")
