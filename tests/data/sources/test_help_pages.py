import pytest

from jaxretr.data.sources import help_pages

from .miniature import help_page, words


def parse(body: str) -> help_pages.Page:
    page = help_pages.parse(help_page("A title", body).encode())
    assert page is not None
    return page


def cut(body: str, generic: frozenset[str] = frozenset()) -> list[tuple[str, tuple[str, ...]]]:
    return [(entry.heading, entry.body) for entry in help_pages.cut("text/a.html", parse(body), generic)]


def test_blocks_are_the_headings_and_paragraphs_with_an_id_in_the_display_area():
    page = parse('<h1 id="h">Head\n  ing</h1><p id="a">one <b>two</b><br>three</p><p>no id</p><p id="empty"> </p>')
    assert page.title == "A title"
    assert {key: (block.level, block.text) for key, block in page.blocks.items()} == {
        "h": (1, "Head ing"),
        "a": (0, "one two three"),
    }


@pytest.mark.parametrize(
    "dropped",
    [
        '<div class="howtoget"><p id="x">To access</p></div>',
        '<div class="relatedtopics"><p id="x">See</p></div>',
        '<div class="bascode"><p id="x">Print</p></div>',
        '<p id="x" class="code">=SUM(A1)</p>',
        '<pre class="any"><p id="x">code</p></pre>',
        '<p id="x"><script>var x;</script></p>',
        '<span class="switch"><span id="WRITERx" class="WRITER"><p id="x">in Writer</p></span></span>',
    ],
)
def test_what_is_no_text_is_dropped(dropped):
    assert list(parse(f'<p id="before">b</p>{dropped}<p id="after">a</p>').blocks) == ["before", "after"]


def test_of_switches_the_default_variant_stays():
    page = parse(
        '<p id="a">Press <span class="switchinline"><span id="MACx" class="MAC">Command</span>'
        '<span id="defaultx">Ctrl</span></span>+C.</p>'
    )
    assert page.blocks["a"].text == "Press Ctrl+C."


def test_a_table_without_a_class_name_stays():
    assert list(parse('<table class=""><tr><td><p id="a">cell</p></td></tr></table>').blocks) == ["a"]


def test_a_block_included_twice_has_two_keys():
    assert list(parse('<h2 id="s">Syntax</h2><p id="a">x</p><h2 id="s">Syntax</h2>').blocks) == ["s", "a", "s~2"]


def test_keywords_belong_to_the_heading_after_them_or_to_the_section_they_are_in():
    page = parse(
        '<meta itemprop="keywords" content="first"><meta itemprop="keywords" content="second"><h1 id="h">H</h1>'
        '<meta itemprop="keywords" content="third"><p id="a">x</p><meta itemprop="other" content="no">'
    )
    assert page.keywords == {"h": ("first", "second", "third")}


def test_a_page_without_display_area_is_none():
    assert help_pages.parse(b"<html><body><p id='a'>x</p></body></html>") is None


def test_a_section_of_fifty_words_is_an_entry_and_a_shorter_one_is_not():
    assert cut(f'<h1 id="h">H</h1><p id="a">{words("w", 50)}</p>') == [("h", ("a",))]
    assert cut(f'<h1 id="h">H</h1><p id="a">{words("w", 49)}</p>') == []


def test_short_and_generic_subsections_join_with_their_headings_and_long_ones_do_not():
    body = (
        f'<h1 id="h">H</h1><p id="a">{words("a", 40)}</p>'
        f'<h2 id="s">Short</h2><p id="b">{words("b", 20)}</p>'
        f'<h2 id="l">Long</h2><p id="c">{words("c", 60)}</p>'
        f'<h3 id="g">Example</h3><p id="d">{words("d", 70)}</p>'
    )
    assert cut(body, frozenset({"Example"})) == [("h", ("a", "s", "b")), ("l", ("c", "g", "d"))]
    assert cut(body) == [("h", ("a", "s", "b")), ("l", ("c",)), ("g", ("d",))]


def test_a_subsection_without_room_opens_an_entry_that_its_siblings_join():
    subsections = "".join(f'<h2 id="s{i}">S{i}</h2><p id="p{i}">{words("w", 39)}</p>' for i in range(8))
    entries = cut(f'<h1 id="h">H</h1><p id="a">{words("a", 60)}</p>{subsections}')
    assert [heading for heading, _ in entries] == ["h", "s4"]
    assert entries[0][1] == ("a", "s0", "p0", "s1", "p1", "s2", "p2", "s3", "p3")
    assert entries[1][1] == ("p4", "s5", "p5", "s6", "p6", "s7", "p7")


def test_a_section_is_cut_off_between_paragraphs_at_250_words():
    paragraphs = "".join(f'<p id="p{i}">{words("w", 100)}</p>' for i in range(4))
    assert cut(f'<h1 id="h">H</h1>{paragraphs}') == [("h", ("p0", "p1"))]


def test_generic_headings_are_those_of_many_pages():
    page = parse('<h1 id="h">Syntax</h1><h1 id="i">Syntax</h1>')
    pages = {str(i): page for i in range(help_pages.GENERIC_PAGES)}
    assert help_pages.generic_headings(pages) == {"Syntax"}
    del pages["0"]
    assert help_pages.generic_headings(pages) == frozenset()
