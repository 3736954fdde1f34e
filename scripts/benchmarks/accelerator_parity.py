"""How far one device's numbers are from another's, with a verdict.

Input: arrays, or trees of arrays, of a reference and of a device. Output: `Comparison`s. A comparison holds if its
relative error, the L2 norm of the difference divided by that of the reference, is within its tolerance.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest relative errors against float32 on the CPU. Float32 with the highest precision of matrix products should
agree to about 1e-6. TensorFloat-32, with its 11 bits, rounds by up to 5e-4, and should fail. Bfloat16 has 8 bits and
rounds by up to 4e-3; on a CPU, it is within 1e-2 for two layers."""
LOSS_TOLERANCE = 0.1
EMBEDDING_TOLERANCE = 5e-2
"""Largest relative differences between jaxretr and sentence-transformers, both in bfloat16. Under autocast, PyTorch
rounds cosines to bfloat16 before they are divided by the temperature of 0.02, which moves scores by up to 0.1."""
_SMALL = 1e-2


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
      what: what is compared.
      max_abs: largest absolute difference.
      relative: relative error.
      tolerance: largest relative error that is allowed.
    """

    what: str
    max_abs: float
    relative: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance; false for NaN."""
        return self.relative <= self.tolerance

    def record(self) -> dict[str, Any]:
        """Return the comparison as JSON values; an error that is not finite is None."""
        values = asdict(self) | {"holds": self.holds}
        return {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in values.items()}

    def __str__(self) -> str:
        verdict = "ok" if self.holds else "BEYOND TOLERANCE"
        return (
            f"{self.what:58} max |error| {self.max_abs:8.1e}  relative {self.relative:8.1e}  "
            f"tolerance {self.tolerance:.0e}  {verdict}"
        )


def compare(what: str, reference: Any, value: Any, tolerance: float, *, scale: float = 0.0) -> Comparison:
    """Compare two arrays of the same shape.

    Args:
      what: what is compared.
      reference, value: the arrays.
      tolerance: largest relative error.
      scale: lower bound of the norm that the difference is divided by.

    Raises:
      ValueError: the shapes differ.
    """
    reference, value = np.asarray(reference, np.float64), np.asarray(value, np.float64)
    if reference.shape != value.shape:
        raise ValueError(f"{what}: the shapes {reference.shape} and {value.shape} differ")
    difference = value - reference
    norm = max(float(np.linalg.norm(reference)), scale, np.finfo(np.float64).tiny)
    relative = float(np.linalg.norm(difference)) / norm
    return Comparison(what, float(np.abs(difference).max(initial=0.0)), relative, tolerance)


def compare_gradients(what: str, reference: dict[str, Any], value: dict[str, Any], tolerance: float) -> Comparison:
    """Compare gradients by name and return the comparison of the worst array.

    An array counts with at least a hundredth of the norm of the whole gradient: some gradients are zero but for
    rounding, such as that of the bias of the keys, to which attention is invariant.
    """
    whole = float(np.sqrt(sum(np.linalg.norm(np.asarray(leaf, np.float64)) ** 2 for leaf in reference.values())))
    parts = [
        compare(f"{what}, worst: {name}", leaf, value[name], tolerance, scale=_SMALL * whole)
        for name, leaf in reference.items()
    ]
    return max(parts, key=lambda part: (not np.isfinite(part.relative), part.relative))
