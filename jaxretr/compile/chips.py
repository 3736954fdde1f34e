"""TPU chips by their published peaks, and slices of them by name.

In: a name such as `v5e:4x4` or `v4:4x4x4`. Out: `Slice`. Peaks are those of Google's documentation, read in 2026:

- v4: https://docs.cloud.google.com/tpu/docs/v4, links: https://jax-ml.github.io/scaling-book/tpus (45 GB/s one way; six
  of them are the all-reduce bandwidth of 1.1 PB/s that the documentation gives for 4,096 chips)
- v5e: https://docs.cloud.google.com/tpu/docs/v5e
- v5p: https://docs.cloud.google.com/tpu/docs/v5p
- v6e: https://docs.cloud.google.com/tpu/docs/v6e

A link's speed one way is the documented bidirectional bandwidth of a chip, halved and divided by its ports.
"""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One generation.

    Attributes:
      peak_flops: of bfloat16 matrix products, per second.
      hbm_bytes: main memory; the compiler itself keeps some back.
      hbm_bandwidth: bytes per second.
      link_bandwidth: of one link between neighbours, one way, bytes per second.
      dimensions: of the network.
      ring: an axis of a slice is closed to a ring where its length is a multiple of this.
      largest: the longest axis; 0 where there is no published limit below 4,096 chips.
    """

    name: str
    peak_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    dimensions: int
    ring: int
    largest: int = 0


_GIB = 2**30
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * _GIB, 1200e9, 45e9, dimensions=3, ring=4),
        Chip("v5e", 197e12, 16 * _GIB, 819e9, 50e9, dimensions=2, ring=16, largest=16),
        Chip("v5p", 459e12, 95 * _GIB, 2765e9, 100e9, dimensions=3, ring=4),
        Chip("v6e", 918e12, 32 * _GIB, 1638e9, 100e9, dimensions=2, ring=16, largest=16),
    )
}


@dataclass(frozen=True)
class Slice:
    """Chips and how they are laid out; `shape` has as many axes as their network has dimensions."""

    chip: Chip
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Slice":
        """Reads `generation:AxB` or `generation:AxBxC`.

        Raises:
          ValueError: for another generation, or a shape that it has no slices of.
        """
        generation, _, sizes = name.partition(":")
        if generation not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            raise ValueError(
                f"topology {name!r} is not known; expected one of {', '.join(CHIPS)}, a colon and the slice's shape "
                "in chips, such as v5e:4x4, v6e:16x16, v4:4x4x4 or v5p:2x2x1"
            )
        chip, shape = CHIPS[generation], tuple(map(int, sizes.split("x")))
        if len(shape) != chip.dimensions:
            example = "4x4" if chip.dimensions == 2 else "4x4x4"
            raise ValueError(
                f"topology {name!r} has {len(shape)} axes, but {generation} is connected in {chip.dimensions}; name "
                f"that many, such as {generation}:{example}"
            )
        if chip.largest and max(shape) > chip.largest:
            whole = "x".join([str(chip.largest)] * chip.dimensions)
            raise ValueError(f"topology {name!r} is larger than a pod; the largest slice is {generation}:{whole}")
        return cls(chip, shape)

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def devices(self) -> int:
        """Chips, each of which is one device to JAX; the two cores of a v4 or v5p work as one ("megacore")."""
        return math.prod(self.shape)

    @property
    def links(self) -> int:
        """Links of the chip that has the fewest: two along a ring, one at the end of a line."""
        rings = [size % self.chip.ring == 0 for size in self.shape]
        # Rings of v4 and v5p are closed by optical switches, around whole cubes of 4 x 4 x 4 chips.
        closed = rings if self.chip.dimensions == 2 else [all(rings)] * len(rings)
        return sum(1 + ring for size, ring in zip(self.shape, closed, strict=True) if size > 1)
