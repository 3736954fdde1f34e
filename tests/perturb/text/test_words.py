from collections import Counter

import pytest
import regex

from jaxretr.perturb.text import reversed_words, swapped_words, without_function_words
from tests.perturb.text.queries import QUERIES


def test_swapped_words_keep_punctuation_in_place():
    assert swapped_words("¿Qué año, niña?", "es") == ["¿año Qué, niña?", "¿Qué niña, año?"]
    assert swapped_words("ha ha", "en") == swapped_words("", "en") == []


def test_reversed_words():
    assert reversed_words("Кто её построил?", "ru") == ["построил её Кто?"]
    assert reversed_words("one 2 two", "en") == ["two 2 one"]
    assert reversed_words("only", "en") == []


@pytest.mark.parametrize("language", sorted(set(QUERIES) - {"zh", "th"}))
def test_the_same_words_in_another_order(language):
    text = QUERIES[language]
    candidates = swapped_words(text, language) + reversed_words(text, language)
    assert len(candidates) >= 3
    for candidate in candidates:
        words, others = (Counter(regex.findall(r"[\p{L}\p{M}]+", t)) for t in (text, candidate))
        assert words == others
        assert candidate != text


@pytest.mark.parametrize(
    ("language", "text", "bare"),
    [
        ("en", "When did the city of London burn?", "When city London burn?"),
        ("es", "¿La casa es de?", "¿casa?"),
        ("de", "Die Größe (der Stadt)", "Größe (Stadt)"),
        ("ru", "Кто её построил?", "Кто построил?"),
        ("hi", "किताब कहाँ है?", "किताब कहाँ?"),
        ("ar", "ما هي عاصمة الأردن؟", "ما عاصمة الأردن؟"),
        ("vi", "Việt Nam được thành lập khi nào?", "Việt Nam thành lập khi nào?"),
    ],
)
def test_without_function_words(language, text, bare):
    assert without_function_words(text, language) == [bare]
    assert without_function_words(bare, language) == []


def test_a_text_of_function_words_alone_is_left():
    assert without_function_words("to be or", "en") == []


def test_unknown_language():
    with pytest.raises(ValueError, match="'xx'"):
        without_function_words("city", "xx")
