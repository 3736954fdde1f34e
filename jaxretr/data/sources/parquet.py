"""Read parquet files as sources: rows as dictionaries without nulls, and errors that name file, column and row.

Input: a path. Output: (row number, row), with one batch of rows in memory at a time.
"""

import contextlib
import datetime
import decimal
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxretr.data.sources import files

_ROWS_AT_ONCE = 1_024


@contextlib.contextmanager
def opened(file: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a parquet file for reading in the block.

    Raises:
      ValueError: the file is not parquet, broken, or a git-lfs pointer; also while the block reads.
      FileNotFoundError: the file does not exist.
    """
    files.check_fetched(file)
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:  # Arrow reports some broken files as an OSError
        if isinstance(error, OSError) and error.errno:  # an error of the file system, which names the file
            raise
        raise ValueError(f"{file} is not a readable parquet file ({error}); fetch or write it again") from error


def rows(file: Path, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a parquet file, numbered from 1. A null value is left out of its row.

    Single-precision numbers become the decimal numbers that they print as.

    Args:
      file: a parquet file.
      wanted: selects the columns to read by name. Other columns may have any type: they are not converted.

    Raises:
      ValueError: as in `opened`; a text is not UTF-8; or Python cannot represent a value.
    """
    number = 0
    with opened(file) as table:
        names = [name for name in table.schema_arrow.names if wanted(name)]
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=names):
            columns = [
                _values(values, file, name, number)
                for name, values in zip(batch.schema.names, batch.columns, strict=True)
            ]
            for row in zip(*columns, strict=True):
                number += 1
                yield (
                    number,
                    {name: value for name, value in zip(batch.schema.names, row, strict=True) if value is not None},
                )


def column_names(file: Path) -> list[str]:
    """Return the names of the columns. Raises ValueError as in `opened`."""
    with opened(file) as table:
        return table.schema_arrow.names


def plain(value: Any) -> Any:
    """Convert a time to ISO 8601, a duration to seconds, a decimal to a number; return other values unchanged."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    return value


def holds_single_values(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds texts, numbers, booleans or times (no bytes, no nested values)."""
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


def _values(values: pa.Array, file: Path, name: str, before: int) -> list[Any]:
    """Convert one column of a batch; `before` counts the rows of the file before the batch."""
    try:
        converted = values.to_pylist()
    except (ValueError, OverflowError, KeyError) as error:
        if pa.types.is_temporal(values.type):
            return values.cast(pa.string()).to_pylist()  # a year or a time zone that Python cannot represent
        what = "a text is not UTF-8" if isinstance(error, UnicodeDecodeError) else "a value cannot be read"
        row = before + _first_unreadable(values)
        raise ValueError(f"{file}, row {row}: {what} in column {name!r} ({error}); write the file again") from error
    if not (pa.types.is_float32(values.type) or pa.types.is_float16(values.type)):
        return converted
    single = np.float32 if pa.types.is_float32(values.type) else np.float16
    return [value if value is None or math.isnan(value) else float(str(single(value))) for value in converted]


def _first_unreadable(values: pa.Array) -> int:
    """Return the position of the first value that cannot be converted, counted from 1."""
    for place in range(len(values)):
        try:
            values[place].as_py()
        except (ValueError, OverflowError, KeyError):
            return place + 1
    raise AssertionError("every single value of the column can be read")
