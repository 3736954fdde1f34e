"""TPU chips by their published peaks, slices by name, and the devices of a slice that does not exist here.

Input: a name such as `v5e:4x4` or `v4:4x4x4`. Output: a `Slice`, and devices to compile for, as the TPU compiler of
libtpu describes them. Nothing can run on these devices. Peaks are from Google's documentation, read in 2026:

- v4: https://docs.cloud.google.com/tpu/docs/v4, links: https://jax-ml.github.io/scaling-book/tpus (45 GB/s one way; six
  links give the all-reduce bandwidth of 1.1 PB/s that the documentation states for 4,096 chips)
- v5e: https://docs.cloud.google.com/tpu/docs/v5e
- v5p: https://docs.cloud.google.com/tpu/docs/v5p
- v6e: https://docs.cloud.google.com/tpu/docs/v6e

The one-way speed of a link is the documented bidirectional bandwidth of a chip, halved and divided by its ports.
"""

import math
import os
import re
from dataclasses import dataclass

import jax
from jax.experimental import topologies


@dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    Attributes:
      peak_flops: bfloat16 matrix products, floating-point operations per second.
      hbm_bytes: main memory; the compiler reserves some of it.
      hbm_bandwidth: bytes per second.
      link_bandwidth: bytes per second of one link between neighbors, one way.
      dimensions: dimensions of the network.
      ring: an axis of a slice closes to a ring if its length is a multiple of this.
      largest: the longest axis; 0 if no limit below 4,096 chips is published.
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
    """Chips and their layout; `shape` has one axis per dimension of the network."""

    chip: Chip
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Slice":
        """Parse `generation:AxB` or `generation:AxBxC`.

        Raises:
          ValueError: the generation is unknown, or it has no slices of this shape.
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
        """Number of chips. Each chip is one JAX device; the two cores of a v4 or v5p work as one ("megacore")."""
        return math.prod(self.shape)

    @property
    def links(self) -> int:
        """Links of the chip with the fewest links: two along a ring, one at the end of a line."""
        rings = [size % self.chip.ring == 0 for size in self.shape]
        # Optical switches close the rings of v4 and v5p, around whole cubes of 4 x 4 x 4 chips.
        closed = rings if self.chip.dimensions == 2 else [all(rings)] * len(rings)
        return sum(1 + ring for size, ring in zip(self.shape, closed, strict=True) if size > 1)


def describe(slice_: Slice) -> list[jax.Device]:
    """Return one device per chip.

    Raises:
      RuntimeError: libtpu is absent or cannot be loaded.
      ValueError: libtpu has no such slice.
    """
    # Without these, libtpu asks a metadata server for the machine type. That server exists on TPU VMs only.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{slice_.chip.name}-{slice_.devices}")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # another process may use the chips; nothing here does
    options = {"chip_config_name": "megacore"} if slice_.chip.name in ("v4", "v5p") else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=str(slice_), **options)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise RuntimeError(_NO_COMPILER.format(error=error)) from error
        raise ValueError(
            f"libtpu has no slice {slice_}: {error}. Expected a shape that hosts of four chips make up, such as "
            "2x2 or 4x4 of v5e and v6e, 2x2x1 or 4x4x4 of v4 and v5p"
        ) from error
    except (RuntimeError, OSError, NotImplementedError) as error:
        raise RuntimeError(_NO_COMPILER.format(error=error)) from error
    devices = list(described.devices)
    if len(devices) != slice_.devices:
        raise RuntimeError(f"libtpu lists {len(devices)} devices for {slice_}, expected one a chip: {slice_.devices}")
    return devices


_NO_COMPILER = (
    "the TPU compiler cannot be loaded: {error}. It comes with the extra tpu, for Linux on x86-64: "
    "pip install 'jaxretr[tpu]', or uv run --extra tpu scripts/compile_tpu.py ..."
)
