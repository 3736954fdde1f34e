"""The rows of the word-embedding table that a trigger may use.

Input: an encoder, and scripts, a language or texts. Output: a mask over the rows of the table. The mask excludes
special tokens, rows without a token, and pieces that change when the tokenizer reads their text, since an adversarial
passage is a string, and the victim tokenizes it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from operator import or_

import numpy as np
import regex
import tokenizers
from jaxtyping import Bool, Int64
from transformers import PreTrainedTokenizerFast

from jaxretr.model.encode import Encoder

SCRIPTS = (
    "Arabic",
    "Armenian",
    "Bengali",
    "Cyrillic",
    "Devanagari",
    "Ethiopic",
    "Georgian",
    "Greek",
    "Gujarati",
    "Gurmukhi",
    "Han",
    "Hangul",
    "Hebrew",
    "Hiragana",
    "Kannada",
    "Katakana",
    "Khmer",
    "Lao",
    "Latin",
    "Malayalam",
    "Mongolian",
    "Myanmar",
    "Oriya",
    "Sinhala",
    "Tamil",
    "Telugu",
    "Thai",
    "Tibetan",
)
"""The scripts of the languages that XLM-R was trained on, by their Unicode names."""

_LANGUAGES = {
    "Arabic": "ar fa ku-Arab ps sd ug ur",
    "Armenian": "hy",
    "Bengali": "as bn",
    "Cyrillic": "be bg kk ky mk mn ru sr tg uk",
    "Devanagari": "hi mr ne sa",
    "Ethiopic": "am ti",
    "Georgian": "ka",
    "Greek": "el",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Han": "zh ja",
    "Hangul": "ko",
    "Hebrew": "he yi",
    "Hiragana": "ja",
    "Kannada": "kn",
    "Katakana": "ja",
    "Khmer": "km",
    "Lao": "lo",
    "Latin": "af az br bs ca cs cy da de en eo es et eu fi fil fr fy ga gd gl ha hr hu id is it jv ku la lt lv mg ms "
    "mt nb nl nn no pl pt ro sk sl so sq su sv sw tl tr uz vi xh yo zu",
    "Malayalam": "ml",
    "Myanmar": "my",
    "Oriya": "or",
    "Sinhala": "si",
    "Tamil": "ta",
    "Telugu": "te",
    "Thai": "th",
}
_ELSEWHERE = 1 << len(SCRIPTS)  # the bit for all other scripts


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The pieces of a tokenizer, by script.

    Attributes:
      word_initial: pieces that the tokenizer reads back unchanged from their own text. Such a piece begins a word, and
        a sequence of them is a sequence of words separated by blanks.
      word_internal: pieces that the tokenizer reads back unchanged inside a word, unless their neighbors make another
        segmentation more likely.
      scripts: bit i is set if the piece has a character of `SCRIPTS[i]`. Characters that all scripts share, such as
        digits, set no bit.
      tokenizer: a copy of the encoder's tokenizer that neither pads nor truncates.
    """

    word_initial: Bool[np.ndarray, " vocab"] = field(repr=False)
    word_internal: Bool[np.ndarray, " vocab"] = field(repr=False)
    scripts: Int64[np.ndarray, " vocab"] = field(repr=False)
    tokenizer: tokenizers.Tokenizer = field(repr=False)

    @classmethod
    def of(cls, encoder: Encoder) -> "Vocabulary":
        """Return the vocabulary of `encoder`. Takes a few seconds for 250,000 pieces; the next call reuses it."""
        return _vocabulary(encoder.tokenizer, encoder.functions.architecture.vocab_size)

    def admissible(self, *, word_initial: bool = True) -> Bool[np.ndarray, " vocab"]:
        """Return every piece that a trigger may use.

        Args:
          word_initial: return only pieces that begin a word. Almost all sequences of them survive decoding and
            tokenization, but scripts without blanks between words (Han, Hiragana, Thai, Khmer, Lao, Myanmar) have few
            such pieces.
        """
        return self.word_initial if word_initial else self.word_initial | self.word_internal

    def in_scripts(self, *scripts: str, word_initial: bool = True) -> Bool[np.ndarray, " vocab"]:
        """Return the pieces with a character of `scripts` and no character of another script.

        Args:
          scripts: names such as "Greek", see `SCRIPTS`.
          word_initial: as in `admissible`.

        Raises:
          ValueError: no piece of a script is admissible.
        """
        admissible = self.admissible(word_initial=word_initial)
        available = {
            script: 1 << i for i, script in enumerate(SCRIPTS) if np.any(admissible & (self.scripts == 1 << i))
        }
        bits = 0
        for script in scripts:
            if script not in available:
                raise ValueError(
                    f"the tokenizer has no piece of the script {script!r} that a trigger may use; "
                    f"expected one of {', '.join(available) or 'none: no script has such pieces'}"
                )
            bits |= available[script]
        return admissible & (self.scripts & bits != 0) & (self.scripts & ~bits == 0)

    def in_language(self, language: str, *, word_initial: bool = True) -> Bool[np.ndarray, " vocab"]:
        """Return the pieces in the script of a language. For a narrower mask, intersect it with `in_texts`.

        Args:
          language: a tag such as "el" or "zh-Hant"; only its first part counts.
          word_initial: as in `admissible`.

        Raises:
          ValueError: the script of the language is unknown, or no piece of it is admissible.
        """
        scripts = scripts_of(language)
        return self.in_scripts(*scripts, word_initial=word_initial)

    def in_texts(self, texts: Sequence[str], *, word_initial: bool = True) -> Bool[np.ndarray, " vocab"]:
        """Return the pieces that occur in `texts`, as a sample of a language.

        Raises:
          ValueError: no piece of the texts is admissible.
        """
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        occurs = np.zeros(len(self.scripts), bool)
        for encoding in encodings:
            occurs[encoding.ids] = True
        usable = occurs & self.admissible(word_initial=word_initial)
        if not usable.any():
            raise ValueError(f"no piece of the {len(encodings)} texts may be used by a trigger; give more text")
        return usable


