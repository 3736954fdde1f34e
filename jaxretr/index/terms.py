"""Split texts into the terms that lexical search compares.

The script of a text decides, so every language works without a dictionary. A term is a word, or a character n-gram in
scripts without spaces: a bigram in Chinese, Japanese and Korean, a trigram in Thai, Lao, Khmer and Burmese, whose
letters carry less meaning. There is no stemming and no list of stop words.

Case, accents, vowel points and the width of characters are ignored, as in the highlighting of the search page.
"""

import unicodedata

import regex
from jaxtyping import UInt64
from numpy import ndarray

from jaxretr.index.store import keys

VERSION = 1
"""Changes with the terms of any text. Postings of another version must be built again."""

# Latin accents, Hebrew and Arabic points, the Arabic stretcher, and invisible characters except the zero-width space,
# which separates words.
_IGNORED = regex.compile(
    r"[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0640\u064b-\u065f\u0670]|(?!\u200b)\p{Cf}",
)
_BIGRAMS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}ー"
_TRIGRAMS = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_RUN = regex.compile(
    rf"(?V1)([[\p{{L}}\p{{M}}\p{{N}}]&&[{_BIGRAMS}]]+)|([[\p{{L}}\p{{M}}\p{{N}}]&&[{_TRIGRAMS}]]+)"
    rf"|([[\p{{L}}\p{{M}}\p{{N}}]--[{_BIGRAMS}{_TRIGRAMS}]]+)"
)


def terms(text: str) -> list[str]:
    """Return the terms of a text in their order, with repetitions."""
    folded = unicodedata.normalize("NFC", _IGNORED.sub("", unicodedata.normalize("NFKD", text).casefold()))
    found: list[str] = []
    for bigrams, trigrams, word in _RUN.findall(folded):
        if word:
            found.append(word)
        else:
            found += _ngrams(bigrams, 2) if bigrams else _ngrams(trigrams, 3)
    return found


def term_keys(distinct: list[str], language: str) -> UInt64[ndarray, " terms"]:
    """Return the key of each term in a language. Equal terms of two languages have different keys."""
    return keys(f"{language}\0{term}" for term in distinct)


def _ngrams(run: str, n: int) -> list[str]:
    """Return the overlapping character n-grams of a run, or the whole run if it is shorter."""
    return [run[start : start + n] for start in range(max(1, len(run) - n + 1))]
