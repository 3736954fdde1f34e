"""Vectors that are as hard to search as text embeddings. Input: sizes. Output: a directory of arrays.

A passage is a random center plus Gaussian noise of the same spread, normalized. The variance along the i-th principal
axis falls as 1/i, and the axes are rotated at random, so that no group of coordinates holds more variance than another.
There is one center per hundred passages; the j-th largest center has a share of about j^-0.75 of the passages. Queries
are drawn in the same way from the same centers and are not passages. At 100,000 x 384 the local intrinsic dimension
(Amsaleg et al. 2015, maximum likelihood over 100 neighbors) has a median of 20: as hard as GloVe and GIST, the hard
ones of the usual benchmarks, and somewhat easier than the mini encoder's embeddings of Cranfield (24).

passages.npy, tuning.npy, queries.npy   float32, unit length
tuning-truth.npy, queries-truth.npy     numbers of the K best passages per query, best first
"""

from pathlib import Path

import numpy as np

K = 10
_BLOCK = 16_384


def write(directory: Path, passages: int, dim: int, queries: int) -> None:
    """Write the files that are missing, with `queries` queries to tune with and as many to measure with."""
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    axes = (turned / np.sqrt(np.arange(1, dim + 1))[:, None]).astype(np.float32)
    centres = rng.standard_normal((max(1, passages // 100), dim), np.float32)
    shares = np.arange(1, len(centres) + 1) ** -0.75
    shares /= shares.sum()
    for number, (name, rows) in enumerate({"passages": passages, "tuning": queries, "queries": queries}.items()):
        path = directory / f"{name}.npy"
        if path.exists():
            continue
        array = np.lib.format.open_memmap(path.with_suffix(".partial"), "w+", np.float32, (rows, dim))
        for start in range(0, rows, _BLOCK):
            own = np.random.default_rng([number + 1, start])
            block = array[start : start + _BLOCK]
            chosen = centres[own.choice(len(centres), len(block), p=shares)]
            block[:] = (chosen + own.standard_normal(block.shape, np.float32)) @ axes
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        array.flush()
        path.with_suffix(".partial").rename(path)
    for name in ("tuning", "queries"):
        path = directory / f"{name}-truth.npy"
        if not path.exists():
            np.save(path, _best(np.load(directory / f"{name}.npy"), np.load(directory / "passages.npy", mmap_mode="r")))


def _best(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Return the exact answer, computed without the measured systems."""
    scores = np.full((len(queries), K), -np.inf, np.float32)
    numbers = np.zeros((len(queries), K), np.int64)
    for start in range(0, len(passages), _BLOCK):
        of_block = queries @ passages[start : start + _BLOCK].T
        best = np.argpartition(-of_block, K - 1, axis=1)[:, :K]
        scores = np.concatenate([scores, np.take_along_axis(of_block, best, 1)], 1)
        numbers = np.concatenate([numbers, best + start], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        scores, numbers = np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)
    return numbers
