"""The search page as a browser shows it, over a service that answers from a script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.serve.fake_service import BIDI, HOSTILE, KEY, LANGUAGES, QUESTION, FakeService, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
Opened = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # in the group `browser`, not needed to collect these tests

    if not CHROMIUM.exists():
        pytest.fail(f"there is no {CHROMIUM}; install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def service() -> Iterator[FakeService]:
    with serving(FakeService()) as service:
        yield service


@pytest.fixture
def opened(browser: Browser, service: FakeService) -> Iterator[Opened]:
    """Opens the page at a question (or none). Whatever it complains about, or executes, fails the test at its end."""
    complaints: list[str] = []
    pages: list[Page] = []

    def opens(
        question: str = "", more: str = "", width: int = 1280, scheme: str = "light", wait: str = "", **settings: Any
    ) -> Page:
        size = {"width": width, "height": 800}
        page = browser.new_page(viewport=size, color_scheme=scheme, **settings)  # type: ignore[arg-type]
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(service.url + (f"#q={quote(question)}{more}" if question else ""))
        page.wait_for_selector(wait or (".hit" if question else ".chip"))
        pages.append(page)
        return page

    yield opens
    for page in pages:
        assert page.evaluate("window.hacked") is None
        page.context.close()
    # The browser itself notes each answer of 401, 500, ...
    assert [complaint for complaint in complaints if not complaint.startswith("Failed to load resource")] == []


def says(page: Page, selector: str, text: str) -> None:
    """Waits until an element has this text."""
    page.locator(selector, has_text=re.compile(f"^{re.escape(text)}$")).wait_for()


def hit(page: Page, language: str) -> Any:
    """The first result in a language."""
    return page.locator(".hit", has=page.locator(f".passage[lang='{language}']")).first


def test_languages_are_named_and_written_as_they_are(opened: Opened) -> None:
    page = opened(QUESTION)
    assert page.text_content("#about") == "35,397 passages in 9 languages · mini"
    assert page.text_content("#status") == "10 passages in 9 languages, 34 ms"
    assert hit(page, "ar").locator(".top").inner_text().split() == ["2", "Arabic", "ar", "score", "0.873"]
    assert hit(page, "zh").locator("h2").inner_text() == "尼罗河"
    assert hit(page, "en").locator(".meta").text_content() == "iden-0sourcemade upyear2020"
    # Of every title and passage: language, direction, and how far its first line is from the edges of its paragraph.
    texts = page.eval_on_selector_all(
        ".hit h2, .hit p",
        """all => all.map(p => {
          const range = document.createRange(); range.selectNodeContents(p);
          const line = range.getBoundingClientRect(), box = p.getBoundingClientRect();
          return [p.lang, getComputedStyle(p).direction, line.left - box.left, box.right - line.right];
        })""",
    )
    assert len(texts) == 20
    for language, direction, left, right in texts:
        assert direction == ("rtl" if language in ("ar", "he") else "ltr")
        assert (right if direction == "rtl" else left) < 1


@pytest.mark.parametrize(
    ("question", "language", "marks"),
    [
        (QUESTION, "en", ["river", "Africa", "longest", "river", "river"]),  # neither "is" nor "the" nor "in"
        ("SEA Mediterranean", "en", ["Mediterranean", "Sea", "sea"]),  # short, but no sentence
        ("strasse", "de", ["STRASSE", "Straße"]),
        ("Kilometern gesellschaft", "de", ["Kilometern"]),  # whole words only
        ("ما هو أطول نَهْر في أفريقيا؟", "ar", ["نهر", "نهر", "أطول", "نهر", "أفريقيا"]),
        ("הנהר הארוך", "he", ["הנהר", "הארוך"]),
        ("非洲最长的河流是哪一条？", "zh", ["非洲", "最长", "河流"]),
        ("แม่น้ำที่ยาวที่สุด", "th", ["แม่น้ำ", "แม่น้ำ", "แม่น้ำ", "ยาว", "ที่สุด", "ยาว", "แม่น้ำ", "แม่น้ำ"]),
        ("अफ्रीका की सबसे लंबी नदी", "hi", ["नदी", "नदी", "सबसे", "लंबी", "नदी", "नदी"]),
        ("アフリカ大陸", "ja", ["アフリカ", "大陸"]),
        ("아프리카에서", "ko", ["아프리카에서"]),
        ("(.*) [a-z]+ 6650", "de", ["6650"]),
    ],
)
def test_the_words_of_the_question_are_marked(opened: Opened, question: str, language: str, marks: list[str]) -> None:
    found = hit(opened(question), language)
    assert found.locator("mark").all_text_contents() == marks
    assert "nil" in found.text_content().lower() or language not in ("en", "de")  # the rest is there, too


def test_text_is_never_markup(opened: Opened, service: FakeService) -> None:
    page = opened("hostile script <script>window.hacked = 2</script>", wait=".hit")
    first = page.locator(".hit").first
    assert first.locator(".passage").text_content() == HOSTILE
    assert set(first.locator("mark").all_text_contents()) == {"script", "window", "hacked"}
    assert f"source{HOSTILE}" in str(first.locator(".meta").text_content())
    assert page.locator("script").count() == 1 and page.locator("#results :is(script, img, b)").count() == 0
    links = page.locator("#results a")
    assert links.count() == 1 and str(links.get_attribute("href")).startswith("https://example.org/")
    assert links.get_attribute("rel") == "noopener noreferrer"
    # An override of direction ends with its paragraph: the line below reads as ever.
    assert page.locator(".passage").nth(1).text_content() == f"{BIDI} " * 3
    below = page.locator(".hit").nth(1).locator(".meta div").first
    assert below.evaluate("one => one.getBoundingClientRect().left") == first.locator(".meta div").first.evaluate(
        "one => one.getBoundingClientRect().left"
    )
    # Languages that are none: the text decides.
    writing = page.locator(".passage").evaluate_all(
        "all => all.map(p => [p.lang, p.dir, getComputedStyle(p).direction])"
    )
    assert writing[3:] == [["", "auto", "ltr"], ["xx", "auto", "rtl"], ["", "auto", "rtl"]]
    assert page.locator(".hit").nth(5).locator(".top").inner_text().split()[1:4] == ["Unknown", "language", "und"]
    assert {path for _, path in service.paths} == {"/", "/info", "/search"}


def test_filters_reach_the_service_and_the_address(opened: Opened, service: FakeService) -> None:
    page = opened()
    assert page.locator(".chip").all_inner_texts()[:2] == ["English 12,801", "German 9,120"]
    page.fill("#box", "  نهر & #1  ")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    assert service.requests == [{"query": "نهر & #1", "k": 10}]
    for act in (
        lambda: page.get_by_label("Arabic").check(),
        lambda: page.get_by_label("Hindi").check(),
        lambda: page.get_by_label("Balance languages").check(),
        lambda: (page.fill("#per", "2"), page.press("#per", "Tab")),
        lambda: (page.fill("#k", "3"), page.press("#k", "Tab")),
    ):
        with page.expect_response("**/search"):
            act()
    asked = {"query": "نهر & #1", "k": 3, "languages": ["ar", "hi"], "per_language": 2, "calibrate": True}
    assert service.requests[-1] == asked and len(service.requests) == 6
    says(page, "#status", "3 passages in 2 languages, 34 ms")
    assert page.locator(".hit .score").first.inner_text().split() == ["score", "0.073"]
    assert page.locator("#mix li").all_inner_texts() == ["Arabic 2", "Hindi 1"]
    shares = page.locator("#mix .bar span").evaluate_all("all => all.map(one => one.offsetWidth)")
    assert shares[0] == pytest.approx(2 * shares[1], rel=0.02)

    page.reload()
    page.wait_for_selector(".hit")
    assert service.requests[-1] == asked and len(service.requests) == 7
    assert page.input_value("#box") == "نهر & #1" and page.get_by_label("Hindi").is_checked()
    for _ in range(4):
        with page.expect_response("**/search"):
            page.go_back()
    assert service.requests[-1] == {"query": "نهر & #1", "k": 10, "languages": ["ar"]}
    assert page.get_by_label("Arabic").is_checked() and not page.get_by_label("Hindi").is_checked()
    # The question is no part of what servers log.
    assert {path for _, path in service.paths} == {"/", "/info", "/search"}


def test_numbers_out_of_range_are_not_sent(opened: Opened, service: FakeService) -> None:
    page = opened("river", "&k=1000000", wait="#k:invalid")
    page.wait_for_selector("#about:not(:empty)")
    for k in ("0", "-1", "1.5", "101", ""):
        page.fill("#k", k)
        page.press("#k", "Enter")
        assert page.locator("#k:invalid").count() == 1
    assert service.requests == []
    page.fill("#k", "100")
    page.press("#k", "Enter")
    page.wait_for_selector(".hit:nth-child(100)")
    assert [request["k"] for request in service.requests] == [100]


def test_many_languages_are_folded(opened: Opened, service: FakeService) -> None:
    service.languages = {f"q{chr(97 + i)}": 100 - i for i in range(26)} | LANGUAGES
    page = opened("river", "&lang=qz&lang=xx", wait=".chip")
    assert page.locator(".chip").count() == 14  # twelve, and those chosen
    page.get_by_role("button", name="all 36").click()
    assert page.locator(".chip").count() == 36
    assert page.evaluate("document.activeElement.type") == "checkbox"


def test_keyboard(opened: Opened, service: FakeService) -> None:
    page = opened(QUESTION)

    def at() -> Any:
        return page.evaluate(
            "document.activeElement.id || [...document.querySelectorAll('.hit')].indexOf(document.activeElement)"
        )

    steps = [
        ("/", "box"),
        ("ArrowDown", 0),
        ("j", 1),
        ("ArrowDown", 2),
        ("k", 1),
        ("ArrowUp", 0),
        ("k", 0),
        ("Escape", "box"),
        ("j", "box"),  # a letter, here
    ]
    for key, where in steps:
        page.keyboard.press(key)
        assert at() == where, key
    assert page.input_value("#box") == "j"
    with page.expect_response("**/search"):
        page.keyboard.press("Enter")
    page.wait_for_selector("#results[aria-busy=false] .hit")
    assert [request["query"] for request in service.requests] == [QUESTION, "j"]
    for _ in range(30):
        page.keyboard.press("ArrowDown")
    assert at() == 9
    bounds = page.locator(".hit").last.bounding_box()
    assert bounds is not None and bounds["y"] + bounds["height"] <= 800  # in view
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible() and at() == 9
    page.keyboard.press("Control+k")
    assert at() == 9


def test_long_passages_are_folded(opened: Opened) -> None:
    page = opened(QUESTION)
    assert page.locator(".more:visible").count() == 1
    passage, more = hit(page, "en").locator(".passage"), hit(page, "en").locator(".more")
    low = passage.bounding_box()["height"]
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert passage.bounding_box()["height"] > low
    assert more.get_attribute("aria-expanded") == "true" and more.inner_text() == "less"
    more.click()
    assert passage.bounding_box()["height"] == low and more.get_attribute("aria-expanded") == "false"
    page.set_viewport_size({"width": 320, "height": 800})
    page.wait_for_selector(".more:visible >> nth=1")
    page.set_viewport_size({"width": 200, "height": 800})  # where Arabic is long enough; it is unfolded at the right
    hit(page, "ar").locator(".more").wait_for()
    edges = "one => one.getBoundingClientRect().right"
    assert hit(page, "ar").locator(".more").evaluate(edges) == hit(page, "ar").locator(".passage").evaluate(edges)
    page.emulate_media(media="print")
    assert passage.evaluate("p => p.scrollHeight <= p.clientHeight + 1") and not more.is_visible()


def test_tab_goes_from_top_to_bottom(opened: Opened) -> None:
    page = opened(QUESTION)
    page.focus("#box")
    order = []
    for _ in range(16):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.value || document.activeElement.innerText"))
        ring = "one => getComputedStyle(one.matches('.chip input') ? one.nextElementSibling : one).outlineStyle"
        assert page.locator(":focus").evaluate(ring) in ("solid", "auto")
    languages = list(LANGUAGES)
    assert [text.split(":")[0] for text in order[:2]] == ["Search", "Languages and options"]
    assert order[2:11] == languages
    assert order[11:] == ["10", order[12], "on", "more", "Keys and help"]


def test_only_the_last_question_is_answered(opened: Opened, service: FakeService) -> None:
    page = opened()
    page.fill("#box", "slow river")
    with page.expect_request("**/search") as first:
        page.keyboard.press("Enter")
    says(page, "#status", "Searching…")
    assert page.get_attribute("#results", "aria-busy") == "true"
    with page.expect_event("requestfailed") as failed:
        page.fill("#box", "nothing")
        page.keyboard.press("Enter")
    assert failed.value == first.value  # aborted
    says(page, "#status", "No passage found.")
    service.hold.set()
    page.wait_for_timeout(200)
    assert page.locator(".hit").count() == 0 and page.get_attribute("#results", "aria-busy") == "false"


def test_errors_are_said_and_passed(opened: Opened, service: FakeService) -> None:
    service.ready = False
    page = opened("river", wait="#notice:not([hidden])")
    assert "the service is warming up; try again in a minute" in str(page.text_content("#notice"))
    service.ready = True
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".hit")
    assert not page.locator("#notice").is_visible()

    def ask(question: str) -> str:
        page.fill("#box", question)
        page.press("#box", "Enter")
        page.wait_for_selector("#notice:not([hidden])")
        assert page.get_attribute("#notice", "role") == "alert" and page.locator(".hit").count() == 0
        message = str(page.text_content("#notice p >> nth=0"))
        page.fill("#box", "")
        page.press("#box", "Enter")
        page.wait_for_selector("#hint:not([hidden])")
        return message

    assert "the encoder is <b>out of memory</b>; 'broken <i>'" in ask("broken <i>")
    assert ask("refused") == "the query is refused" and page.locator("#notice button").count() == 0
    assert ask("bare") == "The service answered 500 Internal Server Error."
    page.context.set_offline(True)
    assert ask("river") == "The service cannot be reached."


def test_what_is_missing_is_said(opened: Opened) -> None:
    page = opened("degraded")
    assert page.inner_text("#notice") == "Shard 1 did not answer: passages may be missing."
    assert page.locator(".hit").count() == 10
    page.fill("#box", "nothing")
    page.get_by_label("Arabic").check()
    page.get_by_role("button", name="Search all languages").click()
    says(page, "#status", "No passage found.")
    assert not page.get_by_label("Arabic").is_checked() and not page.locator("#notice").is_visible()


def test_the_key_is_asked_for_and_kept_in_the_tab(opened: Opened, service: FakeService) -> None:
    service.needs_key = True
    page = opened("river", wait="#keyform:not([hidden])")
    assert (
        page.text_content("#keywhy") == "the API key is missing" and page.evaluate("document.activeElement.id") == "key"
    )
    page.fill("#key", "guess")
    page.press("#key", "Enter")
    says(page, "#keywhy", "the API key is wrong")
    assert page.input_value("#key") == ""
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.wait_for_selector(".hit")
    assert not page.locator("#keyform").is_visible() and page.evaluate("document.activeElement.id") == "box"
    page.reload()
    page.wait_for_selector(".hit")
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert quote(KEY) not in page.url and KEY not in page.content()


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("question", [QUESTION, "hostile", "w" * 500, "broken " + "w" * 500])
def test_the_page_never_scrolls_sideways(opened: Opened, service: FakeService, width: int, question: str) -> None:
    service.languages = {f"q{chr(97 + i)}": 10**6 for i in range(26)} | LANGUAGES | {"z" * 80: 1}
    page = opened(question, f"&lang=en&lang={'z' * 80}", width=width, wait=".hit, #notice:not([hidden])")
    page.evaluate("document.querySelector('details').open = true")
    page.eval_on_selector_all(".more, .chips button", "all => all.forEach(one => one.click())")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.get_by_role("button", name="Keys and help").click()
    bounds = page.locator("#keys").bounding_box()
    assert bounds is not None and bounds["x"] >= 0 and bounds["x"] + bounds["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [320, 345, 390])
def test_lines_end_where_the_language_lets_them(opened: Opened, width: int) -> None:
    page = opened("x", width=width)
    lines = """p => {
      const lines = [], range = document.createRange(), text = p.firstChild;
      text.data = text.data.repeat(2); // enough for several lines in the narrowest of fonts
      for (let i = 0, top = -1; i < text.length; i++) {
        range.setStart(text, i); range.setEnd(text, i + 1);
        const box = range.getBoundingClientRect();
        if (box.width && box.bottom > top + 12) { lines.push(i); top = box.bottom; }
      }
      return lines;
    }"""
    zh, th = (hit(page, language).locator(".passage") for language in ("zh", "th"))
    starts = zh.evaluate(lines)
    assert len(starts) > 3 and not {zh.text_content()[i] for i in starts} & set("，。、")
    starts = th.evaluate(lines)
    words = "p => [...new Intl.Segmenter('th', {granularity: 'word'}).segment(p.textContent)].map(one => one.index)"
    assert len(starts) > 3 and set(starts) <= set(th.evaluate(words))


def test_a_service_that_gives_fewer_results_than_the_page_asks_for(opened: Opened, service: FakeService) -> None:
    service.max_k = 4
    page = opened(QUESTION)
    assert [request["k"] for request in service.requests] == [4] and page.locator(".hit").count() == 4
    assert page.input_value("#k") == page.get_attribute("#k", "max") == page.get_attribute("#per", "max") == "4"
    assert "k=" not in page.url
    page = opened(QUESTION, "&k=3")
    assert service.requests[-1]["k"] == 3 and page.input_value("#k") == "3"


CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => rgb(colour).slice(0, 3)
    .map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = (one) => {
    while (one && !rgb(getComputedStyle(one).backgroundColor)[3]) one = one.parentElement;
    return one ? getComputedStyle(one).backgroundColor : "white";
  };
  const ratio = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((a, b) => b - a);
    return (light + .05) / (dark + .05);
  };
  const texts = [...document.body.querySelectorAll("*")].filter((one) => one.checkVisibility()
    && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  const result = texts.map((one) => [ratio(getComputedStyle(one).color, ground(one)), 4.5, one.textContent]);
  for (const one of document.querySelectorAll("#box, #k"))
    result.push([ratio(getComputedStyle(one, "::placeholder").color, ground(one)), 4.5, "placeholder"],
                [ratio(getComputedStyle(one).borderTopColor, ground(document.body)), 3, "border"]);
  for (const one of document.querySelectorAll(".bar span, .swatch"))
    result.push([ratio(getComputedStyle(one).backgroundColor, ground(document.body)), 3, "bar"]);
  return result;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("question", [QUESTION, "degraded", "broken", "nothing"])
def test_contrast(opened: Opened, service: FakeService, scheme: str, question: str) -> None:
    service.languages = dict.fromkeys(("zh", "ja", "fi", "th", "ko", "fr", "he", "es", "pt", "en", "it", "hi"), 20)
    chosen = "&lang=en&lang=zh&lang=he&lang=ja&lang=th&lang=ko&lang=hi&k=50"
    page = opened(question, chosen, scheme=scheme, wait=".hit, #notice:not([hidden]), #status button")
    measured = page.evaluate(CONTRAST)
    assert len(measured) > 20
    assert [one for one in measured if one[0] < one[1]] == []
    dark = int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0]) < 128
    assert dark == (scheme == "dark")


def test_motion_is_reduced(opened: Opened) -> None:
    page = opened(QUESTION, reduced_motion="reduce")
    page.evaluate("document.querySelector('#results').setAttribute('aria-busy', 'true')")
    assert page.evaluate("getComputedStyle(document.querySelector('#results')).transitionProperty") == "none"
