import pytest

from jaxretr.attack.token.template import Frame, make_template, tokenization
from jaxretr.model.encode import Encoder


@pytest.mark.parametrize("role", ["query", "passage"])
def test_a_filled_template_is_what_the_tokenizer_reads(encoder: Encoder, role: str) -> None:
    frames = [Frame(), Frame(before="en1 en2"), Frame(after="de1 de2 de3"), Frame("el1", "el2")]
    template = make_template(encoder, role, frames, 3)
    words = ["en7", "en8", "en7"]
    ids = encoder.tokenizer.convert_tokens_to_ids(words)
    read = tokenization(encoder, role)([frame.text(" ".join(words)) for frame in frames])
    for row, mask, slots, expected in zip(*template, read, strict=True):
        filled = row.copy()
        filled[slots] = ids
        assert filled[mask].tolist() == expected
    assert template.ids.shape[1] == max(map(len, read))


def test_a_trigger_that_truncation_cuts_is_refused(encoder: Encoder) -> None:
    long = " ".join(["en1"] * 60)
    make_template(encoder, "passage", [Frame(after=long)], 4)
    with pytest.raises(ValueError, match=r"4 tokens does not fit into the passage 'en1.*keeps 0 of them"):
        make_template(encoder, "passage", [Frame(), Frame(before=long)], 4)
