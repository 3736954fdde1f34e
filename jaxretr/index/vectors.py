"""Storage of embeddings in a file, as float32, bfloat16 or int8. Input and output are float32 rows.

| storage | bytes per value | loss |
|---|---|---|
| `float32` | 4 | none |
| `bfloat16` | 2 | each value keeps 8 significant bits; scores change by about 1e-3 |
| `int8` | 1 | each row is rounded to 255 steps between plus and minus its largest value; scores change by about 1e-3 |
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Int

from jaxretr.files import replaced_file
from jaxretr.retrieval.scores import largest_norm

_NORMS_AT_ONCE = 16_384  # rows read at once to compute their norms
Storage = Literal["float32", "bfloat16", "int8"]
STORAGES: tuple[Storage, ...] = get_args(Storage)

_ON_DISK = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}  # the .npy format has no bfloat16


class Vectors:
    """A memory-mapped file that `write_vectors` wrote: `Rows` for exact search, and random access to rows.

    Raises:
      OSError, ValueError: the file is missing or damaged.
    """

    def __init__(self, path: Path, storage: Storage):
        self._rows = np.load(path, mmap_mode="r")
        self._scales = np.load(_scales(path)) if storage == "int8" else None
        if self._rows.ndim != 2 or self._rows.dtype != _ON_DISK[storage]:
            raise ValueError(
                f"{path} holds {self._rows.dtype} {self._rows.shape}, expected rows of {storage}; rebuild the index"
            )
        self.shape: tuple[int, int] = self._rows.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> Float32[np.ndarray, "rows dim"]:
        return self._float32(self._rows[rows], None if self._scales is None else self._scales[rows])

    def take(self, rows: Int[np.ndarray, "*any"]) -> Float32[np.ndarray, "*any dim"]:
        """Gather rows by number, in the given order."""
        return self._float32(self._rows[rows], None if self._scales is None else self._scales[rows])

    @functools.cached_property
    def largest_norm(self) -> float:
        """Largest L2 norm of a row. The first access reads all rows."""
        starts = range(0, len(self), _NORMS_AT_ONCE)
        return max((largest_norm(self[start : start + _NORMS_AT_ONCE]) for start in starts), default=0.0)

    def _float32(self, stored: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        if scales is not None:
            return stored * scales[..., None]
        return (stored.view(ml_dtypes.bfloat16) if stored.dtype == np.uint16 else stored).astype(np.float32, copy=False)


class SelectedRows:
    """`Rows` at selected positions.

    Args:
      take: gathers rows by number.
      positions: number of each row of the selection.
      dim: width of the rows.
    """

    def __init__(self, take: Callable[[np.ndarray], np.ndarray], positions: Int[np.ndarray, " n"], dim: int):
        self._take, self._positions = take, positions
        self.shape: tuple[int, int] = (len(positions), dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> Float32[np.ndarray, "rows dim"]:
        return self._take(self._positions[rows])


def write_vectors(
    path: Path, blocks: Iterable[Float32[np.ndarray, "block dim"]], shape: tuple[int, int], storage: Storage
) -> None:
    """Write blocks of rows one after another. The file is complete or absent.

    Args:
      path: path of the file.
      blocks: consecutive blocks of rows.
      shape: total number of rows, and their width.
      storage: storage format.

    Raises:
      ValueError: `blocks` does not have `shape[0]` rows in total.
    """
    scales = np.empty(shape[0], np.float32)
    start = 0
    with replaced_file(path) as partial:
        with partial.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(_ON_DISK[storage])), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
            for block in blocks:
                if storage == "float32":
                    stored = np.ascontiguousarray(block, np.float32)
                elif storage == "bfloat16":
                    stored = block.astype(ml_dtypes.bfloat16).view(np.uint16)
                else:
                    scale = np.maximum(np.abs(block).max(1), np.finfo(np.float32).tiny) / np.float32(127)
                    scales[start : start + len(block)] = scale
                    stored = np.rint(block / scale[:, None]).astype(np.int8)
                stored.tofile(file)
                start += len(block)
        if start != shape[0]:
            raise ValueError(f"{path} got {start} rows; expected {shape[0]}")
        if storage == "int8":  # renamed before `path`, so rows never exist without scales
            with replaced_file(_scales(path)) as partial_scales:
                np.save(partial_scales, scales)


def _scales(path: Path) -> Path:
    return path.with_name(f"{path.stem}-scales.npy")
