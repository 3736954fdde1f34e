import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import Precompiled

from jaxretr.model.charsmap import precompile

CHARACTERS = st.characters(min_codepoint=1, exclude_categories=["Cs"])


@given(st.dictionaries(CHARACTERS, st.text(CHARACTERS, max_size=3), min_size=1), st.lists(CHARACTERS))
def test_tokenizers_reads_what_was_meant(mapping, others):
    normalizer = Precompiled(precompile(mapping))
    for character in [*mapping, *others]:
        assert normalizer.normalize_str(character) == mapping.get(character, character)


def test_many_keys_with_common_prefixes():
    mapping = {chr(code): f"<{code}>" for code in range(0x3000, 0x4000, 3)}
    normalizer = Precompiled(precompile(mapping))
    for code in range(0x2FF0, 0x4010):
        assert normalizer.normalize_str(chr(code)) == mapping.get(chr(code), chr(code))


def test_zero_cannot_be_mapped():
    with pytest.raises(ValueError, match=r"U\+0000"):
        precompile({"\0": " "})
