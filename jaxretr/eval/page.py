"""Render HTML reports from the Jinja templates in `jaxretr/templates/`.

Input: the name of a template, its values and pictures. Output: one self-contained HTML page, and the pictures as PNG.

The templates escape every value except `Markup`. Only this package's own markup may be `Markup`: pictures as SVG
(`jaxretr.eval.plots.svg`), and labeled texts of attacks (`jaxretr.attack.report.visible`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from jaxretr.eval import plots
from jaxretr.files import AnyPath, replaced_file

_TEMPLATES = Environment(
    loader=PackageLoader("jaxretr"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Picture:
    """A figure with its texts.

    Attributes:
      name: name of the PNG file, and prefix of the ids in the page.
      figure: a figure made by a module of plots.
      alternative: alternative text for screen readers.
      caption: caption, plain text.
    """

    name: str
    figure: Figure
    alternative: str
    caption: str

    @property
    def svg(self) -> Markup:
        return plots.svg(self.figure, self.name, self.alternative)


def write_page(directory: AnyPath, template: str, pictures: Mapping[str, Iterable[Picture]], **values: Any) -> AnyPath:
    """Write `report.html` and `plots/*.png` into `directory`; each file is written atomically.

    Args:
      directory: output directory; created if absent.
      template: name of a template that extends `base.html`.
      pictures: name of a section in the template -> its pictures.
      values: the other variables of the template. A missing variable raises `jinja2.UndefinedError`.

    Returns:
      The path of the page.
    """
    drawn = {section: [*some] for section, some in pictures.items()}
    page = _TEMPLATES.get_template(template).render(palette=plots.PALETTE, pictures=drawn, **values)
    for picture in chain.from_iterable(drawn.values()):
        with replaced_file(directory / "plots" / f"{picture.name}.png") as partial:
            partial.write_bytes(plots.png(picture.figure))
    path = directory / "report.html"
    with replaced_file(path) as partial:
        partial.write_text(page, "utf-8")
    return path
