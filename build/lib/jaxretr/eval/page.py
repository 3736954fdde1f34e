"""Building blocks of HTML reports.

Input: figures, tables and sections. Output: one self-contained HTML page.

Titles, headings and table cells are escaped; a cell that is already HTML has the type `Html`. The page embeds pictures
as SVG, and they are also written as PNG into `plots/`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

from matplotlib.figure import Figure

from jaxretr.eval import plots
from jaxretr.files import AnyPath, replaced_file

REPORT_FILE = "report.html"


class Html(str):
    """Text that is already HTML and is not escaped again."""


@dataclass(frozen=True)
class Picture:
    """A figure with its texts.

    Attributes:
      name: name of the PNG file, and prefix of the ids in the page.
      figure: a figure made by a module of plots.
      alternative: alternative text for screen readers.
      caption: caption, as HTML.
    """

    name: str
    figure: Figure
    alternative: str
    caption: str

    def html(self) -> str:
        svg = plots.svg(self.figure, self.name, self.alternative)
        return f"<figure>{scroll(svg)}<figcaption>{self.caption}</figcaption></figure>"


def write_page(
    directory: AnyPath,
    *,
    title: str,
    subtitle: str,
    sections: Iterable[str],
    pictures: Iterable[Picture],
    style: str = "",
) -> AnyPath:
    """Write `report.html` and `plots/*.png` into `directory`; each file is written atomically.

    Args:
      directory: output directory; created if absent.
      title, subtitle: plain text.
      sections: HTML from `section`; empty strings are skipped.
      pictures: the pictures of the sections, to be written as PNG.
      style: CSS rules in addition to the rules of all reports.

    Returns:
      The path of the page.
    """
    page = Template(resources.files("jaxretr.eval").joinpath("report.html").read_text("utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        palette=" ".join(f"--{name}: {value};" for name, value in plots.PALETTE.items()),
        style=style,
        sections="\n".join(filter(None, sections)),
    )
    for picture in pictures:
        with replaced_file(directory / "plots" / f"{picture.name}.png") as partial:
            partial.write_bytes(plots.png(picture.figure))
    path = directory / REPORT_FILE
    with replaced_file(path) as partial:
        partial.write_text(page, "utf-8")
    return path


def section(heading: str, content: str) -> str:
    """Return a section of the page; `content` is HTML."""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def table(heading: Sequence[str], body: Iterable[Sequence[str]], css: str = "") -> str:
    """Return a table with a heading and one row for each item of `body`, whose first cell is the row's heading."""
    columns = "".join(f'<th scope="col">{cell(one)}</th>' for one in heading)
    lines = "".join(
        f'<tr><th scope="row">{cell(first)}</th>{"".join(f"<td>{cell(one)}</td>" for one in rest)}</tr>'
        for first, *rest in body
    )
    return scroll(f'<table class="{css}"><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>')


def cell(content: str) -> str:
    """Return text as escaped HTML, and `Html` unchanged."""
    return content if isinstance(content, Html) else escape(content)


def scroll(content: str) -> str:
    """Return content in a box that scrolls if it is wider than the page, with the keyboard too."""
    return f'<div class="scroll" tabindex="0">{content}</div>'
