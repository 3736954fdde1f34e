"""Approximate and exact search in clustered vectors (index_data.py): ours, FAISS and hnswlib (index_systems.py).

    uv run --group benchmark scripts/benchmark.py index --passages 50000
    uv run --group benchmark scripts/benchmark.py index --directory DIR --json table.json

Each system is built, tuned to each recall on one set of queries, and measured on another, in three processes that run
one after the other on the same cores. Each search is timed with all queries in one call (queries/s; median of three,
after one warm-up) and with single queries (p50). Peak memory is the resident set, including pages of mapped files;
Python and the libraries take part of it. Ratios are to the baseline's queries/s at the same recall: above 1 is faster
than the baseline. On a machine with other load, compare queries per CPU second.

With --directory, everything that is built is kept and reused.
"""

import argparse
import json
import os
import re
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import index_data
from benchmarks.index_systems import EXACT, SYSTEMS, System, recall

from jaxretr.files import path_flag

TARGETS = [0.95, 0.99]
_MORE = 0.2  # margin in tuning, as a share of the distance to perfect recall
_REPEATS = 3
_SINGLE = 200  # single queries to time, at most
_SECONDS = 10.0  # after which no more single queries are timed


def build(system: System, data: Path) -> dict[str, float]:
    """Build the index unless it exists; return seconds, CPU seconds, GiB at the peak and GiB on disk."""
    directory, record = data / system.built_as, data / f"{system.built_as}.json"
    if not record.exists():
        shutil.rmtree(directory, ignore_errors=True)  # an interrupted build may have left it
        passages = np.load(data / "passages.npy", mmap_mode="r")
        began, cpu_began = time.perf_counter(), time.process_time()
        system.build(passages, directory)
        taken = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu_began,
            "peak_gib": peak_gib(),
            "disk_gib": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 2**30,
        }
        record.write_text(json.dumps(taken), encoding="utf-8")
    return json.loads(record.read_text(encoding="utf-8"))


def tune(system: System, data: Path) -> list[Any]:
    """Return the settings for each recall, tuned with a margin because recall on other queries may be lower."""
    system.open(data, data / system.built_as)
    return system.tune(
        [target + _MORE * (1 - target) for target in TARGETS],
        np.load(data / "tuning.npy"),
        np.load(data / "tuning-truth.npy"),
    )


def measure(system: System, data: Path, setting: Any) -> dict[str, float]:
    """Return recall, speed and peak memory of one setting."""
    queries, truth = np.load(data / "queries.npy"), np.load(data / "queries-truth.npy")
    system.open(data, data / system.built_as)
    search = system.search(setting)
    found, batched, single = search(queries), [], []
    for _ in range(_REPEATS):
        began, cpu_began = time.perf_counter(), time.process_time()
        search(queries)
        batched.append((time.perf_counter() - began, time.process_time() - cpu_began))
    search(queries[:1])
    singles_began = time.perf_counter()
    for query in queries[:_SINGLE]:
        began, cpu_began = time.perf_counter(), time.process_time()
        search(query[None])
        single.append((time.perf_counter() - began, time.process_time() - cpu_began))
        if time.perf_counter() - singles_began > _SECONDS:
            break
    seconds, cpu_seconds = np.median(batched, axis=0)
    return {
        "recall": recall(found, truth),
        "queries_per_second": len(queries) / seconds,
        "queries_per_cpu_second": len(queries) / cpu_seconds,
        "p50_ms": 1e3 * float(np.median([taken[0] for taken in single])),
        "cpu_p50_ms": 1e3 * float(np.median([taken[1] for taken in single])),
        "peak_gib": peak_gib(),
        "load": os.getloadavg()[0],
    }


