"""What reports are made of: figures, tables and sections come in, one HTML page that needs nothing but itself goes out.

Text is escaped here and nowhere else, so whatever is already HTML says so with its type. Pictures stand in the page as
SVG and go out as PNG too, into `plots/`.
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
    """Text that is HTML already: put into the page as it is."""


@dataclass(frozen=True)
class Picture:
    """A figure and its words.

    Attributes:
      name: of its file; its ids in the page begin with it.
      figure: made by a function of a module of plots.
      alternative: what screen readers say in its place.
      caption: HTML.
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
    """Writes `report.html` and `plots/*.png` into `directory`, each whole or not at all.

    Args:
      directory: made if it does not exist.
      title, subtitle: text.
      sections: HTML, made by `section`; empty ones are left out.
      pictures: those in the sections.
      style: rules of CSS besides those of all reports.

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
    """A section of the page; `content` is HTML."""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def table(heading: Sequence[str], body: Iterable[Sequence[str]], css: str = "") -> str:
    """A table with a heading and a line for each row of `body`, whose first cell names it."""
    columns = "".join(f'<th scope="col">{cell(one)}</th>' for one in heading)
    lines = "".join(
        f'<tr><th scope="row">{cell(first)}</th>{"".join(f"<td>{cell(one)}</td>" for one in rest)}</tr>'
        for first, *rest in body
    )
    return scroll(f'<table class="{css}"><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>')


def cell(content: str) -> str:
    """Text as HTML; `Html` as it is."""
    return content if isinstance(content, Html) else escape(content)


def scroll(content: str) -> str:
    """What may be wider than the page scrolls by itself, with the keyboard too."""
    return f'<div class="scroll" tabindex="0">{content}</div>'
