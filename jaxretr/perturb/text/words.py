"""Word order and function words.

In: a text and its language. Out: texts made of the same words. Words are what blanks part, so Chinese and most Thai
text yields nothing here.
"""

import regex

from jaxretr.perturb.text.function_words import FUNCTION_WORDS

_EDGES = regex.compile(r"^(\P{L}*)(.*?)(\P{L}*)$", regex.DOTALL)


def swapped_words(text: str, language: str) -> list[str]:
    """Two neighbouring words in each other's place; blanks and the punctuation around words stay."""
    parts = regex.split(r"(\s+)", text)
    found: dict[str, None] = {}
    for i in range(0, len(parts) - 2, 2):
        (before, first, after), (before_2, second, after_2) = _edges(parts[i]), _edges(parts[i + 2])
        if first and second and first != second:
            swapped = [before + second + after, parts[i + 1], before_2 + first + after_2]
            found["".join([*parts[:i], *swapped, *parts[i + 3 :]])] = None
    return list(found)


def reversed_words(text: str, language: str) -> list[str]:
    """All words in reverse order; blanks and the punctuation around words stay."""
    parts = regex.split(r"(\s+)", text)
    edges = [_edges(part) for part in parts]
    places = [i for i, (_, word, _) in enumerate(edges) if word]
    for i, j in zip(places, reversed(places), strict=True):
        parts[i] = edges[i][0] + edges[j][1] + edges[i][2]
    result = "".join(parts)
    return [result] if result != text else []


def without_function_words(text: str, language: str) -> list[str]:
    """`text` without its function words. Empty if there are none, or nothing else."""
    if language not in FUNCTION_WORDS:
        raise ValueError(f"No function words for language {language!r}, only {', '.join(FUNCTION_WORDS)}.")
    listed = FUNCTION_WORDS[language]
    kept: list[str] = []
    dropped, carried = False, ""
    for token in text.split():
        before, word, after = _edges(token)
        if word.lower() in listed:
            dropped = True
            if kept:
                kept[-1] += after
                carried += before
            else:
                carried += before + after
        else:
            kept.append(carried + token)
            carried = ""
    return [" ".join(kept) + carried] if dropped and any(_edges(token)[1] for token in kept) else []


def _edges(token: str) -> tuple[str, str, str]:
    """What stands before the first letter, the word, and what stands after the last letter (or its marks)."""
    match = _EDGES.match(token)
    assert match is not None  # it matches every string
    before, word, after = match.groups()
    marks = len(after) - len(regex.sub(r"^\p{M}+", "", after))
    return before, word + after[:marks], after[marks:]
