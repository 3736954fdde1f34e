"""Packing: every token has a place of its own, rows are nearly full, and few numbers of rows occur."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxretr.data.packing import cut_to_fit, pack


@given(
    st.integers(1, 4).flatmap(
        lambda parts: st.lists(st.lists(st.integers(0, 16), min_size=parts, max_size=parts), min_size=1, max_size=40)
    )
)
def test_every_text_has_a_row_with_its_tokens_together(columns: list[list[int]]) -> None:
    parts = np.transpose(columns)
    text, start = pack(parts.tolist(), 16)
    rows, starts = text.reshape(len(parts), -1, 16), start.reshape(len(parts), -1)
    for part, lengths, begins in zip(rows, parts, starts, strict=True):
        assert np.count_nonzero(part >= 0) == lengths.sum()
        for number, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
            assert begin // 16 == max(begin + length - 1, begin) // 16  # within one row
            np.testing.assert_array_equal(part.ravel()[begin : begin + length], number)


def test_a_text_fills_the_row_with_the_least_room_for_it() -> None:
    text, start = pack([[5, 10, 2, 9, 6]], 16)
    # Longest first: 10 and 9 open rows, 6 fits the first exactly, 5 goes to the second and 2 beside it.
    np.testing.assert_array_equal(start, [25, 0, 30, 16, 10])
    np.testing.assert_array_equal(text, [[1] * 10 + [4] * 6, [3] * 9 + [0] * 5 + [2] * 2])


@pytest.mark.parametrize(("full", "rows"), [(1, 2), (30, 30), (31, 32), (65, 68), (128, 128), (129, 136), (1000, 1024)])
def test_few_numbers_of_rows_occur(full: int, rows: int) -> None:
    text, _ = pack([[8] * full, [1] * full], 8)
    assert len(text) == 2 * rows and np.count_nonzero(text >= 0) == 9 * full


def test_natural_lengths_leave_little_padding() -> None:
    rng = np.random.default_rng(0)
    queries, passages = np.clip(rng.lognormal(2.6, 0.4, 32), 4, 32), np.clip(rng.lognormal(4.6, 0.5, 32), 8, 128)
    lengths = np.concatenate([queries, passages]).astype(int)
    text, _ = pack([lengths.tolist()], 128)
    assert np.mean(text < 0) < 0.06 < 1 - lengths.sum() / (32 * (32 + 128))


def test_the_longest_texts_are_cut_by_as_little_as_it_takes() -> None:
    lengths = [9, 3, 8, 2, 4]
    assert cut_to_fit(lengths, 10, 3) == lengths  # 9, 8 + 2 and 4 + 3
    assert cut_to_fit(lengths, 10, 2) == [5, 3, 5, 2, 4]  # with 6 there would be 21 tokens
    with pytest.raises(
        ValueError, match="the texts need 3 rows of 10 tokens, expected at most 2; shorten them with cut_to_fit"
    ):
        pack([lengths], 10, rows=2)
    text, _ = pack([lengths], 10, rows=7)
    assert text.shape == (7, 10) and np.count_nonzero(text >= 0) == sum(lengths)
