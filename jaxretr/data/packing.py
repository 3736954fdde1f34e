"""Several texts in one row: how a batch is encoded without its padding.

In: how many tokens each text has. Out: a `Packing`, as full as best-fit decreasing makes it (Johnson et al. 1974,
doi 10.1137/0203025: at most 22 % more rows than the least, for large batches).
"""

from collections.abc import Sequence

import numpy as np

from jaxretr.types import Packing


def pack(parts: Sequence[Sequence[int]], row_length: int, rows: int = 0) -> Packing:
    """Packs each part of a batch into rows of its own, all parts into the same number of rows.

    Args:
      parts: the tokens of each text of each part, as many texts in each; a part is what is encoded together.
      row_length: tokens of a row, no fewer than the longest text has.
      rows: how many each part gets; 0 for as many as the fullest part needs and a few more.

    Returns:
      One part after the other, [parts * rows, row_length] and [parts * texts], int32; numbers of texts and starts count
      from 0 in each part. XLA compiles for each number of rows, so there are few where `rows` is 0: even ones, from 32
      on at most a sixteenth more than needed.

    Raises:
      ValueError: where a part needs more than `rows`; `cut_to_fit` prevents it.
    """
    placed = [_best_fit(lengths, row_length) for lengths in parts]
    needed = max(count for count, _ in placed)
    if rows and needed > rows:
        raise ValueError(
            f"the texts need {needed} rows of {row_length} tokens, expected at most {rows}; cut them to fit"
        )
    rows = rows or needed + -needed % 2 ** max(1, needed.bit_length() - 5)
    text = np.full((len(parts), rows * row_length), -1, np.int32)
    for row, lengths, (_, start) in zip(text, parts, placed, strict=True):
        for number, (begin, length) in enumerate(zip(start, lengths, strict=True)):
            row[begin : begin + length] = number
    return Packing(text.reshape(-1, row_length), np.concatenate([start for _, start in placed]))


def cut_to_fit(lengths: Sequence[int], row_length: int, rows: int) -> Sequence[int]:
    """The lengths, the longest ones cut to one common length, the largest with which `rows` rows hold all of them."""
    longest = row_length
    while _best_fit(lengths, row_length)[0] > rows:
        longest -= 1
        lengths = [min(length, longest) for length in lengths]
    return lengths


def _best_fit(lengths: Sequence[int], row_length: int) -> tuple[int, np.ndarray]:
    """How many rows are used, and where each text starts: longest first, each in the fullest row that has room."""
    start = np.zeros(len(lengths), np.int32)
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows by their free tokens
    sizes = 0  # bit n is set where a row has n free tokens: finds the fullest one without looking through them
    rows = 0
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        length = lengths[text]
        if large_enough := sizes >> length:
            free = length + (large_enough & -large_enough).bit_length() - 1
            row = with_room[free].pop()
            if not with_room[free]:
                sizes &= ~(1 << free)
        else:
            row, free, rows = rows, row_length, rows + 1
        start[text] = row * row_length + row_length - free
        with_room[free - length].append(row)
        sizes |= 1 << (free - length)
    return rows, start
