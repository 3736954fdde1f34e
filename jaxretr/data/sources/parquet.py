"""Parquet files as sources: rows as dictionaries without nulls, and errors that name the file.

In: a path. Out: (row number, row), a batch of rows in memory at a time.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from jaxretr.data.sources import files

_ROWS_AT_ONCE = 1024


def rows(file: Path, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a parquet file, numbered from 1. A value that is null is left out of its row.

    Args:
      file: a parquet file.
      wanted: chooses the columns to read by name. The others may have any type: they are not converted.

    Raises:
      ValueError: the file is not parquet, broken, a git-lfs pointer, or a text in it is not UTF-8.
    """
    number = 0
    with _opened(file) as table:
        chosen = [name for name in table.schema_arrow.names if wanted(name)]
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=chosen):
            for row in _values(batch, file, number):
                number += 1
                yield number, {name: value for name, value in row.items() if value is not None}


def column_names(file: Path) -> list[str]:
    """The names of the columns. Raises ValueError as `rows` does."""
    with _opened(file) as table:
        return table.schema_arrow.names


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    files.check_fetched(file)
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:  # Arrow reports some broken files as an OSError
        raise ValueError(f"{file} is no readable parquet file ({error}); fetch or write it again") from error


def _values(batch: pyarrow.RecordBatch, file: Path, before: int) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:
        for place in range(len(batch)):
            try:
                batch.slice(place, 1).to_pylist()
            except (ValueError, OverflowError):
                what = "a text is not UTF-8" if isinstance(error, UnicodeDecodeError) else "a value cannot be read"
                raise ValueError(f"{file}, row {before + place + 1}: {what} ({error}); write the file again") from error
        raise
