import collections

import pytest

from jaxretr.data import schema, sources
from jaxretr.data.sources import debian, libreoffice_help
from jaxretr.data.sources.help_pages import Block, Entry, Page

from .miniature import make_deb, words

ONE, TWO = "text/scalc/one.html#hd_1", "text/scalc/two.html#hd_1"


def read_all(builder):
    records = [record for split in builder.info.splits for record in schema.scan(builder, split)]
    return {(record["language"], record["query_id"]): record for record in records}


@pytest.fixture
def both_in_train(monkeypatch):
    monkeypatch.setattr(libreoffice_help, "split_of", lambda page: "train")


def test_records_are_aligned_and_hold_what_is_translated(source, tmp_path, both_in_train):
    builder = sources.prepare(
        "libreoffice_help", data_dir=tmp_path / "data", source=source, languages=["en", "de", "vi"]
    )
    records = read_all(builder)
    assert {(language, query_id): record["query"] for (language, query_id), record in records.items()} == {
        ("en", f"{ONE}#h"): "Sorting rows of cells",
        ("en", f"{ONE}#k"): "rows, sorting",  # "see also" is left out
        ("en", f"{TWO}#h"): "Data: Filter",  # one word says too little
        ("de", f"{ONE}#h"): "Zeilen sortieren",
        ("de", f"{ONE}#k"): "Zeilen, sortieren",
        ("de", f"{TWO}#h"): "Daten: Filter",  # the same word in both languages counts as translated
        ("vi", f"{TWO}#h"): "Lọc",  # the title says no more than the heading
    }
    english, german = records["en", f"{TWO}#h"], records["de", f"{TWO}#h"]
    assert english["passage_id"] == german["passage_id"] == TWO
    assert english["passage"] == f"{words('filter', 55)}\n{words('name', 10)}"
    assert german["passage"] == words("filtere", 55)  # its second block equals the English one
    assert english["negatives"] == []


def test_min_translated_decides_what_belongs_to_a_language(source, tmp_path, both_in_train):
    """55 of 65 words of the German second entry are translated: 84.6 %."""
    for share, kept in ((0.84, True), (0.85, False)):
        builder = sources.prepare(
            "libreoffice_help", data_dir=tmp_path, source=source, languages=["de"], min_translated=share
        )
        assert (("de", f"{TWO}#h") in read_all(builder)) == kept


def test_all_passages_of_a_page_are_in_one_split_whatever_the_languages(source, tmp_path, monkeypatch):
    monkeypatch.setattr(libreoffice_help, "split_of", lambda page: "test" if "two" in page else "train")
    builder = sources.prepare("libreoffice_help", data_dir=tmp_path, source=source, languages=["en", "de"])
    by_split = {
        split: {record["passage_id"] for record in schema.scan(builder, split)} for split in builder.info.splits
    }
    assert by_split == {"train": {ONE}, "test": {TWO}}


def test_the_split_of_a_page_is_fixed_and_has_the_stated_shares():
    splits = collections.Counter(libreoffice_help.split_of(f"text/{i}.html") for i in range(10_000))
    assert libreoffice_help.split_of("text/scalc/guide/autofilter.html") == "train"
    assert splits["train"] == pytest.approx(8800, abs=150)
    assert splits["validation"] == pytest.approx(600, abs=100)
    assert splits["test"] == pytest.approx(600, abs=100)


def page(title, keywords=(), **texts):
    """Blocks by key; keys in h... are headings."""
    blocks = {key: Block(int(key.startswith("h")), text) for key, text in texts.items()}
    return Page(title, blocks, {"h": tuple(keywords)})


def records_of(language, entries, english, pages):
    return {
        record["query_id"]: record["query"]
        for _, record in libreoffice_help.language_records(language, entries, english, pages, 0.8)
    }


def test_a_heading_of_several_sections_stands_behind_its_pages_title():
    english = {
        "a": page("Fonts", h="Font size", p=words("a", 50)),
        "b": page("Menus", h="Font size", p=words("b", 50)),
        "c": page("Other", h="Unique heading", p=words("c", 50)),
    }
    entries = [Entry(path, "h", ("p",)) for path in english]
    assert records_of("en", entries, english, english) == {
        "a#h#h": "Fonts: Font size",
        "b#h#h": "Menus: Font size",
        "c#h#h": "Unique heading",
    }