def peak_gib() -> float:
    """Return the peak memory of this process since its start, without its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20  # type: ignore[index]


def run(directory: Path | None, json_file: Path | None, **flags: Any) -> None:
    if directory is None:
        with tempfile.TemporaryDirectory() as temporary:
            results = compare(Path(temporary), **flags)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        results = compare(directory, **flags)
    print("\n" + table(results))
    if json_file:
        json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def compare(
    directory: Path, only: list[str], baseline: str, threads: int, ef_construction: int, **sizes: int
) -> dict[str, Any]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    # Waiting threads must not spin: they would take CPU time from other systems and count it as their own.
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    index_data.write(directory, **sizes)
    results: dict[str, Any] = {
        "sizes": sizes,
        "threads": threads,
        "ef_construction": ef_construction,
        "baseline": baseline,
        "systems": {},
    }
    for name in only:
        system = SYSTEMS[name](threads, ef_construction)
        built = alone(build, system, directory) if system.built_as else {}
        began = time.perf_counter()
        chosen = alone(tune, system, directory)
        built["tuning_seconds"] = time.perf_counter() - began
        runs = []
        for target, setting in zip(TARGETS, chosen, strict=True):
            if runs and name in EXACT:
                runs.append({**runs[-1], "target": target})
            elif setting is not None or name in EXACT:
                runs.append({"target": target, "setting": setting} | alone(measure, system, directory, setting))
        print(json.dumps({name: runs}), flush=True)
        results["systems"][name] = {"build": built, "runs": runs}
    return results


def alone(function: Any, *arguments: Any) -> Any:
    """Run a function in a new process and return its result."""
    with ProcessPoolExecutor(1, get_context("spawn")) as worker:
        return worker.submit(function, *arguments).result()


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown tables."""
    systems, baseline = results["systems"], results["baseline"]
    sizes = results["sizes"]
    lines = [
        f"{sizes['passages']:,} x {sizes['dim']}, {results['threads']} threads, recall@{index_data.K} of "
        f"{sizes['queries']:,} queries that were not tuned on; ratio to {baseline} (by CPU time)",
        "",
        "| system | recall | queries/s | ratio | p50 ms (CPU) | peak GiB | settings |",
        "|---|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        lines.append(f"| **tuned to recall ≥ {target}** | | | | | | |")
        for name, system in systems.items():
            one = _of(system, target)
            if one is None:
                lines.append(f"| {name} | not reached | | | | | |")
                continue
            base = _of(systems[baseline], target) if baseline in systems else None
            rates = [one["queries_per_second"], one["queries_per_cpu_second"]]
            ratio = ""
            if base:
                by = [rates[0] / base["queries_per_second"], rates[1] / base["queries_per_cpu_second"]]
                ratio = "{:.2f} ({:.2f})".format(*by)
            lines.append(
                f"| {name} | {one['recall']:.4f} | {rates[0]:,.0f} | {ratio} | {one['p50_ms']:.2f} "
                f"({one['cpu_p50_ms']:.2f}) | {one['peak_gib']:.2f} | {_shown(one['setting'])} |"
            )
    lines += ["", "| index | build s | CPU s | peak GiB | on disk GiB | tuning s |", "|---|---|---|---|---|---|"]
    for name, system in systems.items():
        built = system["build"]
        figures = [built.get(figure) for figure in ("seconds", "cpu_seconds", "peak_gib", "disk_gib")]
        shown = ["" if figure is None else f"{figure:,.2f}" for figure in figures]
        lines.append(f"| {name} | {' | '.join(shown)} | {built['tuning_seconds']:,.0f} |")
    return "\n".join(lines)


def _of(system: dict[str, Any], target: float) -> dict[str, Any] | None:
    return next((one for one in system["runs"] if one["target"] == target), None)


def _shown(setting: Any) -> str:
    return json.dumps(setting).replace('"', "") if setting else ""


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for name, size in {"passages": 1_000_000, "dim": 384, "queries": 1_000}.items():
        add(f"--{name}", type=int, default=size, help="default: %(default)s")
    add("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="systems (default: all)")
    add("--baseline", choices=SYSTEMS, default="faiss-flat", help="default: %(default)s")
    add("--threads", type=int, default=2, help="and cores of every system (default: %(default)s)")
    add("--ef_construction", type=int, default=200, help="of both HNSW (default: %(default)s)")
    add("--directory", type=path_flag, help="keep vectors and indexes here (default: they are deleted at the end)")
    add("--json", dest="json_file", type=path_flag, metavar="FILE", help="write all figures there")
