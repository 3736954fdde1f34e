"""Word order and function words.

Input: a text and its language. Output: texts made of the same words. Blanks separate words, so Chinese and most Thai
texts yield nothing here.

Function words carry grammar and little meaning: articles, prepositions, conjunctions, pronouns, auxiliaries. Question
words and negations are not among them, because a question without them has another meaning. Chinese and Thai have no
list: without blanks, a word cannot be told from a part of another word.
"""

import regex

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": """a an the and or but if than that this these those of in on at by to for from with as into about is are
            was were be been am do does did has have had will would it its he she they them his her their we you""",
        "de": """der die das den dem des ein eine einen einem einer eines und oder aber als dass in im am an auf aus bei
            mit von vom zu zum zur für um nach ist sind war waren sein wird werden wurde wurden hat haben hatte es er
            sie sich""",
        "el": """ο η το οι τα του της των τον την τη τους τις ένα ένας μια μία ενός μιας και ή αλλά να θα σε στο στη
            στην στον στα στις στους από με για ως που είναι ήταν έχει είχε αυτό""",
        "es": """el la los las lo un una unos unas y e o u pero de del en a al por para con como que se su sus es son
            era eran fue fueron ser ha han había está están""",
        "ru": """и а но или в во на с со к ко по из от до о об у за для при над под это этот эта эти он она оно они его
            её ее их был была было были быть есть же ли бы""",
        "tr": """bir ve veya ile için gibi bu şu o da de ki ise olan olarak kadar""",
        "vi": """là và của có được trong cho với các những một này đó để từ bởi tại ở vào đã đang sẽ thì mà rằng""",
        "ar": """في من على إلى الى عن مع أو ثم أن إن هو هي هذا هذه ذلك تلك التي الذي كان كانت قد بين""",
        "hi": """का की के को से में पर ने और या है हैं था थी थे हो एक यह वह इस उस ये वे भी ही तो कि""",
        "th": "",
        "zh": "",
    }.items()
}
"""Language -> its function words, in lower case."""

_EDGES = regex.compile(r"^(\P{L}*)(.*?)(\P{L}*)$", regex.DOTALL)


def swapped_words(text: str, language: str) -> list[str]:
    """Swap two neighboring words; blanks and the punctuation around words stay."""
    parts = regex.split(r"(\s+)", text)
    candidates: dict[str, None] = {}
    for i in range(0, len(parts) - 2, 2):
        (before, first, after), (before_2, second, after_2) = _edges(parts[i]), _edges(parts[i + 2])
        if first and second and first != second:
            swapped = [before + second + after, parts[i + 1], before_2 + first + after_2]
            candidates["".join([*parts[:i], *swapped, *parts[i + 3 :]])] = None
    return list(candidates)


def reversed_words(text: str, language: str) -> list[str]:
    """Reverse the order of all words; blanks and the punctuation around words stay."""
    parts = regex.split(r"(\s+)", text)
    edges = [_edges(part) for part in parts]
    places = [i for i, (_, word, _) in enumerate(edges) if word]
    for i, j in zip(places, reversed(places), strict=True):
        parts[i] = edges[i][0] + edges[j][1] + edges[i][2]
    result = "".join(parts)
    return [result] if result != text else []


def without_function_words(text: str, language: str) -> list[str]:
    """Return `text` without its function words.

    The list is empty if the text has no function words, or only function words.
    """
    if language not in FUNCTION_WORDS:
        raise ValueError(f"No function words for language {language!r}, only for {', '.join(FUNCTION_WORDS)}.")
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
    """Return the text before the first letter, the word, and the text after the last letter (or its marks)."""
    match = _EDGES.match(token)
    assert match is not None  # it matches every string
    before, word, after = match.groups()
    marks = len(after) - len(regex.sub(r"^\p{M}+", "", after))
    return before, word + after[:marks], after[marks:]
