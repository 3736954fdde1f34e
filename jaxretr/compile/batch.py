"""The largest batch that fits, found by compiling as seldom as possible.

In: a function that compiles with a batch. Out: the batch, and how many compilations it took.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxretr.compile.measure import TooLarge

STEP = 8
"""Batches are multiples of this: the rows of a TPU's smallest float32 tile."""


@dataclass(frozen=True)
class Found[T]:
    """What `largest_batch` returns: `result` is of the compilation with `batch`."""

    batch: int
    result: T
    compilations: int


def largest_batch[T](
    compile_with: Callable[[int], T], memory: Callable[[T], int], limit: int, *, start: int = 64
) -> Found[T]:
    """The largest multiple of `STEP` that compiles, where a larger batch never fits if a smaller one does not.

    Bisection between a batch that fits and one that does not. Memory grows with the batch on a line or nearly so:
    tried next is where the line through two known points meets `limit`, unless that has just failed to halve what lies
    between.

    Args:
      compile_with: raises `TooLarge` for a batch that does not fit.
      memory: bytes that a compiled program needs.
      limit: bytes that there are.
      start: the first batch that is tried.

    Raises:
      TooLarge: where not even `STEP` fits.
    """
    fits: dict[int, T] = {}
    needed: dict[int, int] = {}
    low, high, trying = 0, 0, start // STEP * STEP or STEP
    while not high or high - low > STEP:
        between = high - low
        try:
            fits[trying] = compile_with(trying)
            needed[trying], low = memory(fits[trying]), trying
        except TooLarge as error:
            if trying == STEP:
                raise
            needed[trying], high = error.needed, trying
        middle = (low + high) // 2 if high else 2 * low
        stalled = 0 < between < 2 * (high - low)
        guess = middle if stalled else _meets(limit, needed) or middle
        trying = max(min(guess // STEP * STEP, high - STEP if high else 4 * low), low + STEP)
    return Found(low, fits[low], len(needed))


def _meets(limit: int, needed: dict[int, int]) -> int:
    """The batch at which the line through the smallest and the largest known one needs `limit`; 0 where none does."""
    known = sorted((batch, memory) for batch, memory in needed.items() if memory)
    if len(known) < 2 or known[0][1] >= known[-1][1]:
        return 0
    (first, least), (last, most) = known[0], known[-1]
    return int(first + (limit - least) * (last - first) / (most - least))
