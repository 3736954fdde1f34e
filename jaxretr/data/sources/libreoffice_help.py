"""`libreoffice_help`: aligned training pairs in up to 17 languages from LibreOffice's help (MPL-2.0).

Input: Debian's packages `libreoffice-help-<language>`, fetched with apt or read from a folder of .deb files. Output:
training pairs (`jaxretr.data.schema`) in the splits `train`, `validation` and `test`, divided by page.

Passages are cut once, on the English pages, and read from the pages of the other languages by element id, so
translations consist of the same blocks. A block that equals the English block is untranslated and is left out. A
passage belongs to a language only if at least `min_translated` of its English words are translated.

A passage has up to two queries: `<passage_id>#h`, its heading, and `<passage_id>#k`, its index keywords. The heading is
*not* part of the passage text. Otherwise a model could answer every query by matching the first line, and would learn
nothing about meaning. A heading that several sections share, or that has one word, is prefixed with the page title
("Font: Style"). If a query still asks for two passages of its language, it is left out of that language.
"""

import collections
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds
from rich.progress import track

from jaxretr.data import schema
from jaxretr.data.sources import base, debian, files, help_pages
from jaxretr.data.sources.help_pages import Entry, Page

PACKAGES = {
    language: f"libreoffice-help-{suffix}"
    for language, suffix in {
        "en": "en-us", "de": "de", "el": "el", "es": "es", "fr": "fr", "id": "id", "it": "it", "ja": "ja", "ko": "ko",
        "nl": "nl", "pl": "pl", "pt": "pt-br", "ru": "ru", "sv": "sv", "tr": "tr", "vi": "vi", "zh": "zh-cn",
    }.items()
}  # fmt: skip
DEFAULT_LANGUAGES = ("en", "de", "el", "es", "ru", "tr", "vi", "zh")
PAGE = re.compile(r"usr/share/libreoffice/help/[^/]+/(text/.+\.html)")
HELD_OUT_PERCENT = {"validation": 6, "test": 6}
MIN_TRANSLATED_WORDS = 40
MAX_KEYWORDS = 4


@dataclasses.dataclass(kw_only=True)
class LibreOfficeHelpConfig(base.SourceConfig):
    """Settings.

    Attributes:
      languages: codes from `PACKAGES`. English is always read, but has records only if it is named.
      source: folder with the .deb files; None fetches them with apt.
      min_translated: minimum share of a passage's words, from 0 to 1, that must be translated.
    """

    languages: Sequence[str] = DEFAULT_LANGUAGES
    source: str | Path | None = None
    min_translated: float = 0.8

    @override
    def validate(self) -> None:
        unknown = sorted(set(self.languages) - set(PACKAGES))
        if unknown or not self.languages:
            raise ValueError(
                f"languages={list(self.languages)}: {unknown or 'an empty list is'} not available; choose from "
                f"{list(PACKAGES)}."
            )
        if not 0 <= self.min_translated <= 1:
            raise ValueError(f"min_translated={self.min_translated} must be a share from 0 to 1.")
        self.languages = tuple(sorted(set(self.languages)))
        self.source = base.existing_path(self.source, "source") if self.source else None

    @override
    def label(self) -> str:
        return "-".join(self.languages)


class LibreOfficeHelp(base.Source):
    """The builder of `libreoffice_help`; see the module docstring."""

    name = "libreoffice_help"
    config_class = LibreOfficeHelpConfig
    features = staticmethod(schema.pair_features)
    description = "Headings and index keywords of LibreOffice's help with the sections they stand for, in parallel."
    homepage = "https://help.libreoffice.org"

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        config = self.builder_config
        languages = ["en", *(language for language in config.languages if language != "en")]
        debs = self._debs([PACKAGES[language] for language in languages], Path(downloads.download_dir))
        pages = {
            language: read_pages(debs[PACKAGES[language]])
            for language in track(
                languages,
                "Reading help pages",
                transient=True,
                console=files.CONSOLE,
                disable=not files.CONSOLE.is_terminal,
            )
        }
        entries = cut_entries(pages["en"])
        pairs_of_split: dict[str, list[dict[str, Any]]] = {"train": [], **{split: [] for split in HELD_OUT_PERCENT}}
        for language in config.languages:
            pairs = language_records(language, entries, pages["en"], pages[language], config.min_translated)
            for entry, record in pairs:
                pairs_of_split[split_of(entry.page)].append(record)
        return {split: records for split, records in pairs_of_split.items() if records or split == "train"}

    def _debs(self, packages: list[str], download_dir: Path) -> Mapping[str, Path]:
        folder = self.builder_config.source
        if folder is None:
            folder = download_dir / self.name
            try:
                return debian.find(packages, folder)
            except FileNotFoundError:
                debian.fetch(packages, folder)
        return debian.find(packages, folder)


