"""The report of attacks as a browser shows it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from jaxretr.attack.report.page import write_report
from tests.attack.report_example import HOSTILE, systems
from tests.eval.test_report_browser import browser, opened  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

TEXTS = ".strings li > p"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield write_report(tmp_path_factory.mktemp("report"), systems(3))


def test_nothing_is_loaded_and_nothing_complains(browser: Browser, report: Path) -> None:  # noqa: F811
    page = browser.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(report.as_uri(), wait_until="load")
    page.wait_for_load_state("networkidle")
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert complaints == []
    assert HOSTILE in str(page.text_content("main"))
    assert page.locator("script").count() == 0


def test_an_attack_on_the_order_of_letters_does_not_reorder_the_page(browser: Browser, report: Path) -> None:  # noqa: F811
    """The letters after an override, in a box, stand in the order in which they are stored, from left to right."""
    page = opened(browser, report)
    text = page.locator(TEXTS, has_text="RLO").first
    places = text.evaluate(
        """p => {
          const found = [], walker = document.createTreeWalker(p, NodeFilter.SHOW_TEXT);
          for (let node = walker.nextNode(); node; node = walker.nextNode())
            for (let i = 0; i < node.length; i++) {
              const range = document.createRange(); range.setStart(node, i); range.setEnd(node, i + 1);
              found.push(range.getBoundingClientRect().left);
            }
          return found;
        }"""
    )
    assert len(places) > 20 and (np.diff(places) >= 0).all()


def test_arabic_with_a_box_inside_is_read_from_the_right(browser: Browser, report: Path) -> None:  # noqa: F811
    """The Latin letters of the label neither turn the paragraph nor exchange the two halves of the word."""
    page = opened(browser, report)
    text = page.locator(TEXTS, has_text="ZWJ").first
    assert text.evaluate("p => getComputedStyle(p).direction") == "rtl"
    before, label, after = text.evaluate(
        """p => {
          const box = p.querySelector("bdi"), middle = one => {
            const range = document.createRange(); range.selectNodeContents(one);
            const place = range.getBoundingClientRect(); return (place.left + place.right) / 2;
          };
          return [middle(p.firstChild), middle(box), middle(p.lastChild)];
        }"""
    )
    assert before > label > after


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways(browser: Browser, report: Path, width: int) -> None:  # noqa: F811
    page = opened(browser, report, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_and_boxes_take_the_colours_of_the_page(browser: Browser, report: Path, scheme: str) -> None:  # noqa: F811
    page = opened(browser, report, scheme=scheme)
    paper = np.array(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))
    assert (paper.mean() > 128) == (scheme == "light")
    for picture in (*page.locator("svg").all()[:4], page.locator("svg").last):
        pixels = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
        assert abs(int(pixels[0, 0]) - paper.mean()) < 3 and np.ptp(pixels) > 120
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert page.locator("bdi.code").first.evaluate("box => getComputedStyle(box).color") == ink
