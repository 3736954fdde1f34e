import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from jaxretr.tokenization import MANY_TEXTS, Tokenization, bucket, clean_text, length_buckets


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    words = ["<s>", "<pad>", "</s>", "<unk>", "query:", "a", "b", "c"]
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return made


def make(tokenizer: tokenizers.Tokenizer, max_len: int = 6, prefix: str = "query: ") -> Tokenization:
    return Tokenization(tokenizer, prefix=prefix, max_len=max_len, pad_id=1)


def test_prefix_special_tokens_and_truncation(tokenizer: tokenizers.Tokenizer) -> None:
    assert make(tokenizer)(["a b", "", "a b c a b c"]) == [[0, 4, 5, 6, 2], [0, 4, 2], [0, 4, 5, 6, 7, 2]]


def test_the_given_tokenizer_is_left_as_it_was(tokenizer: tokenizers.Tokenizer) -> None:
    make(tokenizer, max_len=3)
    assert len(tokenizer.encode("a b c a b c").ids) == 8


def test_pad_marks_the_real_tokens(tokenizer: tokenizers.Tokenizer) -> None:
    batch = make(tokenizer).pad([[0, 5, 2], [0, 5, 6, 7, 2], []], length=5)
    np.testing.assert_array_equal(batch.ids, [[0, 5, 2, 1, 1], [0, 5, 6, 7, 2], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(batch.mask.sum(axis=1), [3, 5, 0])
    assert batch.ids.dtype == np.int32 and batch.mask.dtype == bool


def test_a_batch_is_as_long_as_the_smallest_bucket_that_holds_it(tokenizer: tokenizers.Tokenizer) -> None:
    tokenization = make(tokenizer, max_len=128)
    assert tokenization.pad([[0] * 25, [0] * 3]).ids.shape == (2, 32)
    assert length_buckets(128) == (16, 24, 32, 48, 64, 96, 128)
    assert length_buckets(100)[-2:] == (96, 100)
    with pytest.raises(ValueError, match="129 tokens fits none"):
        bucket(129, tokenization.buckets)


def test_many_texts_are_padded_less(tokenizer: tokenizers.Tokenizer) -> None:
    """Of lengths like those of real passages less than 5 % is padding; few texts compile for fewer lengths."""
    tokenization = make(tokenizer, max_len=512)
    drawn = np.clip(np.random.default_rng(0).lognormal(4.8, 0.6, MANY_TEXTS), 10, 512)
    lengths = sorted(drawn.astype(int).tolist(), reverse=True)
    shares = {}
    for texts in (MANY_TEXTS - 1, MANY_TEXTS):
        buckets = tokenization.buckets_for(texts)
        padded, left = 0, lengths
        while left:
            longest = bucket(left[0], buckets)
            some, left = left[: 4096 // longest], left[4096 // longest :]
            padded += longest * len(some)
        shares[texts] = 1 - sum(lengths) / padded, len(buckets)
    assert shares[MANY_TEXTS][0] < 0.05 < 0.1 < shares[MANY_TEXTS - 1][0]
    assert (shares[MANY_TEXTS - 1][1], shares[MANY_TEXTS][1]) == (11, 32)


def test_lone_surrogates_become_the_replacement_character(tokenizer: tokenizers.Tokenizer) -> None:
    assert clean_text("a\ud800b") == "a\ufffdb"
    assert clean_text("plain, Ελληνικά, 🙂") == "plain, Ελληνικά, 🙂"
    assert make(tokenizer)(["a \udfff"]) == [[0, 4, 5, 3, 2]]


def test_a_million_characters_are_cut_before_they_are_tokenised(tokenizer: tokenizers.Tokenizer) -> None:
    assert make(tokenizer)(["a " * 500_000]) == make(tokenizer)(["a a a a"])
