"""Read text and JSON files as streams, gzipped or not, from a directory or inside a zip.

Input: a path. Output: an iterator over (line number, content). Long files show a progress bar with an ETA on stderr.
Errors name the file and the line.

Every JSON reader follows two rules. A null member counts as absent. A lone surrogate, which JSON can represent and
UTF-8 cannot, becomes U+FFFD.
"""

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import rich.progress
from rich.console import Console

from jaxretr.files import is_visible
from jaxretr.tokenization import clean_text

CONSOLE = Console(stderr=True)  # stdout is for the results of commands

File = Path | zipfile.Path

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # a surrogate as a JSON escape; UTF-8 cannot encode one


def visible(folder: File) -> list[Any]:
    """Return the entries of a folder that can be data (see `is_visible`), sorted by name."""
    return sorted((entry for entry in folder.iterdir() if is_visible(entry.name)), key=lambda entry: entry.name)


def check_fetched(file: File) -> None:
    """Raise ValueError if the file is a git-lfs pointer, which stands for a file that git-lfs has not fetched."""
    with file.open("rb") as opened:
        _check_no_pointer(opened.read(len(_LFS_POINTER)), file)


def _check_no_pointer(beginning: bytes, file: File) -> None:
    if beginning.startswith(_LFS_POINTER):
        raise ValueError(
            f"{file} is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository, or download the "
            "file."
        )


def lines(file: File) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines of a UTF-8 file, numbered from 1, without line ends; `.gz` files are decompressed.

    Raises:
      ValueError: a line is not UTF-8, the archive is broken or truncated, or the file is a git-lfs pointer.
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
        _check_no_pointer(packed.peek(len(_LFS_POINTER)), file)
        if file.name.endswith(".gz"):
            with gzip.open(packed) as unpacked:
                yield from unpacked
        else:
            yield from packed  # splits at \n only, not at other line separators such as U+2028


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, with U+FFFD in place of lone surrogates. Raises ValueError if it is not JSON."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _cleaned(value) if _SURROGATE.search(text) else value


def json_file(file: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
      ValueError: the file is not JSON, not UTF-8, or a git-lfs pointer; the message names the file.
    """
    check_fetched(file)
    try:
        return parse_json(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); fetch or write the file again.") from error


def json_lines(file: File) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON-lines file with their line numbers; null members are left out.

    Raises:
      ValueError: a line is not a JSON object; the message names file and line.
    """
    for number, line in lines(file):
        try:
            value = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error}): {line[:80]!r}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{file}, line {number}: expected a JSON object, found {line[:80]!r}")
        yield number, {name: member for name, member in value.items() if member is not None}


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(name): _cleaned(member) for name, member in value.items()}
    return value


def table(file: File, columns: int, separator: str | None = "\t") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a text table with exactly `columns` columns; `separator=None` splits at any white space.

    Raises:
      ValueError: a row has a different number of columns; the message names file and line.
    """
    for number, line in lines(file):
        row = line.split(separator)
        if len(row) != columns:
            raise ValueError(f"{file}, line {number}: expected {columns} columns, found {len(row)}: {line[:80]!r}")
        yield number, row


def field(record: Mapping[str, Any], name: str, file: File, number: int) -> str:
    """Return a string field of a JSON record; integers are converted. Raises ValueError if it is missing or empty."""
    value = record.get(name)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise ValueError(
            f"{file}, line {number}: field {name!r} must be a string that is not empty, found {value!r} "
            f"(the record has {', '.join(record)})."
        )
    return str(value)


def text(record: Mapping[str, Any], name: str, file: File, number: int) -> str:
    """Return a string field of a JSON record, empty if it is null. Raises ValueError if it is missing."""
    value = record.get(name, 0)
    if value is not None and not isinstance(value, str):
        shown = repr(value)[:80] if name in record else "none"
        raise ValueError(
            f"{file}, line {number}: field {name!r} must be a string, found {shown} (the record has "
            f"{', '.join(record)})."
        )
    return value or ""


def integer(text: str, file: File, number: int) -> int:
    """Return `text` as an integer. Raises ValueError, naming file and line, if it is not one."""
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{file}, line {number}: expected an integer, found {text!r}.") from error
