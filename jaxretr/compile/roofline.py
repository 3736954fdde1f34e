"""A bound on the time of a compiled program from counts and published peaks.

In: `Costs` of one device and a `Slice`. Out: `Roofline`: the times of arithmetic, memory and network, each at its peak
(Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785).
"""

from typing import NamedTuple

from jaxretr.compile.chips import Slice
from jaxretr.compile.costs import Costs

ASSUMPTIONS = (
    "matrix products run at the chip's published peak; a float32 product counts as the 1, 3 or 6 bfloat16 products "
    "that its precision asks for; all other arithmetic is free",
    "what the compiled text reads from and writes to main memory moves once, at the published bandwidth; scratch "
    "memory on the chip is free; tiles are not padded",
    "a collective sends the least it can (all-reduce 2(n-1)/n of its bytes, all-gather (n-1)/n), over all links of the "
    "chip that has the fewest, at their published speed one way; latency is free",
    "loops count as often as they run (XLA's own counts take a body once)",
    "the host keeps up: no time for input, launching or checkpoints",
)


class Roofline(NamedTuple):
    """Seconds of one run, each part alone."""

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
        """The least time: all three at once."""
        return max(self)

    @property
    def serial(self) -> float:
        """One after the other; slower is possible where a part misses its peak."""
        return sum(self)

    @property
    def bound_by(self) -> str:
        """The longest part."""
        return self._fields[self.index(max(self))]
