"""ScaNN: vectors and settings come in; out goes a directory that is searched fast, and almost exactly.

A tree of k-means clusters says which part of the corpus a query looks at, anisotropic vector quantization scores that
part in 4 bits for every few dimensions, and the best of it are scored again from the stored vectors. Guo et al. (2020),
arXiv:1908.10396.
"""

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from jaxretr.index.vectors import Storage

try:
    from scann.scann_ops.py import scann_ops_pybind
    from scann.scann_ops.py.scann_builder import ReorderType
except ImportError:  # no wheels for this platform
    scann_ops_pybind = None

EXACT_BELOW = 20_000
"""Passages up to which every one of them is scored: not slower, and exact."""

_PARALLEL_FROM = 16  # queries that are worth more than one thread


@dataclass(frozen=True)
class ScannSettings:
    """Named as in ScaNN's own builder, but for the last.

    Attributes:
      num_leaves: clusters of the tree.
      num_leaves_to_search: how many of them a query looks at.
      reordering_num_neighbors: how many of the best are scored again.
      dimensions_per_block: dimensions that share a 4-bit code.
      anisotropic_quantization_threshold: cosine from which the error along the vector counts more than across it.
      training_sample_size: vectors that the clusters and codes are learnt from.
      leaves_growth: to find ten times as many passages, 10 to the power of this times as many leaves are looked at.

    Raises:
      ValueError: for a number below 1, or more leaves to search than there are.
    """

    num_leaves: int
    num_leaves_to_search: int
    reordering_num_neighbors: int = 100
    dimensions_per_block: int = 2
    anisotropic_quantization_threshold: float = 0.2
    training_sample_size: int = 250_000
    leaves_growth: float = 0.75

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; expected at least 1")
        if self.num_leaves_to_search > self.num_leaves:
            raise ValueError(
                f"num_leaves_to_search is {self.num_leaves_to_search}; expected at most num_leaves, {self.num_leaves}"
            )
        if not -1 <= self.anisotropic_quantization_threshold <= 1:
            raise ValueError(
                f"anisotropic_quantization_threshold is {self.anisotropic_quantization_threshold}; expected a cosine"
            )

    @classmethod
    def for_size(cls, passages: int) -> "ScannSettings":
        """Twice as many leaves as the square root of the corpus, a tenth of which are looked at.

        Of a million clustered vectors, .95 of the best ten are found so (`scripts/benchmark.py index`).
        """
        num_leaves = max(1, round(2 * math.sqrt(passages)))
        return cls(num_leaves, max(1, num_leaves // 10))

    def for_depth(self, depth: int) -> "ScannSettings":
        """To find `depth` passages about as surely as 10: more of the same."""
        leaves = math.ceil(self.num_leaves_to_search * max(1, depth / 10) ** self.leaves_growth)
        return dataclasses.replace(
            self,
            num_leaves_to_search=min(leaves, self.num_leaves),
            reordering_num_neighbors=max(self.reordering_num_neighbors, 2 * depth),
        )


class ScannSearcher:
    """A directory that `build_scann` made, in memory."""

    def __init__(self, directory: Path, settings: ScannSettings):
        self.settings = settings
        self._searcher = scann_ops_pybind.load_searcher(str(directory))

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], depth: int, settings: ScannSettings | None = None
    ) -> tuple[Int[np.ndarray, "queries depth"], Float32[np.ndarray, "queries depth"]]:
        """Numbers and scores of the vectors found, best first; -1 where there are no more in the leaves looked at.

        Args:
          settings: how to search, instead of those that it was loaded with, made for the depth.
        """
        settings = settings or self.settings.for_depth(depth)
        search: Any = self._searcher.search_batched
        if len(queries) >= _PARALLEL_FROM and (os.cpu_count() or 1) > 1:
            search = self._searcher.search_batched_parallel
        found, scores = search(
            np.ascontiguousarray(queries),
            final_num_neighbors=depth,
            pre_reorder_num_neighbors=max(depth, settings.reordering_num_neighbors),
            leaves_to_search=settings.num_leaves_to_search,
        )
        there = np.isfinite(scores)
        return np.where(there, found.astype(np.int64), -1), np.where(there, scores, np.float32(-np.inf))


def available() -> bool:
    """Whether ScaNN is installed; it has wheels for Linux on x86-64."""
    return scann_ops_pybind is not None


def build_scann(
    vectors: Float32[np.ndarray, "vectors dim"], settings: ScannSettings, storage: Storage, directory: Path
) -> None:
    """Builds and writes a searcher; `directory` must be there and empty."""
    storages = {"float32": ReorderType.FLOAT32, "bfloat16": ReorderType.BFLOAT16, "int8": ReorderType.INT8}
    sample = min(settings.training_sample_size, len(vectors))
    searcher = (
        scann_ops_pybind.builder(np.ascontiguousarray(vectors), 10, "dot_product")
        # Leaves are chosen by the product with their centres: of these, long ones would be chosen too often.
        .tree(settings.num_leaves, settings.num_leaves_to_search, training_sample_size=sample, spherical=True)
        .score_ah(
            settings.dimensions_per_block,
            anisotropic_quantization_threshold=settings.anisotropic_quantization_threshold,
            training_sample_size=min(100_000, sample),
        )
        .reorder(settings.reordering_num_neighbors, quantize=storages[storage])
        .set_n_training_threads(os.cpu_count() or 1)
        .build()
    )
    searcher.serialize(str(directory), relative_path=True)
