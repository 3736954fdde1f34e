import re
import unicodedata
from html import unescape

import lxml.html
import pytest

from jaxretr.attack.report import visible
from jaxretr.attack.report.visible import marked
from jaxretr.perturb.text.unicode import ZERO_WIDTH, deleted_letters, homoglyphs, invisible, reorderings

CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


def without_tags(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_every_character_without_a_shape_becomes_a_label() -> None:
    """Of all of Unicode, what is written as it stands is seen: no control, no format, no blank but the usual one."""
    shapeless = [
        character
        for character in map(chr, range(0x110000))
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs") and character != " "
    ]
    html = visible.visible("".join(shapeless))
    assert len(shapeless) > 2000 and not set(shapeless) & set(html)
    assert re.findall(r'title="(U\+[0-9A-F]+)', html) == [f"U+{ord(character):04X}" for character in shapeless]
    assert not set(ZERO_WIDTH + CONTROLS) & set(visible.visible(ZERO_WIDTH + CONTROLS))


@pytest.mark.parametrize(
    ("character", "short", "full"),
    [
        ("\u200b", "ZWSP", "U+200B ZERO WIDTH SPACE"),
        ("\u202e", "RLO", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\ufe0f", "VS16", "U+FE0F VARIATION SELECTOR-16"),
        ("\U000e0101", "VS18", "U+E0101 VARIATION SELECTOR-18"),
        ("\b", "BS", "U+0008 BS"),
        ("\ue000", "U+E000", "U+E000"),
        ("\u3164", "U+3164", "U+3164 HANGUL FILLER"),
    ],
)
def test_names(character: str, short: str, full: str) -> None:
    html = lxml.html.fromstring(f"<p>{visible.visible(f'a{character}b')}</p>")
    (label,) = html.iter("bdi")
    assert (label.text, label.get("title"), html.text, label.tail) == (short, full, "a", "b")


def test_text_stays_text() -> None:
    text = "<b>\"a\" & 'b'</b> العاصمة 河 हिन्दी"
    assert without_tags(visible.visible(text)) == text
    assert "<b>" not in visible.visible(text)


def test_plain_is_one_line_without_controls() -> None:
    assert visible.plain("a\u202eb\nc") == "a[RLO]b[LF]c"
    assert visible.hidden_characters("a\u202eb\u200bc\u200b ") == ["\u200b", "\u202e"]


def test_what_changed_is_marked() -> None:
    assert marked("river", "rivver") == ("river", "riv<ins>v</ins>er")
    assert marked("river", "rver") == ("r<del>i</del>ver", "rver")
    assert marked("same", "same") == ("same", "same")
    assert marked("", "new") == ("", "<ins>new</ins>")


def test_marks_go_by_grapheme_clusters() -> None:
    """A vowel sign of Hindi is never parted from its letter."""
    old, new = marked("कि", "की")
    assert (old, new) == ("<del>कि</del>", "<ins>की</ins>")


@pytest.mark.parametrize("text", ["paypal river", "العاصمة مدينة", "Река Θήβα", "हिन्दी नदी", "河流城市"])
@pytest.mark.parametrize("kind", [invisible, homoglyphs, reorderings, deleted_letters])
def test_both_texts_are_all_there(text: str, kind) -> None:
    """Without marks and labels, the two texts come out again, except for what has no shape."""
    languages = {"p": "en", "ا": "ar", "Р": "ru", "ह": "hi", "河": "zh"}
    for other in kind(text, languages[text[0]])[:40]:
        old, new = marked(text, other)
        assert without_tags(old) == text
        seen = without_tags(re.sub(r"<bdi.*?</bdi>", "", new))
        assert seen == "".join(c for c in other if c not in visible.hidden_characters(other))
        assert not set(CONTROLS + "\b") & set(new)


def test_a_look_alike_has_its_code_point_and_script() -> None:
    _, new = marked("paypal", "p\u0430ypal")
    assert 'title="U+0430 CYRILLIC SMALL LETTER A">U+0430 CYRILLIC</bdi></ins>ypal' in new
    _, new = marked("مدينة", "مد\u06ccنة")
    assert "U+06CC ARABIC" in new
    _, new = marked("cat", "cut")
    assert "<bdi" not in new  # a typing error is no look-alike
