"""Parse LibreOffice help pages into blocks of text, and cut passages from them.

Input: the HTML of one page, as LibreOffice 7.4 writes it: the content is inside `#DisplayArea`, and headings and
paragraphs have the same ids in every language. Output: a `Page` and, for English pages, `Entry`s that say which blocks
make up a passage and which heading asks for it. An entry names blocks by their ids, so it applies to the page in any
language.
"""

import collections
import dataclasses
from collections.abc import Mapping

import lxml.html

HEADINGS = {f"h{level}": level for level in range(1, 7)}
# Navigation, captions and program code: text that repeats on every page or is not natural language.
DROPPED_CLASSES = frozenset(
    (
        "howtoget", "relatedtopics", "related", "noteicon", "bascode", "pycode", "sqlcode", "code", "codeintable",
        "smathcode", "image", "imageintable", "youtube_consent",
    )
)  # fmt: skip
DROPPED_TAGS = frozenset(("script", "style", "pre"))
MIN_WORDS, MAX_WORDS = 50, 250
# A heading on at least this many pages (Syntax, Example, Parameters, Reset) names a part of the surrounding section.
GENERIC_PAGES = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A heading (`level` 1 to 6) or a paragraph (`level` 0)."""

    level: int
    text: str

    @property
    def words(self) -> int:
        """Return the number of words, separated by white space."""
        return len(self.text.split())


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A page in one language.

    Attributes:
      title: title of the HTML document.
      blocks: blocks in reading order, by a key that is unique on the page and the same in all languages.
      keywords: index keywords of each section, by the key of its heading.
    """

    title: str
    blocks: Mapping[str, Block]
    keywords: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A passage cut from an English page: the keys of its heading and of the blocks of its body."""

    page: str
    heading: str
    body: tuple[str, ...]

    @property
    def id(self) -> str:
        """Return the `passage_id` of the entry's texts."""
        return f"{self.page}#{self.heading}"


def parse(html: bytes) -> Page | None:
    """Return the content of a help page, or None if the page has no `#DisplayArea`."""
    document = lxml.html.document_fromstring(html, parser=lxml.html.HTMLParser(encoding="utf-8"))
    area = document.get_element_by_id("DisplayArea", None)
    if area is None:
        return None
    _drop_non_text(area)
    blocks: dict[str, Block] = {}
    keywords: dict[str, list[str]] = collections.defaultdict(list)
    pending: list[str] = []  # keywords precede the heading that they index
    heading = ""
    occurrences: collections.Counter[str] = collections.Counter()
    for element in area.iter("meta", "p", *HEADINGS):
        if element.tag == "meta":
            if element.get("itemprop") == "keywords":
                pending.append(_clean(element.get("content", "")))
            continue
        identifier, text = element.get("id"), _clean(element.text_content())
        if not identifier or not text:
            continue
        occurrences[identifier] += 1  # a page may include the same block several times
        key = identifier if occurrences[identifier] == 1 else f"{identifier}~{occurrences[identifier]}"
        level = HEADINGS.get(element.tag, 0)
        heading = key if level else heading
        if pending:
            keywords[heading] += pending
            pending = []
        blocks[key] = Block(level, text)
    title = _clean(document.findtext(".//title") or "")
    return Page(title, blocks, {key: tuple(words) for key, words in keywords.items()})


def generic_headings(pages: Mapping[str, Page]) -> frozenset[str]:
    """Return the headings that occur on at least `GENERIC_PAGES` pages, such as "Syntax" and "Example:"."""
    on_page = ({block.text for block in page.blocks.values() if block.level} for page in pages.values())
    count = collections.Counter(text for texts in on_page for text in texts)
    return frozenset(text for text, pages_with_it in count.items() if pages_with_it >= GENERIC_PAGES)


def cut(path: str, page: Page, generic: frozenset[str]) -> list[Entry]:
    """Cut an English page into entries of about `MIN_WORDS` to `MAX_WORDS` words.

    A section is a heading and the paragraphs up to the next heading; it opens an entry. A subsection that is short or
    has a generic heading joins the entry of the surrounding section, together with its heading. If that entry has no
    room, the subsection opens a new entry, which later subsections join; a subsection with a generic heading is dropped
    instead. Entries below `MIN_WORDS` and the paragraphs of a section beyond `MAX_WORDS` are dropped, because no
    heading asks for them alone.
    """
    sections: list[list[str]] = []
    for key, block in page.blocks.items():
        if block.level:
            sections.append([key])
        elif sections:
            sections[-1].append(key)

    def words(keys: list[str]) -> int:
        return sum(page.blocks[key].words for key in keys)

    def fitting(keys: list[str]) -> list[str]:
        return [key for end, key in enumerate(keys, start=1) if words(keys[:end]) <= MAX_WORDS]

    entries: list[list[str]] = []
    level = 0  # level of the section that the last entry belongs to; deeper sections are inside it
    for section in sections:
        head, *body = section
        block = page.blocks[head]
        part = bool(entries) and block.level > level and (words(body) < MIN_WORDS or block.text in generic)
        if part and words(entries[-1][1:]) + words(section) <= MAX_WORDS:
            entries[-1] += section
        elif not part or block.text not in generic:
            entries.append([head, *fitting(body)])
            level = level if part else block.level
    return [Entry(path, head, tuple(body)) for head, *body in entries if words(body) >= MIN_WORDS]


def _clean(text: str) -> str:
    return " ".join(text.split())


def _drop_non_text(area: lxml.html.HtmlElement) -> None:
    for element in area.xpath(".//br"):
        element.tail = " " + (element.tail or "")
    for element in area.xpath(".//script | .//style | .//pre | .//*[@class]"):
        classes = set(element.get("class", "").split())
        if element.tag in DROPPED_TAGS or classes & DROPPED_CLASSES:
            element.drop_tree()
        elif classes & {"switch", "switchinline"}:  # keep the default variant of each
            for variant in list(element):
                if not variant.get("id", "").startswith("default"):
                    variant.drop_tree()
