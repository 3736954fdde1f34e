"""A config checked against a slice.

In: a config, a `Slice`, and which programs. Out: what was measured of each, one after the other.
"""

from collections.abc import Iterator, Sequence

from jaxretr import parallel
from jaxretr.compile.architectures import architecture_of
from jaxretr.compile.batch import STEP, largest_batch
from jaxretr.compile.chips import Slice
from jaxretr.compile.measure import Measured, measure, too_large
from jaxretr.compile.programs import attack_program, encode_program, train_program
from jaxretr.compile.topology import describe
from jaxretr.config import Config
from jaxretr.tracking import say

PROGRAMS = ("train", "encode", "attack")


def check(
    config: Config, slice_: Slice, programs: Sequence[str] = PROGRAMS, *, auto: bool = False
) -> Iterator[Measured]:
    """Compiles and measures.

    Args:
      config: its `train.batch_size` is shared over the slice.
      slice_: what is compiled for.
      programs: of `PROGRAMS`.
      auto: put the largest batch that fits on each chip instead.

    Raises:
      ValueError: for an unknown program, model or slice, or a batch that does not divide or does not fit.
      RuntimeError: where there is no TPU compiler.
    """
    if unknown := set(programs) - set(PROGRAMS):
        raise ValueError(f"unknown programs {', '.join(sorted(unknown))}; expected some of {', '.join(PROGRAMS)}")
    architecture = architecture_of(config.model)
    batch = 0 if auto else parallel.share(config.train.batch_size, slice_.devices)
    devices = describe(slice_)

    def train(batch: int) -> Measured:
        say(f"compiling train with {batch} pairs on each chip")
        return measure(train_program(config, architecture, devices, batch), slice_)

    def fitting(batch: int) -> Measured:
        # The compiler refuses what needs more than a chip has by itself, but not always.
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
