"""Parquet files as sources: a path comes in, an open file or its rows go out; errors name the file."""

import contextlib
import datetime
import decimal
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

_LFS = b"version https://git-lfs.github.com/spec/"
_ROWS = 1_024  # read at once


@contextlib.contextmanager
def opened(file: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """A parquet file to read in the block.

    Raises:
      ValueError: the file is not parquet, or broken; also while the block reads.
      FileNotFoundError: there is no such file.
    """
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the file system, which names the file
            raise
        if is_git_lfs_pointer(file):
            raise ValueError(f"{file} is a git-lfs pointer, not the file itself; run `git lfs pull` there") from error
        raise ValueError(f"{file} is no readable parquet file ({error}); fetch or write it again") from error


def rows(file: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file as Python values; single-precision numbers become the decimal numbers that they print as.

    Args:
      columns: which to read; all where None.

    Raises:
      ValueError: as for `opened`; or a value that Python cannot hold.
    """
    with opened(file) as table:
        for batch in table.iter_batches(_ROWS, columns=columns):
            lists = []
            for name, values in zip(batch.schema.names, batch.columns, strict=True):
                try:
                    lists.append(_values(values))
                except (ValueError, OverflowError, KeyError) as error:
                    raise ValueError(f"{file}: column {name!r} has a value that cannot be read ({error})") from error
            for row in zip(*lists, strict=True):
                yield dict(zip(batch.schema.names, row, strict=True))


def plain(value: Any) -> Any:
    """A time as ISO 8601, a duration in seconds, a decimal as a number; other values unchanged."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    return value


def holds_single_values(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, numbers, booleans or times, and neither bytes nor several values."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    refused: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_nested,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
        pa.types.is_interval,
    )
    return not any(is_refused(kind) for is_refused in refused)


def is_git_lfs_pointer(file: Path) -> bool:
    """Whether a file is the small text that git-lfs leaves in place of a file that it did not fetch."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(_LFS)) == _LFS


def _values(values: pa.Array) -> list[Any]:
    listed: list[Any]
    try:
        listed = values.to_pylist()
    except (ValueError, OverflowError, KeyError):
        if not pa.types.is_temporal(values.type):
            raise
        return values.cast(pa.string()).to_pylist()  # a year, or a time zone, that Python does not have
    if not (pa.types.is_float32(values.type) or pa.types.is_float16(values.type)):
        return listed
    single = np.float32 if pa.types.is_float32(values.type) else np.float16
    return [value if value is None or math.isnan(value) else float(str(single(value))) for value in listed]
