"""Fingerprints that detect changed content behind a name or a path, and a description of what changed.

There are two kinds:

- `stamps` are the name, size and modification time of every file. They cost one `stat` per file of any size, and they
  detect a file that is rewritten in place, even with the same number of bytes. A copy, a `git clone` or a `touch`
  changes the times as well, so stamps decide only about work that can be repeated on this machine: prepared data,
  caches beside prepared data and index builds. The local copy of an object in a bucket has the time of the object.
- Checksums (`checksum`, `RetrievalSet.fingerprint`, `Encoder.fingerprint`) are equal on every machine that has the same
  content. They decide whether two evaluations may be compared, and whether a run, an evaluation, an attack or a record
  may resume from existing files. They are computed while the content is read for another purpose, or stored beside
  prepared data.

Both are plain JSON. `differences` describes in words what changed.
"""

import datetime
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt64

from jaxretr.files import is_visible

_SIZE = 8  # bytes of a checksum
_SHOWN = 5  # differences in a message


def stamps(path: Path) -> dict[str, str]:
    """Return the size and modification time of a file, or of every visible file below a directory.

    Hidden files are ignored, because this package keeps its own caches in them.

    Args:
      path: a file or a directory on a disk; links are followed.

    Returns:
      Name relative to `path` ("." for a file) -> for example "12 bytes of 2026-11-28 22:40:58.123456789".
    """
    if path.is_file():
        return {".": _stamp(path)}
    result: dict[str, str] = {}
    for folder, below, names in os.walk(path, followlinks=True):  # collections often consist of links
        below[:] = sorted(filter(is_visible, below))
        visible = (Path(folder, name) for name in sorted(filter(is_visible, names)))
        result |= {str(file.relative_to(path)): _stamp(file) for file in visible if file.is_file()}
    return result


def checksum(parts: Iterable[str | np.ndarray]) -> str:
    """Return the hexadecimal BLAKE2b digest of texts or arrays; their order and their boundaries matter."""
    return _digest(parts).hexdigest()


def text_checksum(*texts: str) -> int:
    """Return a 64-bit checksum of a few texts, such as the id, title and text of a passage."""
    return int.from_bytes(_digest(texts).digest(), "little")


def unordered_checksum(checksums: UInt64[np.ndarray, " items"]) -> str:
    """Return the checksum of many items from the checksum of each item; their order does not matter."""
    return checksum([np.sort(checksums).astype("<u8")])


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the differences between two descriptions, such as "seed was 0, is 1"; "" if there are none.

    Args:
      before: the earlier description; values are JSON, and nested objects are compared member by member.
      now: the current description.
    """
    described = list(_differences(before, now, ""))
    more = len(described) - _SHOWN
    return "; ".join(described[:_SHOWN] + ([f"and {more} more"] if more > 0 else []))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{name}: ")
        elif name not in before:
            yield f"{prefix}{name} was not recorded, is {new!r}"
        elif name not in now:
            yield f"{prefix}{name} was {old!r}, is absent now"
        elif old != new:
            yield f"{prefix}{name} was {old!r}, is {new!r}"


def _stamp(file: Path) -> str:
    stat = file.stat()
    seconds, nanoseconds = divmod(stat.st_mtime_ns, 1_000_000_000)
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{stat.st_size} bytes of {time:%Y-%m-%d %H:%M:%S}.{nanoseconds:09}"


def _digest(parts: Iterable[str | np.ndarray]) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=_SIZE)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part.reshape(-1).view(np.uint8)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest
