"""The devices of a slice that is not there, as the TPU compiler of libtpu describes them.

In: a `Slice`. Out: devices to compile for. Nothing can run on them.
"""

import os

import jax
from jax.experimental import topologies

from jaxretr.compile.chips import Slice


def describe(slice_: Slice) -> list[jax.Device]:
    """One device a chip.

    Raises:
      RuntimeError: where libtpu is absent or cannot be loaded.
      ValueError: where it has no such slice.
    """
    # Without these, libtpu asks a metadata server, which exists on a TPU VM only, what machine it is on.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{slice_.chip.name}-{slice_.devices}")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the chips, which nothing here uses, may be in use
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
    "uv run --extra tpu scripts/compile_tpu.py ..."
)
