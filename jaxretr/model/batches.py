"""Batches of texts sorted by length: few shapes, little padding.

Input: token ids of any number of texts, of any lengths. Output: the batches to run, and what a function returns for
them. `Encoder` and `CrossEncoder` both run their texts in these batches.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxretr import parallel
from jaxretr.tokenization import Tokenization, bucket

IN_FLIGHT = 2
"""Number of batches that are dispatched before the oldest is fetched."""

_TOKENS_PER_TEXT = 128  # `batch_size` is a number of texts of this length


class PlannedBatch(NamedTuple):
    """Indices of the texts that are encoded together, and the shape [size, length] of their batch."""

    rows: Int[np.ndarray, " texts"]
    size: int
    length: int


def plan_batches(lengths: Sequence[int], buckets: Sequence[int], batch_size: int) -> Iterator[PlannedBatch]:
    """Split texts, longest first, into batches of about `batch_size` × 128 tokens per device.

    If the texts of a length bucket do not fill a batch, the next shorter texts join it. So only the last batch can be
    smaller than the full size of its bucket, and its size is rounded up to a power of two per device. This limits the
    number of compilations.
    """
    devices = parallel.local_device_count()
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    start = 0
    while start < len(order):
        length = bucket(lengths[order[start]], buckets)
        per_device = max(1, batch_size * _TOKENS_PER_TEXT // length)
        rows = order[start : start + devices * per_device]
        needed = -(-len(rows) // devices)
        yield PlannedBatch(rows, devices * min(per_device, 1 << (needed - 1).bit_length()), length)
        start += len(rows)


def run_batches(
    run: Callable[..., Any], params: Any, tokenization: Tokenization, ids: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[Int[np.ndarray, " texts"], np.ndarray]]:
    """Yield, batch by batch, the indices of the texts and the rows that `run` returns for them.

    Args:
      run: function of (params, ids, mask) on all local devices; ids and mask have a leading axis of devices.
      params: first argument of `run`.
      tokenization: pads the texts.
      ids: token ids of each text.
      batch_size: number of texts of 128 tokens per device.
    """
    dispatched: deque[tuple[np.ndarray, jax.Array]] = deque()
    for batch in plan_batches([len(row) for row in ids], tokenization.buckets_for(len(ids)), batch_size):
        empty: list[Sequence[int]] = [[]] * (batch.size - len(batch.rows))
        tokens = tokenization.pad([*(ids[row] for row in batch.rows), *empty], batch.length)
        dispatched.append((batch.rows, run(params, *parallel.split(tokens))))
        if len(dispatched) > IN_FLIGHT:
            yield _fetched(*dispatched.popleft())
    while dispatched:
        yield _fetched(*dispatched.popleft())


def _fetched(rows: np.ndarray, result: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    return rows, parallel.merge(result)[: len(rows)]
