"""Render text as HTML with a label in place of every invisible character.

Readers must see an adversarial text as it is stored. A bidirectional control character written into the page would
reorder the page itself. This module therefore never writes a character without a visible glyph; it writes a box with
the character's short name. Look-alikes from other scripts keep their glyph and are followed by their code point.
"""

import difflib
import unicodedata
from collections.abc import Sequence

import regex
from markupsafe import Markup

from jaxretr.perturb.text.edits import split_graphemes
from jaxretr.perturb.text.unicode import homoglyphs

_HIDDEN = regex.compile(r"([\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs})")
"""Characters that need a label: controls, formats, surrogates, private and unassigned code points, line and paragraph
separators, code points that fonts show as nothing, and all spaces except U+0020."""

_SHORT = {
    "\0": "NUL", "\t": "TAB", "\n": "LF", "\r": "CR", "\b": "BS", "\x1b": "ESC", "\x7f": "DEL",
    "\u00a0": "NBSP", "\u00ad": "SHY", "\u034f": "CGJ", "\u061c": "ALM", "\u180e": "MVS", "\u200b": "ZWSP",
    "\u200c": "ZWNJ", "\u200d": "ZWJ", "\u200e": "LRM", "\u200f": "RLM", "\u2028": "LS", "\u2029": "PS",
    "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO", "\u202f": "NNBSP",
    "\u2060": "WJ", "\u2066": "LRI", "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI", "\u3000": "IDSP",
    "\ufeff": "BOM",
}  # fmt: skip
"""Abbreviations that the Unicode code charts show in boxes."""


def short_name(character: str) -> str:
    """Return the label of a character without a visible glyph, such as "ZWSP", "VS16" or "U+E000"."""
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xFE00 <= code <= 0xFE0F:
        return f"VS{code - 0xFE00 + 1}"
    if 0xE0100 <= code <= 0xE01EF:
        return f"VS{code - 0xE0100 + 17}"
    return f"U+{code:04X}"


def full_name(character: str) -> str:
    """Return the code point and the Unicode name, such as "U+200B ZERO WIDTH SPACE"."""
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "") or ("" if short_name(character) == code else short_name(character))
    return f"{code} {name}".rstrip()


def hidden_characters(text: str) -> list[str]:
    """Return the distinct characters of `text` that need a label, sorted by code point."""
    return sorted(set(_HIDDEN.findall(text)))


def plain(text: str) -> str:
    """Return `text` on one line for output other than HTML: each hidden character becomes its name in brackets."""
    return _HIDDEN.sub(lambda match: f"[{short_name(match.group())}]", text)


def visible(text: str) -> Markup:
    """Return `text` as HTML with a label in place of each hidden character."""
    return Markup("").join(
        _label(short_name(part), full_name(part)) if at % 2 else part for at, part in enumerate(_HIDDEN.split(text))
    )


def marked(clean: str, adversarial: str) -> tuple[Markup, Markup]:
    """Return two texts as HTML with their differences marked, compared by grapheme cluster.

    Returns:
      The clean text with `del` around removed graphemes, and the adversarial text with `ins` around added graphemes. An
      added letter that looks like the letter it replaced is followed by its code point and script.
    """
    before, after = split_graphemes(clean), split_graphemes(adversarial)
    old, new = Markup(""), Markup("")
    for operation, i, j, k, n in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        removed, added = visible("".join(before[i:j])), visible("".join(after[k:n]))
        if operation == "equal":
            old, new = old + removed, new + added
            continue
        if i < j:
            old += Markup("<del>{}</del>").format(removed)
        if k < n:
            pairs = j - i == n - k  # graphemes correspond one to one
            inside = [
                _perhaps_alike(before[i + at] if pairs else "", after[k + at], after[k + at + 1 : k + at + 2])
                for at in range(n - k)
            ]
            new += Markup("<ins>{}</ins>").format(Markup("").join(inside))
    return old, new


def _perhaps_alike(clean: str, adversarial: str, following: Sequence[str]) -> Markup:
    """Return a new grapheme as HTML, followed by its code point if it looks like the grapheme it replaced."""
    context = "".join(following)
    if len(adversarial) == 1 and clean and adversarial + context in homoglyphs(clean + context, ""):
        script = unicodedata.name(adversarial, "").partition(" ")[0]
        label = f"U+{ord(adversarial):04X} {script}".rstrip()
        return visible(adversarial) + _label(label, full_name(adversarial), "code alike")
    return visible(adversarial)


def _label(text: str, title: str, css: str = "code") -> Markup:
    """Return an inline box. As `bdi` it affects neither the order of the surrounding letters nor `dir="auto"`."""
    return Markup('<bdi class="{}" title="{}">{}</bdi>').format(css, title, text)
