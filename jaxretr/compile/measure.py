"""Compiling a program and reading what the compiler says of it.

In: a `Program` and the slice it is for. Out: `Measured`, plain numbers of one device and one run.
"""

import dataclasses
import re
import time
from dataclasses import dataclass
from typing import Any, cast

import jax

from jaxretr.compile.chips import Slice
from jaxretr.compile.costs import Costs
from jaxretr.compile.hlo import Module
from jaxretr.compile.programs import Program
from jaxretr.compile.roofline import Roofline


class TooLarge(ValueError):
    """A program that needs more memory than a chip has.

    Attributes:
      needed: bytes it would need at once, 0 where the compiler does not say.
    """

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, as the compiler counts them.

    Attributes:
      arguments, outputs: parameters, optimiser state and batch; what the program returns.
      aliased: outputs that take the place of donated arguments.
      temporaries: all that is made on the way; parts of it take each other's place, and that of donated arguments.
      code: the program.
      peak: of arguments, outputs and temporaries, what is there at once.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int

    @property
    def total(self) -> int:
        """What must be there at once."""
        return self.peak + self.code


@dataclass(frozen=True)
class Measured:
    """One program on one slice.

    Attributes:
      program, slice: what was compiled for what.
      seconds, cpu_seconds: that tracing and compiling took, by the clock and of all cores together.
      memory: of one device.
      costs, roofline: of one device and one run.
      compiler_flops, compiler_bytes: XLA's own counts, with a loop's body counted once.
    """

    program: Program
    slice: Slice
    seconds: float
    cpu_seconds: float
    memory: Memory
    costs: Costs
    roofline: Roofline
    compiler_flops: float
    compiler_bytes: float

    def share_of_peak(self, seconds: float) -> float:
        """The model's own matrix products in this time, as a share of what the chip can do."""
        return self.program.model_flops / (seconds * self.slice.chip.peak_flops)

    def examples_per_second(self, seconds: float) -> float:
        """Of all devices."""
        return self.program.batch * self.slice.devices / seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values; times in seconds, sizes in bytes."""
        roofline, costs = self.roofline, self.costs
        return {
            "program": self.program.name,
            "what": self.program.what,
            "topology": str(self.slice),
            "devices": self.slice.devices,
            "per_device_batch": self.program.batch,
            "compile_seconds": round(self.seconds, 1),
            "compile_cpu_seconds": round(self.cpu_seconds, 1),
            "memory": {**dataclasses.asdict(self.memory), "total": self.memory.total, "hbm": self.slice.chip.hbm_bytes},
            "flops": {
                "model": self.program.model_flops,
                "analytic": self.program.flops,
                "compiled": costs.matmul_flops,
                "compiled_passes": costs.matmul_passes,
                "cost_analysis": self.compiler_flops,
            },
            "bytes": {"hbm": costs.hbm_bytes, "sent": costs.sent_bytes, "cost_analysis": self.compiler_bytes},
            "unknown_loops": costs.unknown_loops,
            "collectives": [
                {**collective._asdict(), "times": times, "sent": collective.sent * times}
                for collective, times in costs.collectives.items()
            ],
            "roofline": {**roofline._asdict(), "bound_by": roofline.bound_by}
            | {
                name: {
                    "seconds": seconds,
                    "share_of_peak": self.share_of_peak(seconds),
                    "examples_per_second": self.examples_per_second(seconds),
                }
                for name, seconds in (("overlapped", roofline.overlapped), ("serial", roofline.serial))
            },
        }


def measure(program: Program, slice_: Slice) -> Measured:
    """Compiles.

    Raises:
      TooLarge: where the chip's memory does not hold it.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    lowered = program.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = re.search(r"required for [^()]*\([\d.]+[KMG]?\) exceeds available HBM \([\d.]+[KMG]?\)", str(error))
        raise too_large(program, slice_, f"memory {said[0]}" if said else "more than there is") from error
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    counted, own = cast(Any, compiled.memory_analysis()), cast(Any, compiled.cost_analysis())
    text = cast(str, compiled.as_text())
    costs = Costs.of(Module.parse(text))
    return Measured(
        program,
        slice_,
        seconds,
        cpu_seconds,
        Memory(
            arguments=counted.argument_size_in_bytes,
            outputs=counted.output_size_in_bytes,
            aliased=counted.alias_size_in_bytes,
            temporaries=counted.temp_size_in_bytes,
            code=counted.generated_code_size_in_bytes,
            peak=counted.peak_memory_in_bytes,
        ),
        costs,
        Roofline.of(costs, slice_),
        compiler_flops=own["flops"],
        compiler_bytes=own["bytes accessed"],
    )


def too_large(program: Program, slice_: Slice, amount: str, needed: int = 0) -> TooLarge:
    """The error of a program that needs `amount`, in words, and `needed`, in bytes."""
    return TooLarge(
        f"{program.name} with {program.what} on each chip does not fit into a {slice_.chip.name}: it needs {amount}. "
        "Take a smaller --config.train.batch_size or a larger slice, set --config.model.remat=full or "
        "--config.train.chunk_size, or look for the largest batch with --batch auto",
        needed,
    )
