"""Check whether a config fits a TPU slice.

Input: a config, a `Slice`, and the names of programs. Output: one `Measured` per program. With `auto`, the train step
uses the largest batch that fits; `largest_batch` finds it with few compilations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from jaxretr import parallel
from jaxretr.config import Config
from jaxretr.tpu_estimate.architectures import architecture_of
from jaxretr.tpu_estimate.chips import Slice, describe
from jaxretr.tpu_estimate.measure import Measured, TooLarge, measure, too_large
from jaxretr.tpu_estimate.programs import ATTACKS, attack_program, encode_program, train_program
from jaxretr.tracking import say

STEP = 8
"""Batches are multiples of this number: the rows of a TPU's smallest float32 tile."""
PROGRAMS = ("train", "encode", *ATTACKS)


def check(
    config: Config, slice_: Slice, programs: Sequence[str] = PROGRAMS, *, auto: bool = False
) -> Iterator[Measured]:
    """Compile and measure the programs.

    Args:
      config: config of the run; its `train.batch_size` is divided over the slice.
      slice_: the slice to compile for.
      programs: names in `PROGRAMS`.
      auto: use the largest batch that fits on each chip instead of `train.batch_size`.

    Raises:
      ValueError: a program, the model or the slice is unknown, the batch does not divide evenly, or a program does not
        fit (`TooLarge`; without `auto`, only if the compiler rejects the program).
      RuntimeError: no TPU compiler is available.
    """
    if unknown := set(programs) - set(PROGRAMS):
        raise ValueError(f"unknown programs {', '.join(sorted(unknown))}; expected any of {', '.join(PROGRAMS)}")
    architecture = architecture_of(config.model)
    batch = 0 if auto else parallel.per_device_batch_size(config.train.batch_size, slice_.devices)
    devices = describe(slice_)

    def train(batch: int) -> Measured:
        say(f"compiling the train step with {batch} pairs per chip")
        return measure(train_program(config, architecture, devices, batch), slice_)

    def train_within_memory(batch: int) -> Measured:
        # The compiler rejects most programs that exceed the memory of a chip, but not all of them.
        measured = train(batch)
        needed, available = measured.memory.total, slice_.chip.hbm_bytes
        if needed > available:
            raise too_large(measured.program, slice_, f"{needed:,} of {available:,} bytes", needed)
        return measured

    if "train" in programs:
        if auto:
            largest = largest_batch(train_within_memory, lambda measured: measured.memory.total, slice_.chip.hbm_bytes)
            say(
                f"the largest batch (a multiple of {STEP}) is {largest.batch} pairs per chip: "
                f"--config.train.batch_size={largest.batch * slice_.devices} ({largest.compilations} compilations)"
            )
            yield largest.result
        else:
            yield train(batch)
    further = {"encode": encode_program} | {name: partial(attack_program, name=name) for name in ATTACKS}
    for name, make in further.items():
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
    """Find the largest multiple of `STEP` that compiles and fits.

    The search assumes that if a batch does not fit, no larger batch fits. It bisects between a batch that fits and a
    batch that does not. Memory grows almost linearly with the batch. So the next batch to try is the batch at which the
    line through the smallest and the largest known batch meets `limit`. If the last trial did not halve the interval,
    the next batch is the middle of the interval instead.

    Args:
      compile_with: compiles a program with a batch; raises `TooLarge` if the program does not fit.
      memory: bytes that a compiled program needs.
      limit: bytes available.
      start: the first batch to try.

    Raises:
      TooLarge: not even a batch of `STEP` fits.
    """
    fits: dict[int, T] = {}
    needed: dict[int, int] = {}
    low, high, trying = 0, 0, start // STEP * STEP or STEP
    while not high or high - low > STEP:
        interval_before = high - low
        try:
            fits[trying] = compile_with(trying)
            needed[trying], low = memory(fits[trying]), trying
        except TooLarge as error:
            if trying == STEP:
                raise
            needed[trying], high = error.needed, trying
        middle = (low + high) // 2 if high else 2 * low
        stalled = 0 < interval_before < 2 * (high - low)
        guess = middle if stalled else _batch_at_limit(limit, needed) or middle
        trying = max(min(guess // STEP * STEP, high - STEP if high else 4 * low), low + STEP)
    return LargestBatch(low, fits[low], len(needed))


def _batch_at_limit(limit: int, needed: dict[int, int]) -> int:
    """Return the batch at which the line through the smallest and the largest known batch meets `limit`.

    Return 0 if there is no such batch.
    """
    known = sorted((batch, memory) for batch, memory in needed.items() if memory)
    if len(known) < 2 or known[0][1] >= known[-1][1]:
        return 0
    (first, least), (last, most) = known[0], known[-1]
    return int(first + (limit - least) * (last - first) / (most - least))
