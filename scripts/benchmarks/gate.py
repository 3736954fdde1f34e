"""The time that the gate adds to ingestion, on made-up vectors (index_data.py).

    uv run scripts/benchmark.py gate

Builds an index from vectors, adds a gate, and upserts batches of new passages into an index with and without the gate,
in turns. The two sides of a ratio are measured in the same process, one after the other; a ratio above 1 is the cost of
the gate. Encoding is not included, so the share of the gate in the time of a real build or upsert is smaller.
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks import index_data

from jaxretr.index import Index, IndexedPassage
from jaxretr.index.build import build_from_vectors

_LANGUAGES = ("ar", "de", "en", "zh")
_UPSERTS = 20  # upserts of each repeat


def run(passages: int, dim: int, sentinels: int, batch: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary)
        count = repeats * _UPSERTS * batch
        index_data.write(data, passages + count, dim, max(sentinels, 1_000))
        rows, queries = np.load(data / "passages.npy"), np.load(data / "queries.npy")[:sentinels]
        texts = [f"sentinel {number}" for number in range(sentinels)]
        corpus = [IndexedPassage(str(i), f"text {i}", language=_LANGUAGES[i % 4]) for i in range(passages + count)]
        about = {"model": "none", "fingerprint": "none", "max_length": 1, "dtype": "float32", "dim": dim}
        plain, gated = data / "plain", data / "gated"

        def build() -> None:
            shutil.rmtree(plain, ignore_errors=True)
            build_from_vectors(plain, corpus[:passages], rows[:passages], queries, about)

        def add_gate() -> None:
            with Index.open(gated, writable=True) as index:
                index.set_gate(texts, queries)

        builds, gates = [], []
        build()  # compiles and fills the caches
        for _ in range(repeats):
            builds.append(_timed(build))
            shutil.rmtree(gated, ignore_errors=True)
            shutil.copytree(plain, gated)
            gates.append(_timed(add_gate))
        upserts: tuple[list, list] = ([], [])
        held = 0
        with (
            contextlib.closing(Index.open(plain, writable=True)) as without,
            contextlib.closing(Index.open(gated, writable=True)) as with_gate,
        ):
            for start in range(passages, passages + count, batch):
                new, vectors = corpus[start : start + batch], rows[start : start + batch]
                upserts[0].append(_timed(lambda new=new, vectors=vectors: without.upsert(new, vectors)))
                upserts[1].append(_timed(lambda new=new, vectors=vectors: with_gate.upsert(new, vectors)))
            held = with_gate.describe()["gate"]["quarantined"]
        print(f"{passages:,} x {dim}, {sentinels} sentinels, {held:,} of {passages + count:,} passages quarantined")
        _report("build", np.asarray(builds), np.asarray(builds) + np.asarray(gates))
        _report(f"upsert of {batch}", np.asarray(upserts[0]), np.asarray(upserts[1]))


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds and CPU seconds of a call."""
    began, cpu_began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu_began


def _report(name: str, without: np.ndarray, with_gate: np.ndarray) -> None:
    seconds, cpu = np.median(with_gate / without, axis=0)
    base, gate = np.median(without[:, 1]), np.median(with_gate[:, 1])
    print(f"{name}: median ratio {seconds:.2f}, by CPU time {cpu:.2f} ({base:.3f} to {gate:.3f} CPU s)")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for name, default, what in (
        ("passages", 20_000, "passages in the index"),
        ("dim", 384, "width of the vectors"),
        ("sentinels", 500, "sentinel queries"),
        ("batch", 64, "passages per upsert"),
        ("repeats", 5, "builds with and without a gate"),
    ):
        add(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
