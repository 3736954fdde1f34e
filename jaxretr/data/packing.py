"""Pack several texts into one row, so that a batch is encoded with little padding.

Input: the number of tokens of each text. Output: a `Packing`, found by best-fit decreasing. For large batches it uses
at most 22 % more rows than the minimum (Johnson et al. 1974, doi 10.1137/0203025).
"""

from collections.abc import Sequence

import numpy as np

from jaxretr.types import Packing


def pack(groups: Sequence[Sequence[int]], row_length: int, rows: int = 0) -> Packing:
    """Pack each group of texts into rows of its own; all groups get the same number of rows.

    Args:
      groups: token counts of the texts of each group. The texts of a group are encoded together, and all groups have
        the same number of texts.
      row_length: tokens per row; at least the length of the longest text.
      rows: number of rows per group; 0 for what the fullest group needs, rounded up.

    Returns:
      The groups one after the other: `text` is [groups * rows, row_length] and `start` is [groups * texts], both int32.
      Text numbers and starts count from 0 in each group. XLA compiles once per number of rows, so `rows=0` gives few
      different numbers: all are even and, from 32 on, at most a sixteenth more than needed.

    Raises:
      ValueError: a group needs more than `rows` rows; `cut_to_fit` prevents this.
    """
    placed = [_best_fit(lengths, row_length) for lengths in groups]
    needed = max(count for count, _ in placed)
    if rows and needed > rows:
        raise ValueError(
            f"the texts need {needed} rows of {row_length} tokens, expected at most {rows}; shorten them with "
            "cut_to_fit"
        )
    rows = rows or needed + -needed % 2 ** max(1, needed.bit_length() - 5)
    text = np.full((len(groups), rows * row_length), -1, np.int32)
    for row, lengths, (_, start) in zip(text, groups, placed, strict=True):
        for number, (begin, length) in enumerate(zip(start, lengths, strict=True)):
            row[begin : begin + length] = number
    return Packing(text.reshape(-1, row_length), np.concatenate([start for _, start in placed]))


def cut_to_fit(lengths: Sequence[int], row_length: int, rows: int) -> Sequence[int]:
    """Return the lengths with the longest ones cut to one length, the largest that fits all texts into `rows` rows."""
    longest = row_length
    while _best_fit(lengths, row_length)[0] > rows:
        longest -= 1
        lengths = [min(length, longest) for length in lengths]
    return lengths


def _best_fit(lengths: Sequence[int], row_length: int) -> tuple[int, np.ndarray]:
    """Return the number of rows used and the start of each text: longest first, each in the fullest row with room."""
    start = np.zeros(len(lengths), np.int32)
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows by number of free tokens
    sizes = 0  # bit n is set if a row has n free tokens; the lowest bit from `length` on is the fullest fitting row
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
