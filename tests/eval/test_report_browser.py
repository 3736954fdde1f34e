"""The report as a browser shows it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from jaxretr.eval.report import write_report
from tests.eval.report_example import HOSTILE, example

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # in the group `browser`, not needed to collect these tests

    if not CHROMIUM.exists():
        pytest.fail(f"there is no {CHROMIUM}; install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With so many languages that the pictures are wider than a phone."""
    found = example([f"{name}-{i}" for i in range(4) for name in ("ar", "de", "en")])
    return write_report(tmp_path_factory.mktemp("report"), found.results, found.collection, found.top)


def opened(browser: Browser, report: Path, width: int = 1280, scheme: str = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(report.as_uri())
    return page


def test_nothing_is_loaded_and_nothing_complains(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(report.as_uri(), wait_until="networkidle")
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert complaints == []
    assert HOSTILE in str(page.text_content("main"))
    assert page.locator("script").count() == 0


def test_arabic_is_read_from_the_right(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    # Of every text: language, direction, and how far its one line is from the left and right edges of its paragraph.
    texts = page.eval_on_selector_all(
        "p[lang]",
        """all => all.map(p => {
          const range = document.createRange(); range.selectNodeContents(p);
          const line = range.getBoundingClientRect(), box = p.getBoundingClientRect();
          return [p.lang, getComputedStyle(p).direction, line.left - box.left, box.right - line.right];
        })""",
    )
    arabic = [text for text in texts if text[0].startswith("ar")]
    others = [text for text in texts if not text[0].startswith("ar")]
    assert len(arabic) > 10 and len(others) > 10
    assert all(direction == "rtl" and right < 1 < left for _, direction, left, right in arabic)
    assert all(direction == "ltr" and left < 1 < right for _, direction, left, right in others)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways(browser: Browser, report: Path, width: int) -> None:
    page = opened(browser, report, width)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # What is wider than a phone scrolls in its box.
    wide = page.eval_on_selector_all(".scroll", "all => all.filter(one => one.scrollWidth > one.clientWidth).length")
    assert (wide > 0) == (width < 1280)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_take_the_colours_of_the_page(browser: Browser, report: Path, scheme: str) -> None:
    page = opened(browser, report, scheme=scheme)
    paper = np.array(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))
    assert (paper.mean() > 128) == (scheme == "light")
    pictures = page.locator("svg").all()
    assert len(pictures) == 4
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
        assert abs(int(pixels[0, 0]) - paper.mean()) < 3  # transparent
        assert np.ptp(pixels) > 120  # and not blank
        label = picture.locator("text", has_text="ar-0").first
        assert label.evaluate("text => getComputedStyle(text).fill") == page.evaluate(
            "getComputedStyle(document.body).color"
        )


def test_print_shows_what_is_folded(browser: Browser, report: Path) -> None:
    page = opened(browser, report, scheme="dark")
    folded = page.locator("details:not([open]) li p")
    assert folded.count() > 50 and not any(text.is_visible() for text in folded.all()[:5])
    page.emulate_media(media="print")
    assert all(text.is_visible() for text in folded.all()[:5])
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 253)"  # light, on paper


def test_plots_open_in_a_browser(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    for plot in sorted((report.parent / "plots").iterdir()):
        page.goto(plot.as_uri())
        assert page.evaluate("document.images[0].naturalWidth") > 500
