import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from PIL import Image

from jaxretr.eval import plots

LANGUAGES = ("ar", "de", "pt-BR")
VALUES = np.array([[0.81, 0.4, np.nan], [0.333, 0.9, 1.0], [0.5, 0.6, 0.7]])
SVG = "{http://www.w3.org/2000/svg}"


def luminance(colour: object) -> float:
    """Relative luminance and, below, contrast ratio as WCAG 2 defines them."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]  # type: ignore[arg-type]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: object, other: object) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_heat_map_prints_every_value_and_sets_the_diagonal_in_bold() -> None:
    figure = plots.heat_map(VALUES, LANGUAGES, LANGUAGES)
    assert texts(figure) == [".81", ".40", "–", ".33", ".90", "1.00", ".50", ".60", ".70"]
    bold = [text.get_text() for text in figure.axes[0].texts if text.get_weight() == "bold"]
    assert bold == [".81", ".90", ".70"]
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert places[".40"] == (1.5, 0.5) and places[".33"] == (0.5, 1.5)  # a row is a query language


def test_a_heat_map_is_legible_without_hue() -> None:
    """Lightness falls with the value, and every value stands out from its shade (WCAG's AA for text asks for 4.5)."""
    values = np.linspace(0, 1, 201)[None]
    figure = plots.heat_map(values, ["en"], [str(i) for i in range(201)])
    mesh = figure.axes[0].collections[0]
    shades = mesh.to_rgba(values[0])[:, :3]
    assert (np.diff([luminance(shade) for shade in shades]) < 0).all()
    printed = [text.get_color() for text in figure.axes[0].texts]
    assert min(contrast(shade, colour) for shade, colour in zip(shades, printed, strict=True)) > 4.5


def test_bars_have_the_length_of_their_values() -> None:
    figure = plots.bars(np.array([1234.4, np.nan, 20.6]), LANGUAGES, "rank distance", 0)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1234.4, 0, 20.6]
    assert texts(figure) == ["1,234", "–", "21"]
    assert figure.axes[0].get_title(loc="left") == "rank distance"
    assert not figure.axes[0].lines


def test_the_line_of_what_is_expected_lies_within_the_picture() -> None:
    axes = plots.bars(np.array([0.1, 0.2, 0.1]), LANGUAGES, "share", 2, expected=0.5).axes[0]
    assert axes.lines[0].get_xdata() == [0.5, 0.5]
    assert axes.get_xlim()[1] > 0.5


def test_the_language_mix_adds_up_and_shows_the_own_language() -> None:
    shares = np.array([[0.5, 0.49, 0.01], [0.25, 0.25, 0.5], [0, 0, 1]])
    axes = plots.language_mix(shares, LANGUAGES, LANGUAGES).axes[0]
    parts = [[path.get_extents() for path in bar.get_paths()] for bar in axes.collections]
    np.testing.assert_allclose([[part.width for part in bar] for bar in parts], shares)
    np.testing.assert_allclose([bar[2].x0 for bar in parts], [0.99, 0.5, 0])
    accent = to_rgba(plots.PALETTE["accent"])
    own = [[tuple(colour) == accent for colour in bar.get_facecolor()] for bar in axes.collections]
    assert own == np.eye(3, dtype=bool).tolist()
    # Tags only where there is room: not in the part of one per cent.
    written = [(text.get_text(), round(text.get_position()[0], 3)) for text in axes.texts]
    assert written == [("ar", 0.25), ("de", 0.745), ("ar", 0.125), ("de", 0.375), ("pt-BR", 0.75), ("pt-BR", 0.5)]
    for band in ("band-a", "band-b"):
        assert contrast(plots.PALETTE["accent"], plots.PALETTE[band]) > 3  # WCAG: parts of graphics


def test_svg_takes_its_colours_from_the_page_and_keeps_its_text() -> None:
    element = plots.svg(plots.heat_map(VALUES, LANGUAGES, LANGUAGES), "pairs", 'nDCG@10 "<high>"')
    root = ET.fromstring(element)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert root.get("aria-label") == 'nDCG@10 "<high>"'
    written = ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]
    assert {"ar", "pt-BR", ".81", "queries in"} <= {*written}
    assert "var(--ink)" in element and "var(--paper)" in element
    assert not [colour for colour in plots.PALETTE.values() if colour in element]


def test_two_svgs_share_no_ids() -> None:
    figure = plots.heat_map(VALUES, LANGUAGES, LANGUAGES)
    one, other = (ET.fromstring(plots.svg(figure, name, "")) for name in ("one", "other"))
    ids = [{element.get("id") for element in root.iter() if element.get("id")} for root in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    used = {element.get("clip-path") for element in one.iter() if element.get("clip-path")}
    assert used and used <= {f"url(#{id})" for id in ids[0]}


def test_the_same_figure_has_the_same_bytes() -> None:
    one, other = (plots.heat_map(VALUES, LANGUAGES, LANGUAGES) for _ in range(2))
    assert plots.svg(one, "a", "b") == plots.svg(other, "a", "b")
    assert plots.png(one) == plots.png(other)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_any_number_of_languages(count: int) -> None:
    languages = [f"x{i}" for i in range(count)]
    shares = np.full((count, count), 1 / count)
    for figure in (
        plots.heat_map(shares, languages, languages),
        plots.bars(shares[0], languages, "share", 2, expected=0.1),
        plots.language_mix(shares, languages, languages),
    ):
        figure.draw_without_rendering()
        assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == languages
        # The first language is on top, and nothing is cut off.
        assert np.diff([tick.get_window_extent().y0 for tick in figure.axes[0].get_yticklabels()]).max(initial=-1) < 0
        box = figure.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def test_png_is_a_picture() -> None:
    figure = plots.heat_map(VALUES, LANGUAGES, LANGUAGES)
    image = Image.open(io.BytesIO(plots.png(figure)))
    image.load()
    assert image.format == "PNG"
    assert image.size == tuple(round(inches * 200) for inches in figure.get_size_inches())
    pixels = np.asarray(image.convert("L"))
    assert pixels[0, 0] > 250  # light paper, not transparent
    assert np.ptp(pixels) > 200
