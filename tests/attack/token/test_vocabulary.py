import numpy as np
import pytest

from jaxretr.attack.token.vocabulary import Vocabulary, scripts_of
from jaxretr.model.encode import Encoder
from tests.attack.token import cases


@pytest.fixture(scope="module")
def pieces() -> Encoder:
    return cases.pieces()


def of(encoder: Encoder, mask: np.ndarray) -> set[str]:
    return set(encoder.tokenizer.convert_ids_to_tokens(np.flatnonzero(mask).tolist()))


def test_masks_by_script_hold_the_pieces_of_that_script_alone(pieces: Encoder) -> None:
    vocabulary = Vocabulary.of(pieces)
    assert of(pieces, vocabulary.in_scripts("Latin")) == {"▁a", "▁b", "▁ab"}
    assert of(pieces, vocabulary.in_scripts("Latin", word_initial=False)) == {"▁a", "▁b", "▁ab", "c"}
    assert of(pieces, vocabulary.in_scripts("Greek")) == {"▁α", "▁β"}
    assert of(pieces, vocabulary.in_scripts("Cyrillic")) == {"▁д", "▁ж3"}
    assert of(pieces, vocabulary.in_scripts("Latin", "Greek")) == {"▁a", "▁b", "▁ab", "▁α", "▁β", "▁αa"}
    assert of(pieces, vocabulary.in_scripts("Thai", word_initial=False)) == {"ไทย"}


def test_a_language_has_the_pieces_of_its_scripts(pieces: Encoder) -> None:
    vocabulary = Vocabulary.of(pieces)
    assert of(pieces, vocabulary.in_language("ja")) == {"▁の", "▁ノ", "▁中"}
    assert of(pieces, vocabulary.in_language("zh-Hant")) == {"▁中"}
    assert scripts_of("el") == ("Greek",)
    with pytest.raises(ValueError, match=r"no script is known for the language 'qx'.*'Latin'"):
        scripts_of("qx")


def test_what_text_does_not_bring_back_is_never_allowed(pieces: Encoder) -> None:
    vocabulary = Vocabulary.of(pieces)
    allowed = vocabulary.admissible(word_initial=False)
    assert len(allowed) == pieces.functions.architecture.vocab_size == len(cases.PIECES) + 7
    assert not allowed[-3:].any()  # rows without a piece
    assert of(pieces, allowed) == set(cases.PIECES) - {"▁", "▁Ⅳ"}  # a blank alone; NFKC makes IV of Ⅳ


def test_a_script_without_tokens_is_refused_by_naming_those_there_are(pieces: Encoder) -> None:
    vocabulary = Vocabulary.of(pieces)
    with pytest.raises(ValueError, match="'Hebrew'.*expected one of Cyrillic, Greek, Han, Hiragana, Katakana, Latin$"):
        vocabulary.in_scripts("Hebrew")
    with pytest.raises(ValueError, match="'Thai'"):  # there is one, but it does not begin a word
        vocabulary.in_scripts("Thai")


def test_the_mask_of_texts_is_what_they_consist_of(encoder: Encoder) -> None:
    vocabulary = Vocabulary.of(encoder)
    assert of(encoder, vocabulary.in_texts(["en3 de4 nonsense", "el5 en3"])) == {"en3", "de4", "el5"}
    assert of(encoder, vocabulary.admissible()).isdisjoint({"<s>", "</s>", "<pad>", "<unk>"})
    with pytest.raises(ValueError, match="no piece of the 1 texts"):
        vocabulary.in_texts(["nonsense"])


def test_the_same_tokenizer_is_examined_once(encoder: Encoder) -> None:
    assert Vocabulary.of(encoder) is Vocabulary.of(encoder)