def scripts_of(language: str) -> tuple[str, ...]:
    """Return the scripts of a language.

    Raises:
      ValueError: the language is unknown.
    """
    primary = language.split("-")[0]
    if scripts := tuple(script for script, languages in _LANGUAGES.items() if primary in languages.split()):
        return scripts
    raise ValueError(f"no script is known for the language {language!r}; give the script itself, such as 'Latin'")


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: PreTrainedTokenizerFast, size: int) -> Vocabulary:
    """Build the arrays over the rows of a table with `size` rows; the cache compares tokenizers by identity."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()  # an earlier use may have set padding and truncation
    backend.no_truncation()
    pieces = {id: piece for piece, id in backend.get_vocab(with_added_tokens=True).items() if id < size}
    added = set(backend.get_added_tokens_decoder()) | set(tokenizer.all_special_ids)
    ids = [id for id in sorted(pieces) if id not in added]
    texts = backend.decode_batch([[id] for id in ids])
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    word_initial, word_internal = np.zeros((2, size), bool)
    scripts = np.zeros(size, np.int64)
    bits = _script_bits(texts)
    for id, text, encoding in zip(ids, texts, encodings, strict=True):
        word_initial[id] = encoding.ids == [id]
        word_internal[id] = not word_initial[id] and _stays_inside_a_word(backend, pieces[id], text, id)
        scripts[id] = reduce(or_, map(bits.__getitem__, text), 0)
    return Vocabulary(word_initial, word_internal, scripts, backend)


def _stays_inside_a_word(backend: tokenizers.Tokenizer, piece: str, text: str, id: int) -> bool:
    """Return whether normalizer and model keep a piece unchanged inside a word, without a word-boundary mark."""
    if piece != text:
        return False
    normalizer, model = backend.normalizer, backend.model
    return (normalizer is None or normalizer.normalize_str(piece) == piece) and [
        token.id for token in model.tokenize(piece)
    ] == [id]


def _script_bits(texts: Iterable[str]) -> dict[str, int]:
    """Map every character to the bit of its script; 0 for a character that all scripts share."""
    characters = "".join(sorted(set().union(*texts)))
    bits = dict.fromkeys(characters, _ELSEWHERE)
    bits.update(dict.fromkeys(regex.findall(r"[\p{Script=Common}\p{Script=Inherited}]", characters), 0))
    for i, script in enumerate(SCRIPTS):
        bits.update(dict.fromkeys(regex.findall(rf"\p{{Script={script}}}", characters), 1 << i))
    return bits
