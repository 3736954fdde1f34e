"""Line-based files as sources: read as a stream, gzipped or not, from a directory or inside a zip.

In: a path. Out: an iterator over (line number, content). Long files show their progress with an ETA on stderr, and
errors name file and line.
"""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import rich.progress
from rich.console import Console

CONSOLE = Console(stderr=True)  # what a command prints as its result goes to stdout

File = Path | zipfile.Path


def lines(file: File) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, without their ends, numbered from 1; `.gz` is unpacked.

    Raises:
      ValueError: a line is not UTF-8, or the archive is broken or cut off.
    """
    number = 0
    try:
        for number, line in enumerate(_bytes(file), start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            if text.strip():
                yield number, text
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}, line {number}: not UTF-8 ({error.reason}); convert the file.") from error
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: broken archive after line {number} ({error}); fetch the file again.") from error


def _bytes(file: File) -> Iterator[bytes]:
    size = file.stat().st_size if isinstance(file, Path) else file.root.getinfo(file.at).file_size
    with (
        rich.progress.Progress(
            *rich.progress.Progress.get_default_columns(),
            console=CONSOLE,
            transient=True,
            disable=not CONSOLE.is_terminal,
        ) as progress,
        file.open("rb") as raw,
        progress.wrap_file(cast(BinaryIO, raw), total=size, description=f"Reading {file.name}") as watched,
        io.BufferedReader(watched, 1 << 20) as packed,  # type: ignore[type-var]
    ):
        if file.name.endswith(".gz"):
            with gzip.open(packed) as unpacked:
                yield from unpacked
        else:
            yield from packed  # splits at \n alone, not at U+2028 and the like


def json_lines(file: File) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file.

    Raises:
      ValueError: a line is no JSON object; names file and line.
    """
    for number, line in lines(file):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error}): {line[:80]!r}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{file}, line {number}: expected a JSON object, found {line[:80]!r}")
        yield number, value


def table(file: File, columns: int, separator: str | None = "\t") -> Iterator[tuple[int, list[str]]]:
    """The rows of a text table with exactly `columns` columns; `separator=None` splits at any white space.

    Raises:
      ValueError: a row has another number of columns; names file and line.
    """
    for number, line in lines(file):
        row = line.split(separator)
        if len(row) != columns:
            raise ValueError(f"{file}, line {number}: expected {columns} columns, found {len(row)}: {line[:80]!r}")
        yield number, row


def field(record: dict[str, Any], name: str, file: File, number: int) -> str:
    """A string (or number, as a string) of a JSON record. Raises ValueError, naming file and line, where missing."""
    value = record.get(name)
    if not isinstance(value, str | int) or value == "":
        raise ValueError(
            f"{file}, line {number}: field {name!r} must be a string that is not empty, found {value!r} "
            f"(the record has {', '.join(record)})."
        )
    return str(value)


def text(record: dict[str, Any], name: str, file: File, number: int) -> str:
    """A string of a JSON record, empty where it is null. Raises ValueError, naming file and line, where missing."""
    value = record.get(name, 0)
    if value is not None and not isinstance(value, str):
        found = repr(value)[:80] if name in record else "none"
        raise ValueError(
            f"{file}, line {number}: field {name!r} must be a string, found {found} (the record has "
            f"{', '.join(record)})."
        )
    return value or ""


def integer(text: str, file: File, number: int) -> int:
    """`text` as an integer. Raises ValueError, naming file and line, where it is none."""
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{file}, line {number}: expected an integer, found {text!r}.") from error
