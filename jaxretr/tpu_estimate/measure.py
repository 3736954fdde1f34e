"""Compile a program, read the compiler's figures, and bound the time of a run.

Input: a `Program` and its slice. Output: `Measured`, the figures of one device in one run. The `Roofline` bounds the
times of arithmetic, memory and network, each at its published peak (Williams, Waterman, Patterson 2009,
doi 10.1145/1498765.1498785).
"""

import dataclasses
import re
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax

from jaxretr.tpu_estimate.chips import Slice
from jaxretr.tpu_estimate.costs import Costs
from jaxretr.tpu_estimate.hlo import Module
from jaxretr.tpu_estimate.programs import Program

ASSUMPTIONS = (
    "matrix products run at the chip's published peak; a float32 product counts as 1, 3 or 6 bfloat16 products, "
    "depending on its precision; all other arithmetic is free",
    "each read from and write to main memory in the compiled text happens once, at the published bandwidth; scratch "
    "memory on the chip is free; tiles are not padded",
    "a collective sends the minimum number of bytes (all-reduce 2(n-1)/n of its payload, all-gather (n-1)/n), over all "
    "links of the chip with the fewest links, at the published one-way speed; latency is zero",
    "a loop body counts as often as it runs (XLA's own counts include it once)",
    "the host takes no time for input, launches or checkpoints",
)


class Roofline(NamedTuple):
    """Seconds of one run, for each part alone."""

    compute: float
    memory: float
    network: float

    @classmethod
    def of(cls, costs: Costs, slice_: Slice) -> "Roofline":
        chip = slice_.chip
        egress = slice_.links * chip.link_bandwidth
        return cls(
            compute=costs.matmul_passes / chip.peak_flops,
            memory=costs.hbm_bytes / chip.hbm_bandwidth,
            network=costs.sent_bytes / egress if egress else 0.0,
        )

    @property
    def overlapped(self) -> float:
        """Lower bound: all three parts overlap."""
        return max(self)

    @property
    def serial(self) -> float:
        """Time of all three parts one after the other. A real run is slower if a part misses its peak."""
        return sum(self)

    @property
    def bound_by(self) -> str:
        """Name of the longest part."""
        return self._fields[self.index(max(self))]


class TooLarge(ValueError):
    """A program needs more memory than a chip has.

    Attributes:
      needed: bytes needed at once; 0 if the compiler does not say.
    """

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, as the compiler counts them.

    Attributes:
      arguments: parameters, optimizer state and batch.
      outputs: results of the program.
      aliased: outputs that reuse the memory of donated arguments.
      temporaries: all intermediate arrays; they may share memory with each other and with donated arguments.
      code: the program.
      peak: maximum of arguments, outputs and temporaries that exist at once.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int

    @property
    def total(self) -> int:
        """Bytes needed at once."""
        return self.peak + self.code


@dataclass(frozen=True)
class Measured:
    """The figures of one program on one slice.

    Attributes:
      program, slice: the program and the slice it was compiled for.
      seconds, cpu_seconds: time of tracing and compiling, wall clock and CPU time of all cores.
      memory: memory of one device.
      costs, roofline: costs and times of one device in one run.
      compiler_flops, compiler_bytes: XLA's own counts, which count a loop body once.
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
        """Return the rate of the model's own matrix products over this time, as a share of the chip's peak."""
        return self.program.model_flops / (seconds * self.slice.chip.peak_flops)

    def examples_per_second(self, seconds: float) -> float:
        """Return the examples per second of all devices."""
        return self.program.batch * self.slice.devices / seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; times in seconds, sizes in bytes."""
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
            "items": dict(costs.items.most_common(100)),
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
    """Compile and measure.

    Raises:
      TooLarge: the program does not fit into the chip's memory.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    lowered = program.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        amount = re.search(r"required for [^()]*\([\d.]+[KMG]?\) exceeds available HBM \([\d.]+[KMG]?\)", str(error))
        raise too_large(program, slice_, f"memory {amount[0]}" if amount else "more than is available") from error
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    memory, xla_costs = cast(Any, compiled.memory_analysis()), cast(Any, compiled.cost_analysis())
    text = cast(str, compiled.as_text())
    costs = Costs.of(Module.parse(text))
    return Measured(
        program,
        slice_,
        seconds,
        cpu_seconds,
        Memory(
            arguments=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes,
            aliased=memory.alias_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            code=memory.generated_code_size_in_bytes,
            peak=memory.peak_memory_in_bytes,
        ),
        costs,
        Roofline.of(costs, slice_),
        compiler_flops=xla_costs["flops"],
        compiler_bytes=xla_costs["bytes accessed"],
    )


def too_large(program: Program, slice_: Slice, amount: str, needed: int = 0) -> TooLarge:
    """Return the error for a program that needs `amount` (in words) or `needed` (in bytes)."""
    return TooLarge(
        f"{program.name} with {program.what} per chip does not fit into a {slice_.chip.name}: it needs {amount}. "
        "Use a smaller --config.train.batch_size or a larger slice, set --config.model.remat=full, "
        "--config.train.chunk_size or --config.train.shard_optimizer=True, or find the largest batch with --batch auto",
        needed,
    )
