"""Published bfloat16 peaks of accelerators, by the name that JAX gives their devices.

Input: `device_kind` of a JAX device. Output: floating-point operations per second of dense bfloat16 matrix products of
this one device; a multiply-add counts as two. Sources, read in 2026:

- TPU v4, v5e, v5p, v6e: `jaxretr.tpu_estimate.chips`. One JAX device is one chip.
- TPU7x: https://docs.cloud.google.com/tpu/docs/tpu7x: 2,307 TFLOP/s, 192 GiB and 7,380 GB/s per chip. A chip has two
  TensorCores, and each is a JAX device of its own, with half of the chip's peak and memory.
- H100: https://www.nvidia.com/en-us/data-center/h100/ (SXM 1,979 TFLOP/s) and, for the PCIe card, NVIDIA's H100 data
  sheet (1,513 TFLOP/s)
- H200: https://www.nvidia.com/en-us/data-center/h200/ (SXM 1,979 TFLOP/s)
- A100: https://www.nvidia.com/en-us/data-center/a100/ (624 TFLOP/s)
- L40S: https://www.nvidia.com/en-us/data-center/l40s/ (733 TFLOP/s)

NVIDIA states these figures "with sparsity"; dense matrices have half. The table holds the halves.
"""

from jaxretr.tpu_estimate.chips import CHIPS

_TPUS = {
    "TPU v4": CHIPS["v4"].peak_flops,
    "TPU v5 lite": CHIPS["v5e"].peak_flops,
    "TPU v5e": CHIPS["v5e"].peak_flops,
    "TPU v5": CHIPS["v5p"].peak_flops,
    "TPU v5p": CHIPS["v5p"].peak_flops,
    "TPU v6 lite": CHIPS["v6e"].peak_flops,
    "TPU v6e": CHIPS["v6e"].peak_flops,
    "TPU7x": 2307e12 / 2,
}
_GPUS_WITH_SPARSITY = {
    "NVIDIA H100 80GB HBM3": 1979e12,
    "NVIDIA H100 PCIe": 1513e12,
    "NVIDIA H200": 1979e12,
    "NVIDIA A100-SXM4-40GB": 624e12,
    "NVIDIA A100-SXM4-80GB": 624e12,
    "NVIDIA A100-PCIE-40GB": 624e12,
    "NVIDIA A100 80GB PCIe": 624e12,
    "NVIDIA L40S": 733e12,
}
PEAKS = _TPUS | {name: peak / 2 for name, peak in _GPUS_WITH_SPARSITY.items()}


def peak_flops(device_kind: str) -> float | None:
    """Return the dense bfloat16 peak of one device in floating-point operations per second.

    None if it is unknown: for a CPU, a chip outside the table, and a part of a GPU ("… MIG 1g.10gb"), which has a share
    of the GPU's peak.
    """
    return PEAKS.get(device_kind)
