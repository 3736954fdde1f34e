"""Approximate search with ScaNN: build a searcher from vectors and settings, write it to a directory, and load it.

A tree of k-means clusters selects the part of the corpus that a query searches. Anisotropic vector quantization scores
this part with a 4-bit code for every few dimensions. The best candidates are then rescored from stored vectors. Guo et
al. (2020), arXiv:1908.10396.
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

EXACT_UP_TO = 20_000
"""Up to this number of passages, exact search is as fast as ScaNN. It counts per segment, after filters."""

_PARALLEL_FROM = 16  # smallest number of queries for which multithreaded search pays off


@dataclass(frozen=True)
class ScannSettings:
    """Settings of ScaNN, named as in ScaNN's builder, except for `leaves_growth`.

    Attributes:
      num_leaves: number of clusters of the tree.
      num_leaves_to_search: number of clusters that a query searches.
      reordering_num_neighbors: number of best candidates that are rescored.
      dimensions_per_block: dimensions that share a 4-bit code.
      anisotropic_quantization_threshold: cosine above which quantization error along the vector counts
        more than error across it.
      training_sample_size: number of vectors that the clusters and codes are trained on.
      leaves_growth: how the number of searched leaves grows with the length of the list. To find ten times as many
        passages, a query searches 10 ** leaves_growth times as many leaves.

    Raises:
      ValueError: an integer is below 1, `num_leaves_to_search` exceeds `num_leaves`, or the threshold is not a cosine.
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
        """Return default settings for a corpus of a given size.

        The number of leaves is twice the square root of the corpus size; a tenth of the leaves is searched. With a
        million clustered vectors, this finds .95 of the best ten (`scripts/benchmark.py index`).
        """
        num_leaves = max(1, round(2 * math.sqrt(passages)))
        return cls(num_leaves, max(1, num_leaves // 10))

    def for_depth(self, depth: int) -> "ScannSettings":
        """Return settings that find `depth` passages at about the recall of the default depth, 10.

        For longer lists, they search more leaves and rescore more candidates.
        """
        leaves = math.ceil(self.num_leaves_to_search * max(1, depth / 10) ** self.leaves_growth)
        return dataclasses.replace(
            self,
            num_leaves_to_search=min(leaves, self.num_leaves),
            reordering_num_neighbors=max(self.reordering_num_neighbors, 2 * depth),
        )


class ScannSearcher:
    """A searcher that `build_scann` wrote, loaded into memory."""

    def __init__(self, directory: Path, settings: ScannSettings):
        self.settings = settings
        self._searcher = scann_ops_pybind.load_searcher(str(directory))

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], depth: int, settings: ScannSettings | None = None
    ) -> tuple[Int[np.ndarray, "queries depth"], Float32[np.ndarray, "queries depth"]]:
        """Return row numbers and scores of the best vectors, best first; -1 fills missing rows.

        Rows are missing if the searched leaves hold fewer than `depth` vectors.

        Args:
          queries: query vectors.
          depth: number of rows per query.
          settings: settings of this search, used unchanged. None adapts the searcher's own settings to `depth`.
        """
        settings = settings or self.settings.for_depth(depth)
        search_batch: Any = self._searcher.search_batched
        if len(queries) >= _PARALLEL_FROM and (os.cpu_count() or 1) > 1:
            search_batch = self._searcher.search_batched_parallel
        rows, scores = search_batch(
            np.ascontiguousarray(queries),
            final_num_neighbors=depth,
            pre_reorder_num_neighbors=max(depth, settings.reordering_num_neighbors),
            leaves_to_search=settings.num_leaves_to_search,
        )
        valid = np.isfinite(scores)
        return np.where(valid, rows.astype(np.int64), -1), np.where(valid, scores, np.float32(-np.inf))


def available() -> bool:
    """Return whether ScaNN is installed. Its wheels exist only for Linux on x86-64."""
    return scann_ops_pybind is not None


def build_scann(
    vectors: Float32[np.ndarray, "vectors dim"], settings: ScannSettings, storage: Storage, directory: Path
) -> None:
    """Build a searcher and write it to `directory`, which must exist and be empty."""
    storages = {"float32": ReorderType.FLOAT32, "bfloat16": ReorderType.BFLOAT16, "int8": ReorderType.INT8}
    sample = min(settings.training_sample_size, len(vectors))
    searcher = (
        scann_ops_pybind.builder(np.ascontiguousarray(vectors), 10, "dot_product")
        # Leaves are selected by their center's product with the query. `spherical` normalizes the centers; otherwise
        # long centers would be selected too often.
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
