"""The systems that `scripts/benchmark.py index` compares: how each is built, opened, tuned and queried.

Settings that are not tuned follow the advice of each system's authors for the size: HNSW with 16 links; IVF with
2 sqrt(n) lists, codes of a quarter of a byte per dimension, and the vectors beside them for re-ranking.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.index_data import K

Search = Callable[[np.ndarray], np.ndarray]
"""Queries -> numbers of the K best passages per query."""

_STEP = 1.25  # ratio of successive settings that are tried


@dataclasses.dataclass
class System:
    """One system. `built_as` names the directory of its index; systems that use the same index share it."""

    threads: int
    ef_construction: int
    built_as = ""

    def build(self, passages: np.ndarray, directory: Path) -> None:
        """Write the index."""

    def open(self, data: Path, directory: Path) -> None:
        """Load the index."""
        raise NotImplementedError

    def tune(self, targets: list[float], queries: np.ndarray, truth: np.ndarray) -> list[Any]:
        """Return the settings of the fastest search that reaches each target recall; None if no search reaches it."""
        chosen = []
        for target in targets:
            reaching = []
            for line in self.lines():
                low, high = 0, len(line)
                while low < high:  # bisect to the first setting that reaches the target; recall grows along a line
                    middle = (low + high) // 2
                    found = self.search(line[middle])(queries)
                    low, high = (low, middle) if recall(found, truth) >= target else (middle + 1, high)
                if low < len(line):
                    search, seconds = self.search(line[low]), []
                    for _ in range(3):
                        began = time.process_time()
                        search(queries)
                        seconds.append(time.process_time() - began)
                    reaching.append((float(np.median(seconds)), line[low]))
            chosen.append(min(reaching)[1] if reaching else None)
        return chosen

    def lines(self) -> list[list[Any]]:
        """Return lists of settings to try; recall grows along each list."""
        return [[[]]]

    def search(self, setting: Any) -> Search:
        raise NotImplementedError


class OursExact(System):
    """`jaxretr.retrieval.exact.search` on the file of vectors; needs no index."""

    def open(self, data: Path, directory: Path) -> None:
        self.passages = np.load(data / "passages.npy", mmap_mode="r")

    def search(self, setting: Any) -> Search:
        from jaxretr.retrieval.exact import search

        return lambda queries: search(queries, self.passages, K)[1]


class Ours(System):
    """An `Index`, queried through `Index.search`: it returns passages with their texts, not only numbers."""

    storage = "float32"
    built_as = "ours-float32"

    def build(self, passages: np.ndarray, directory: Path) -> None:
        from jaxretr.index import IndexedPassage
        from jaxretr.index.build import BuildOptions, build_from_vectors

        texts = (IndexedPassage(str(number), f"passage {number}") for number in range(len(passages)))
        queries = np.load(directory.parent / "tuning.npy")
        about = {"model": "none", "fingerprint": "none", "dim": passages.shape[1]}
        build_from_vectors(directory, texts, passages, queries, about, BuildOptions(storage=self.storage))

    def open(self, data: Path, directory: Path) -> None:
        from jaxretr.index.layout import read_about

        self.data, self.directory, self.about = data, directory, read_about(directory)

    def tune(self, targets: list[float], queries: np.ndarray, truth: np.ndarray) -> list[Any]:
        """Tune as `--target_recall` does."""
        from jaxretr.index.tuning import tune

        searchers, chosen = self._searchers(self.about["segments"]), []
        for target in targets:
            tuned = tune(searchers, queries, truth, target)
            chosen.append({"share": tuned.share, "reordering_num_neighbors": tuned.reordering})
        return chosen

    def search(self, setting: Any) -> Search:
        from jaxretr.index import Index, SearchOptions
        from jaxretr.index.layout import switch

        switch(self.directory, self.about | {"segments": self._segments(setting)})
        index = Index.open(self.directory)
        switch(self.directory, self.about)
        options = SearchOptions(k=K)

        def search(queries: np.ndarray) -> np.ndarray:
            answers = index.search(queries, [options] * len(queries))
            return np.asarray([[int(hit.passage.id) for hit in answer.hits] for answer in answers])

        return search

    def _segments(self, setting: Any) -> list[dict[str, Any]]:
        return [
            segment | {"scann": setting and segment["scann"] | self._scann(segment["scann"], **setting)}
            for segment in self.about["segments"]
        ]

    def _scann(self, scann: dict[str, Any], share: float, **others: Any) -> dict[str, Any]:
        return {"num_leaves_to_search": max(1, math.ceil(share * scann["num_leaves"]))} | others

    def _searchers(self, segments: list[dict[str, Any]]) -> Any:
        from jaxretr.index.tuning import Searchers

        rows = np.load(self.data / "passages.npy", mmap_mode="r")
        return Searchers(self.directory / self.about["generation"], segments, rows)


class OursInt8(Ours):
    """`Ours` with vectors of one byte per dimension."""

    storage = "int8"
    built_as = "ours-int8"


class OursNumbers(Ours):
    """The index of `Ours`, but searches return only numbers."""

    def search(self, setting: Any) -> Search:
        searchers = self._searchers(self._segments(setting))
        return lambda queries: searchers.search(queries, K)


class OursWithoutScann(Ours):
    """The index of `Ours` on a platform for which ScaNN has no wheels."""

    def tune(self, targets: list[float], queries: np.ndarray, truth: np.ndarray) -> list[Any]:
        return [None] * len(targets)


class Faiss(System):
    """FAISS's IndexFlatIP."""

    built_as = "faiss-flat"

    def empty(self, passages: np.ndarray) -> Any:
        import faiss

        return faiss.IndexFlatIP(passages.shape[1])

    def build(self, passages: np.ndarray, directory: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        index = self.empty(passages)
        if not index.is_trained:
            chosen = np.random.default_rng(0).permutation(len(passages))[:250_000]  # the number that ours trains on
            index.train(passages[np.sort(chosen)])
        for start in range(0, len(passages), 100_000):
            index.add(passages[start : start + 100_000])
        directory.mkdir()
        faiss.write_index(index, str(directory / "index"))

    def open(self, data: Path, directory: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        self.index = faiss.read_index(str(directory / "index"))

    def search(self, setting: Any) -> Search:
        return lambda queries: self.index.search(queries, K)[1]


class FaissIvfPq(Faiss):
    """IVF with 4-bit codes for every two dimensions, as in ScaNN, in FAISS's fast-scan form, with re-ranking."""

    built_as = "faiss-ivfpq-fastscan"

    def coded(self, dim: int) -> str:
        return f"PQ{dim // 2}x4fs"

    def empty(self, passages: np.ndarray) -> Any:
        import faiss

        lists = round(2 * math.sqrt(len(passages)))
        made = f"IVF{lists},{self.coded(passages.shape[1])},RFlat"
        return faiss.index_factory(passages.shape[1], made, faiss.METRIC_INNER_PRODUCT)

    def lines(self) -> list[list[Any]]:
        import faiss

        probes = _rising(1, faiss.extract_index_ivf(faiss.downcast_index(self.index.base_index)).nlist)
        return [[[again, nprobe] for nprobe in probes] for again in (2, 5, 10, 20, 50, 100)]

    def search(self, setting: Any) -> Search:
        import faiss

        k_factor, nprobe = setting
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=k_factor, base_index_params=faiss.SearchParametersIVF(nprobe=nprobe)
        )
        return lambda queries: self.index.search(queries, K, params=parameters)[1]


class FaissIvfPq8(FaissIvfPq):
    """`FaissIvfPq` with 8-bit codes for every four dimensions: the same number of bytes."""

    built_as = "faiss-ivfpq"

    def coded(self, dim: int) -> str:
        return f"PQ{dim // 4}"


class FaissHnsw(Faiss):
    """FAISS's HNSW over float32 vectors."""

    built_as = "faiss-hnsw"

    def empty(self, passages: np.ndarray) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(passages.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def lines(self) -> list[list[Any]]:
        return [_rising(K, 5_000)]

    def search(self, setting: Any) -> Search:
        import faiss

        parameters = faiss.SearchParametersHNSW(efSearch=setting)
        return lambda queries: self.index.search(queries, K, params=parameters)[1]


class Hnswlib(System):
    """HNSW over float32 vectors, by the authors of HNSW."""

    built_as = "hnswlib"

    def build(self, passages: np.ndarray, directory: Path) -> None:
        import hnswlib

        index = hnswlib.Index("ip", passages.shape[1])
        index.init_index(len(passages), M=16, ef_construction=self.ef_construction)
        index.set_num_threads(self.threads)
        for start in range(0, len(passages), 100_000):
            index.add_items(passages[start : start + 100_000])
        directory.mkdir()
        index.save_index(str(directory / "index"))

    def open(self, data: Path, directory: Path) -> None:
        import hnswlib

        dim = np.load(data / "queries.npy", mmap_mode="r").shape[1]
        self.index = hnswlib.Index("ip", dim)
        self.index.load_index(str(directory / "index"))
        self.index.set_num_threads(self.threads)

    def lines(self) -> list[list[Any]]:
        return [_rising(K, 5_000)]

    def search(self, setting: Any) -> Search:
        def search(queries: np.ndarray) -> np.ndarray:
            self.index.set_ef(setting)
            return self.index.knn_query(queries, K)[0].astype(np.int64)

        return search


SYSTEMS: dict[str, type[System]] = {
    "ours-float32": Ours,
    "ours-int8": OursInt8,
    "ours-numbers": OursNumbers,
    "ours-exact": OursExact,
    "ours-without-scann": OursWithoutScann,
    "faiss-flat": Faiss,
    "faiss-ivfpq": FaissIvfPq8,
    "faiss-ivfpq-fastscan": FaissIvfPq,
    "faiss-hnsw": FaissHnsw,
    "hnswlib": Hnswlib,
}
EXACT = ("ours-exact", "ours-without-scann", "faiss-flat")


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([np.isin(*rows).mean() for rows in zip(truth, found, strict=True)]))


def _rising(first: int, last: int) -> list[int]:
    values = [first]
    while values[-1] < last:
        values.append(min(last, max(values[-1] + 1, round(values[-1] * _STEP))))
    return values
