"""Check whether a config fits a TPU slice.

Input: a config, a `Slice`, and the programs to compile. Output: one `Measured` per program. With `auto`, the train step
gets the largest batch that fits, found with few compilations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jaxretr import parallel
from jaxretr.config import Config
from jaxretr.tpu_estimate.architectures import architecture_of
from jaxretr.tpu_estimate.chips import Slice, describe
from jaxretr.tpu_estimate.measure import Measured, TooLarge, measure, too_large
from jaxretr.tpu_estimate.programs import attack_program, encode_program, train_program
from jaxretr.tracking import say

STEP = 8
"""Batches are multiples of this: the rows of a TPU's smallest float32 tile."""
PROGRAMS = ("train", "encode", "attack")


def check(
    config: Config, slice_: Slice, programs: Sequence[str] = PROGRAMS, *, auto: bool = False
) -> Iterator[Measured]:
    """Compile and measure the programs.

    Args:
      config: its `train.batch_size` is divided over the slice.
      slice_: the slice to compile for.
      programs: names in `PROGRAMS`.
      auto: use the largest batch that fits on each chip instead.

    Raises:
      ValueError: a program, the model or the slice is unknown, or the batch does not divide evenly or does not fit.
      RuntimeError: no TPU compiler is available.
    """
    if unknown := set(programs) - set(PROGRAMS):
        raise ValueError(f"unknown programs {', '.join(sorted(unknown))}; expected some of {', '.join(PROGRAMS)}")
    architecture = architecture_of(config.model)
    batch = 0 if auto else parallel.per_device_batch_size(config.train.batch_size, slice_.devices)
    devices = describe(slice_)

    def train(batch: int) -> Measured:
        say(f"compiling train with {batch} pairs on each chip")
        return measure(train_program(config, architecture, devices, batch), slice_)

    def fitting(batch: int) -> Measured:
        # The compiler refuses most programs that exceed the memory of a chip, but not all.
        measured = train(batch)
        needed, there = measured.memory.total, slice_.chip.hbm_bytes
        if needed > there:
            raise too_large(measured.program, slice_, f"{needed:,} of {there:,} bytes", needed)
        return measured

    if "train" in programs:
        if auto:
            found = largest_batch(fitting, lambda measured: measured.memory.total, slice_.chip.hbm_bytes)
            say(
                f"the largest batch is {found.batch} pairs on each chip, to a multiple of {STEP}: "
                f"--config.train.batch_size={found.batch * slice_.devices} ({found.compilations} compilations)"
            )
            yield found.result
        else:
            yield train(batch)
    for name, make in (("encode", encode_program), ("attack", attack_program)):
        if name in programs:
            say(f"compiling {name}")
            yield measure(make(config, architecture, devices), slice_)


@dataclass(frozen=True)
class LargestBatch[T]:
    """The result of `largest_batch`; `result` belongs to the compilation with `batch`."""

    batch: int
    result: T
    compilations: int


def largest_batch[T](
    compile_with: Callable[[int], T], memory: Callable[[T], int], limit: int, *, start: int = 64
) -> LargestBatch[T]:
    """Find the largest multiple of `STEP` that compiles, assuming that a larger batch never fits if a smaller one does
    not.

    The search bisects between a batch that fits and one that does not. Memory grows almost linearly with the batch. So
    the next batch is where the line through two known points meets `limit`, unless the last such guess failed to halve
    the interval.

    Args:
      compile_with: compile with a batch; raises `TooLarge` if it does not fit.
      memory: bytes that a compiled program needs.
      limit: bytes available.
      start: the first batch to try.

    Raises:
      TooLarge: not even `STEP` fits.
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
    return LargestBatch(low, fits[low], len(needed))


def _meets(limit: int, needed: dict[int, int]) -> int:
    """Return the batch at which the line through the smallest and the largest known batch needs `limit`; 0 if none
    does.
    """
    known = sorted((batch, memory) for batch, memory in needed.items() if memory)
    if len(known) < 2 or known[0][1] >= known[-1][1]:
        return 0
    (first, least), (last, most) = known[0], known[-1]
    return int(first + (limit - least) * (last - first) / (most - least))
