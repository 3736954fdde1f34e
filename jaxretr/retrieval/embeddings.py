"""Embeddings of a corpus on disk: `embed` encodes texts shard by shard, `Embeddings` reads the result.

A directory holds shards, `00000-<digest>.npy` and so on, and `embeddings.json`, which describes them and is written
last. A digest covers a shard's texts and the fingerprint of the encoder. So a killed run resumes with the missing
shards, and the earlier embeddings stay readable until the new embeddings are complete.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float32, Int

from jaxretr import parallel
from jaxretr.files import AnyPath, as_path, local_copy, replaced_file, write_json
from jaxretr.tracking import progress_bar, say

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts -> embeddings, float32 of shape [texts, dim]; L2-normalized if scores should be cosines."""

_METADATA = "embeddings.json"
_DIGEST_SIZE = 16  # bytes
_READ_AT_ONCE = 16_384  # consecutive rows from which `Subset` selects at once


@runtime_checkable
class Rows(Protocol):
    """Embeddings that are read one slice at a time, float32 [n, dim]: an array, a memory map or `Embeddings`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class Embeddings:
    """The finished embeddings of a directory that `embed` wrote, as one read-only float32 array [n, dim].

    A shard is memory-mapped when it is read, and released with the last view of it. So memory holds only the parts
    of the corpus that the caller holds. To make this possible, shards in a bucket are first copied to the disk.

    Raises:
      FileNotFoundError: the directory holds no finished embeddings.
      ValueError: a shard is missing or damaged, or does not fit the other shards.
    """

    def __init__(self, directory: str | AnyPath):
        directory = as_path(directory)
        metadata = _read_metadata(directory)
        if metadata is None:
            raise FileNotFoundError(
                f"{directory} has no finished embeddings (no {_METADATA}); embed the texts to the end"
            )
        self.shape: tuple[int, int] = (metadata["texts"], metadata["dim"])
        self._shard_size: int = metadata["shard_size"]
        self._shards: list[Path] = []
        for start, name in zip(range(0, len(self), self._shard_size), metadata["shards"], strict=True):
            shard = directory / name
            expected = (min(self._shard_size, len(self) - start), self.shape[1])
            shape = _shape(shard)
            if shape != expected:
                raise ValueError(
                    f"{shard} {f'has shape {shape}' if shape else 'is missing or damaged'}, expected {expected}; "
                    "embed the texts again, which repairs the broken shards"
                )
            self._shards.append(local_copy(shard))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> Float32[np.ndarray, "rows dim"]:
        """Return consecutive rows; a view of the memory map if they are in one shard."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"a slice of rows must have step 1, got {step}")
        parts = []
        while start < stop:
            shard, first = divmod(start, self._shard_size)
            parts.append(np.load(self._shards[shard], mmap_mode="r")[first : first + stop - start])
            start += len(parts[-1])
        if not parts:
            return np.empty((0, self.shape[1]), np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Subset:
    """Selected rows of other `Rows`, in any order, read on access.

    Args:
      rows: embeddings to select from.
      positions: position in `rows` of each row of the subset.
    """

    def __init__(self, rows: Rows, positions: Int[np.ndarray, " n"]):
        self._rows, self._positions = rows, positions
        self.shape: tuple[int, int] = (len(positions), rows.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> Float32[np.ndarray, "rows dim"]:
        """Return a copy of the rows."""
        positions = self._positions[rows]
        selected = np.empty((len(positions), self.shape[1]), np.float32)
        order = np.argsort(positions, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(positions[order] // _READ_AT_ONCE)) + 1):
            if len(places):
                first, last = positions[places[0]], positions[places[-1]]
                selected[places] = self._rows[first : last + 1][positions[places] - first]
        return selected


def embed(
    texts: Sequence[str], encode: Encode, directory: str | AnyPath, *, fingerprint: str, shard_size: int = 16_384
) -> Embeddings:
    """Embed texts into a directory. Shards that an earlier run finished with equal texts and fingerprint are kept.

    If several processes call `embed`, each process embeds its share of the shards. All processes need access to the
    directory, and `encode` must not wait for other processes. All processes return when all are done.

    Args:
      texts: at least one text; read one shard at a time, so they need not be in memory.
      encode: called with the texts of one shard.
      directory: directory of the embeddings; created if absent.
      fingerprint: identifies what `encode` computes; another fingerprint makes earlier embeddings stale.
      shard_size: number of texts per shard.

    Returns:
      The finished embeddings.

    Raises:
      ValueError: there are no texts, `encode` returns a wrong shape or values that are not finite, or its dimension
        differs from existing embeddings with the same fingerprint.
      DirectoryInUse: another call of `embed` uses the directory.
    """
    directory = as_path(directory)
    if not len(texts) or shard_size < 1:
        raise ValueError(
            f"cannot embed {len(texts)} texts in shards of {shard_size} into {directory}; expected at least 1 each"
        )
    with parallel.locked(directory, "wait until it has ended, or embed into another directory"):
        return _embed(texts, encode, directory, fingerprint, shard_size)


def _embed(texts: Sequence[str], encode: Encode, directory: AnyPath, fingerprint: str, shard_size: int) -> Embeddings:
    directory.mkdir(parents=True, exist_ok=True)
    before = _read_metadata(directory)
    stale = before is not None and before["fingerprint"] != fingerprint
    if before and stale:
        say(
            f"{directory} holds embeddings by another encoder ({before['fingerprint']}); embedding again: {fingerprint}"
        )
    dim: int | None = before["dim"] if before and not stale else None

    starts = range(0, len(texts), shard_size)
    mine = range(jax.process_index(), len(starts), jax.process_count())
    digests = np.zeros((len(starts), _DIGEST_SIZE), np.uint8)
    with progress_bar() as bar:
        task = bar.add_task("embed", total=sum(min(shard_size, len(texts) - starts[number]) for number in mine))
        for number in mine:
            of_shard = list(texts[starts[number] : starts[number] + shard_size])
            digests[number] = _digest(of_shard, fingerprint)
            dim = _complete(directory / _name(number, digests[number]), of_shard, encode, dim)
            bar.advance(task, len(of_shard))

    if jax.process_count() > 1:  # also waits for all processes
        digests = np.asarray(multihost_utils.process_allgather(digests)).max(0)
    if parallel.is_main_process():
        names = [_name(number, digest) for number, digest in enumerate(digests)]
        value = {"fingerprint": fingerprint, "dim": dim, "texts": len(texts), "shard_size": shard_size, "shards": names}
        write_json(directory / _METADATA, value)
        # Remove stale shards and partial files of a killed run, but no other files.
        for path in directory.glob(f"*-{'[0-9a-f]' * 2 * _DIGEST_SIZE}.npy"):
            if path.name not in names:
                path.unlink()
    parallel.wait_for_all()
    return Embeddings(directory)


def check_embeddings(embeddings: np.ndarray, texts: Sequence[str], name: str) -> Float32[np.ndarray, "texts dim"]:
    """Check the result of an encoding function and return it as float32.

    Args:
      embeddings: result of the function.
      texts: texts that the function was called with.
      name: name of the function, for the error message.

    Raises:
      ValueError: the shape is not [texts, dim], or a value is not finite.
    """
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(texts):
        raise ValueError(
            f"{name} returned shape {embeddings.shape}; expected [{len(texts)}, dim], one row per text "
            f"(the first is {next(iter(texts), '')[:80]!r})"
        )
    broken = np.flatnonzero(~np.isfinite(embeddings).all(1))
    if len(broken):
        raise ValueError(
            f"{name} returned values that are not finite for {len(broken)} texts, the first {texts[broken[0]][:80]!r}; "
            "check the model's weights and its compute dtype"
        )
    return embeddings


def _complete(path: AnyPath, texts: Sequence[str], encode: Encode, dim: int | None) -> int:
    """Embed a shard unless it exists; return its dimension, which must equal `dim` unless `dim` is None."""
    shape, new = _shape(path), None
    if shape is None or shape[0] != len(texts):
        new = check_embeddings(encode(texts), texts, "encode")
        shape = new.shape
    if dim not in (None, shape[1]):
        raise ValueError(
            f"embeddings from {path if new is None else 'encode'} have {shape[1]} dimensions, earlier embeddings in "
            f"{path.parent} have {dim} and the same fingerprint; give each encoder its own fingerprint, or delete "
            "the directory"
        )
    if new is not None:
        with replaced_file(path) as partial:
            np.save(partial, new)
    return shape[1]


def _digest(texts: Sequence[str], fingerprint: str) -> np.ndarray:
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    for text in (fingerprint, *texts):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return np.frombuffer(digest.digest(), np.uint8)


def _name(number: int, digest: np.ndarray) -> str:
    return f"{number:05}-{digest.tobytes().hex()}.npy"


def _shape(path: AnyPath) -> tuple[int, int] | None:
    """Return the shape of a complete shard; None if the file is missing, truncated or something else."""
    try:
        shard = np.load(local_copy(path), mmap_mode="r")
    except (FileNotFoundError, EOFError, ValueError):
        return None
    return shard.shape if shard.ndim == 2 and shard.dtype == np.float32 else None


def _read_metadata(directory: AnyPath) -> dict[str, Any] | None:
    path = directory / _METADATA
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