def test_a_query_that_asks_for_two_passages_is_left_out_of_its_language():
    english = {path: page("Fonts", h="Font size", p=words(path, 50)) for path in "ab"}
    german = {
        "a": page("Schrift", h="Größe", p=words("ä", 50)),
        "b": page("Zeichen", h="Größe", p=words("ö", 50)),
    }
    entries = [Entry(path, "h", ("p",)) for path in english]
    assert records_of("en", entries, english, english) == {}
    assert records_of("de", entries, english, german) == {"a#h#h": "Schrift: Größe", "b#h#h": "Zeichen: Größe"}


def test_untranslated_headings_and_keywords_ask_nothing():
    english = {"a": page("T", ["fonts"], h="How to do it", p=words("a", 50))}
    entries = [Entry("a", "h", ("p",))]
    untranslated = {"a": page("T", ["fonts"], h="How to do it", p=words("ä", 50))}
    assert records_of("de", entries, english, untranslated) == {}
    other_number = {"a": page("T", ["Schrift", "Größe"], h="So geht es", p=words("ä", 50))}
    assert records_of("de", entries, english, other_number) == {"a#h#h": "So geht es"}
    without_heading = {"a": page("T", ["Schrift"], p=words("ä", 50))}
    assert records_of("de", entries, english, without_heading) == {"a#h#k": "Schrift"}


def test_less_than_forty_translated_words_are_no_passage():
    english = {"a": page("T", h="Some heading", p=words("a", 39))}
    german = {"a": page("T", h="Überschrift", p=words("ä", 39))}
    assert records_of("de", [Entry("a", "h", ("p",))], english, german) == {}


def test_keywords_are_limited_and_not_repeated():
    english = {"a": page("T", ["a,b", "a, b", "c", "d", "e", "f"], h="Some heading", p=words("a", 50))}
    assert records_of("en", [Entry("a", "h", ("p",))], english, english)["a#h#k"] == "a, b; c; d; e"


def test_a_section_that_another_page_includes_is_one_passage():
    english = {
        "a": page("A", h="One", p=words("shared", 60)),
        "b": page("B", h="Two", p=words("shared", 60), q=words("new", 50)),
        "c": page("C", h="Three", p=words("shared", 60), q=words("newer", 70)),
    }
    assert [entry.page for entry in libreoffice_help.cut_entries(english)] == ["a", "c"]


def test_unknown_languages_and_shares_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['hi'\] not available; choose from \['en', 'de', .*'zh'\]"):
        sources.builder("libreoffice_help", data_dir=tmp_path, languages=["de", "hi"])
    with pytest.raises(ValueError, match=r"min_translated=80\.0 must be a share from 0 to 1"):
        sources.builder("libreoffice_help", data_dir=tmp_path, min_translated=80.0)


def test_a_folder_without_a_language_is_reported(source, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.deb file of libreoffice-help-tr .*apt-get download"):
        sources.prepare("libreoffice_help", data_dir=tmp_path, source=source, languages=["de", "tr"])


def test_a_package_in_another_layout_is_reported(tmp_path):
    make_deb(tmp_path, "libreoffice-help-en-us", "99", {"usr/share/libreoffice/help/en-US/text/a.html": "<p>new</p>"})
    with pytest.raises(RuntimeError, match="contains no help page in the known layout"):
        sources.prepare("libreoffice_help", data_dir=tmp_path / "data", source=tmp_path, languages=["en"])


def test_packages_are_fetched_once_and_kept(source, tmp_path, monkeypatch, both_in_train):
    fetched = []

    def fetch(packages, folder):
        fetched.append(packages)
        folder.mkdir(parents=True)
        for package in packages:
            for deb in source.glob(f"{package}_*"):
                (folder / deb.name).write_bytes(deb.read_bytes())

    monkeypatch.setattr(debian, "fetch", fetch)
    for share in (0.8, 0.5):
        sources.prepare("libreoffice_help", data_dir=tmp_path, languages=["de"], min_translated=share)
    assert fetched == [["libreoffice-help-en-us", "libreoffice-help-de"]]
