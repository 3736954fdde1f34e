"""TPU chips with their published peaks, slices by name, and devices to compile for without a TPU.

Input: a name such as `v5e:4x4` or `v4:4x4x4`. Output: a `Slice`, and its devices as libtpu's TPU compiler describes
them. These devices can be compiled for, but cannot run programs. Peaks are from Google's documentation, read in 2026:

- v4: https://docs.cloud.google.com/tpu/docs/v4, links: https://jax-ml.github.io/scaling-book/tpus (45 GB/s one way; six
  links give the all-reduce bandwidth of 1.1 PB/s that the documentation states for 4,096 chips)
- v5e: https://docs.cloud.google.com/tpu/docs/v5e
- v5p: https://docs.cloud.google.com/tpu/docs/v5p
- v6e: https://docs.cloud.google.com/tpu/docs/v6e

The one-way speed of a link is the documented bidirectional bandwidth of a chip, halved and divided by its ports.

TPU7x is refused. libtpu lists two devices per chip, each with half of the chip's 2,307 TFLOP/s, 192 GiB and 7,380 GB/s
(https://docs.cloud.google.com/tpu/docs/tpu7x), and the speed of the link between the two is not modelled here.
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
      peak_flops: floating-point operations per second in bfloat16 matrix products.
      hbm_bytes: bytes of main memory; the compiler reserves a part of it.
      hbm_bandwidth: bandwidth of main memory in bytes per second.
      link_bandwidth: one-way bandwidth of a link between neighbors in bytes per second.
      dimensions: number of dimensions of the network.
      ring: an axis of a slice closes to a ring if its length is a multiple of this number.
      largest: length of the longest axis; 0 if no limit below 4,096 chips is published.
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


REFUSED = {
    "tpu7x": "each chip is two JAX devices with half of its memory, and the estimate assumes that a chip is one device"
}
"""Generations that libtpu can compile for, but whose figures would be wrong, with the reason."""


@dataclass(frozen=True)
class Slice:
    """Chips and their layout; `shape` has one axis per dimension of the network."""

    chip: Chip
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Slice":
        """Parse `generation:AxB` or `generation:AxBxC`.

        Raises:
          ValueError: the generation is unknown or not supported, or it has no slices of this shape.
        """
        generation, _, sizes = name.partition(":")
        if generation in REFUSED:
            raise ValueError(
                f"topology {name!r} is not supported: {REFUSED[generation]}; expected one of {', '.join(CHIPS)}"
            )
        if generation not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            raise ValueError(
                f"topology {name!r} is unknown; expected one of {', '.join(CHIPS)}, a colon and the slice's shape in "
                "chips, such as v5e:4x4, v6e:16x16, v4:4x4x4 or v5p:2x2x1"
            )
        chip, shape = CHIPS[generation], tuple(map(int, sizes.split("x")))
        if len(shape) != chip.dimensions:
            example = "4x4" if chip.dimensions == 2 else "4x4x4"
            raise ValueError(
                f"topology {name!r} has {len(shape)} axes; expected {chip.dimensions} axes for {generation}, such as "
                f"{generation}:{example}"
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
        """Number of links of the chip with the fewest links: two along a ring, one at the end of a line."""
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
    # Without these variables, libtpu asks a metadata server for the machine type. This server exists on TPU VMs only.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{slice_.chip.name}-{slice_.devices}")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # this process uses no chips; another process may
    options = {"chip_config_name": "megacore"} if slice_.chip.name in ("v4", "v5p") else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=str(slice_), **options)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise RuntimeError(_NO_COMPILER.format(error=error)) from error
        raise ValueError(
            f"libtpu has no slice {slice_}: {error}. Expected a shape of whole hosts with four chips each, such as "
            "2x2 or 4x4 for v5e and v6e, 2x2x1 or 4x4x4 for v4 and v5p"
        ) from error
    except (RuntimeError, OSError, NotImplementedError) as error:
        raise RuntimeError(_NO_COMPILER.format(error=error)) from error
    devices = list(described.devices)
    if len(devices) != slice_.devices:
        raise RuntimeError(f"libtpu lists {len(devices)} devices for {slice_}; expected {slice_.devices}, one per chip")
    return devices


_NO_COMPILER = (
    "the TPU compiler cannot be loaded: {error}. Install the extra tpu (Linux on x86-64 only): "
    "pip install 'jaxretr[tpu]', or uv run --extra tpu scripts/compile_tpu.py ..."
)