def read_pages(deb: Path) -> dict[str, Page]:
    """Return the pages of a help package by path (`text/...`).

    Raises:
      RuntimeError: the package has no page in the known layout.
    """
    pages = {match[1]: help_pages.parse(html) for match, html in debian.read(deb, PAGE)}
    parsed = {path: page for path, page in pages.items() if page is not None}
    if not parsed:
        raise RuntimeError(
            f"{deb} contains no help page in the known layout ({PAGE.pattern}, with an element 'DisplayArea'): "
            "LibreOffice has changed the layout, or the package is a different one. Use version 7.4, which works."
        )
    return parsed


def cut_entries(english: Mapping[str, Page]) -> list[Entry]:
    """Return all passages of the English pages, in the order of the page paths.

    LibreOffice includes some sections in several pages. A passage is left out if more than half of its words are in
    blocks of earlier passages, so that no passage occurs twice and no held-out passage is trained on.
    """
    generic = help_pages.generic_headings(english)
    seen: set[tuple[str, str]] = set()  # (id, text) of earlier blocks; an included block keeps its id
    entries = []
    for path in sorted(english):
        blocks = english[path].blocks
        for entry in help_pages.cut(path, english[path], generic):
            words = {(key.partition("~")[0], blocks[key].text): blocks[key].words for key in entry.body}
            if sum(words[block] for block in words.keys() & seen) <= sum(words.values()) / 2:
                entries.append(entry)
            seen |= words.keys()
    return entries


def split_of(page: str) -> str:
    """Return the split of all passages of a page; it does not depend on what else is prepared."""
    percent = int.from_bytes(hashlib.sha256(page.encode()).digest()[:8]) % 100
    for split, share in HELD_OUT_PERCENT.items():
        if percent < share:
            return split
        percent -= share
    return "train"


def language_records(
    language: str, entries: list[Entry], english: Mapping[str, Page], pages: Mapping[str, Page], min_translated: float
) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Yield the training pairs of one language, each with its entry; for English, `pages` must be `english`."""
    sections = collections.Counter(b.text for page in english.values() for b in page.blocks.values() if b.level)
    passages: dict[str, str] = {}
    queries: dict[str, tuple[Entry, str]] = {}
    for entry in entries:
        page_en, page = english[entry.page], pages.get(entry.page)
        passage = project(entry, page_en, page, min_translated) if page else None
        if page is None or passage is None:
            continue
        passages[entry.id] = passage
        for kind, query in (
            ("h", heading_query(entry, page_en, page, sections)),
            ("k", keyword_query(entry, page_en, page)),
        ):
            if query:
                queries[f"{entry.id}#{kind}"] = entry, query
    uses = collections.Counter(text.casefold() for _, text in queries.values())
    for query_id, (entry, text) in queries.items():
        if uses[text.casefold()] == 1:
            yield entry, schema.pair_record(query_id, entry.id, language, text, passages[entry.id])


def project(entry: Entry, english: Page, page: Page, min_translated: float) -> str | None:
    """Return the entry's passage on `page`, one block per line, or None if too little of it is translated."""
    source, target = english.blocks, page.blocks
    if page is english:
        return "\n".join(source[key].text for key in entry.body)
    translated = [key for key in entry.body if key in target and target[key].text != source[key].text]
    words = sum(source[key].words for key in translated)
    if words < max(MIN_TRANSLATED_WORDS, min_translated * sum(source[key].words for key in entry.body)):
        return None
    return "\n".join(target[key].text for key in translated)


def heading_query(entry: Entry, english: Page, page: Page, sections: Mapping[str, int]) -> str | None:
    """Return the heading, after the page title if the English heading says too little, or None if it is untranslated.

    A heading of up to two words can be equal in two languages ("AutoFilter"). A longer heading that equals the English
    heading is untranslated.

    Args:
      entry: the passage.
      english: the English page.
      page: the page in the language of the query.
      sections: number of sections under each English heading.
    """
    if entry.heading not in page.blocks:
        return None
    heading_en, heading = english.blocks[entry.heading], page.blocks[entry.heading].text
    if page is not english and heading == heading_en.text and heading_en.words > 2:
        return None
    if page.title and (sections[heading_en.text] > 1 or heading_en.words == 1):
        # The title of a page usually equals its first heading or contains it: "Options (AutoCorrect)".
        title_suffices = heading.casefold() in page.title.casefold() if heading_en.level == 1 else heading == page.title
        return page.title if title_suffices else f"{page.title}: {heading}"
    return heading


def keyword_query(entry: Entry, english: Page, page: Page) -> str | None:
    """Return up to `MAX_KEYWORDS` of the entry's index keywords, or None if there are none or they are untranslated.

    References to other keywords ("see also") are left out. They are recognized in English and located in the other
    language by their position in the list, so lists of different lengths cannot be used.
    """
    keywords_en, keywords = english.keywords.get(entry.heading, ()), page.keywords.get(entry.heading, ())
    if len(keywords) != len(keywords_en) or (page is not english and keywords == keywords_en):
        return None
    # The index writes "columns,deleting" and "columns, deleting".
    kept = dict.fromkeys(
        re.sub(r"\s*,\s*", ", ", word)
        for word, word_en in zip(keywords, keywords_en, strict=True)
        if "see also" not in word_en
    )
    return "; ".join([*kept][:MAX_KEYWORDS]) or None
