"""Exact search in a memory-mapped corpus of random vectors, against FAISS's IndexFlatIP with its corpus in memory.

A ratio is our time to FAISS's: below 1, ours is faster. On a machine with other load, waiting threads slow FAISS down:
set OMP_NUM_THREADS=1 and compare the CPU times.
"""

import argparse
import importlib.util
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np


def set_up(side: str, directory: Path, k: int) -> None:
    global run_once  # one search; everything before it, including compilation, happens here
    queries, passages = (np.load(directory / f"{kind}.npy", mmap_mode="r") for kind in ("queries", "passages"))
    if side == "ours":
        from jaxretr.retrieval import search

        run_once = lambda: search(queries, passages, k)  # noqa: E731
        search(queries, passages[:50_000], k)
    else:
        import faiss

        index = faiss.IndexFlatIP(passages.shape[1])
        index.add(passages)
        run_once = lambda: index.search(queries, k)  # noqa: E731


def timed_run() -> tuple[tuple[float, float], int, np.ndarray, np.ndarray]:
    """Run one search; return seconds and CPU seconds, peak GiB so far, scores and positions."""
    started, cpu_started = time.perf_counter(), time.process_time()
    scores, positions = run_once()
    seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, scores, positions


def run(**sizes: int) -> None:
    if importlib.util.find_spec("faiss") is None:
        raise SystemExit("error: faiss is missing; run this with `uv run --group benchmark`")
    with tempfile.TemporaryDirectory() as directory:
        compare(Path(directory), **sizes)


def compare(directory: Path, passages: int, dim: int, queries: int, k: int, repeats: int) -> None:
    for kind, rows in (("queries", queries), ("passages", passages)):
        array = np.lib.format.open_memmap(directory / f"{kind}.npy", "w+", np.float32, (rows, dim))
        for number, block in enumerate(np.array_split(array, -(-rows // 65_536))):
            block[:] = np.random.default_rng([rows, number]).standard_normal(block.shape, np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
    sides, own = ("ours", "FAISS"), get_context("spawn")
    workers = [ProcessPoolExecutor(1, own, set_up, (side, directory, k)) for side in sides]
    runs = [[worker.submit(timed_run).result() for worker in workers] for _ in range(repeats)]
    median = np.median([[run[0] for run in both] for both in runs], axis=0)
    for side, (seconds, cpu_seconds), last in zip(sides, median, runs[-1], strict=True):
        print(f"{side:6} {seconds:7.2f} s  {cpu_seconds:7.2f} CPU s  peak {last[1]:.2f} GiB")
    print("ratio to FAISS IndexFlatIP: {:.2f} (CPU time {:.2f})".format(*median[0] / median[1]))
    (_, _, ours, found), (_, _, theirs, expected) = runs[-1]
    same = np.mean([np.isin(*rows).mean() for rows in zip(found, expected, strict=True)])
    print(f"same top {k}: {same:.4%}; largest difference of scores at a rank: {np.abs(ours - theirs).max():.1e}")
    np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg="not the same passages, and not by rounding")


def add_flags(parser: argparse.ArgumentParser) -> None:
    for name, size in {"passages": 1_000_000, "dim": 384, "queries": 1_000, "k": 100, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default: %(default)s")
