"""Hours of mixed load on a writable service that is killed and restarted: does it lose data, answer wrongly or grow?

    uv run scripts/benchmark.py soak --index index --minutes 30

Works on a copy of an index that is small enough for exact search. Clients search (also with filters and several queries
at once), put and delete passages, request embeddings, and send requests that must be rejected. At random moments while
a write is in progress, the server is killed as by `kill -9`; once, the index is compacted. A model of everything that
was accepted (soak_truth.py) checks every answer, and the complete content of the index after each restart, in pauses
and at the end. Memory counts as flat if, in every life of a server, the last third takes at most 16 MiB plus 5% of the
first sample more than the middle third.
Exits with status 1 if anything is wrong.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from benchmarks.serve import distinct_queries
from benchmarks.service import Client, Server
from benchmarks.soak_load import Load, Texts
from benchmarks.soak_truth import Truth

from jaxretr.files import path_flag

_TEXTS = 400  # number of queries, and of passages to put
_EVERY = 2.0  # seconds between samples of memory
_JUDGED_FROM = 120.0  # seconds of life from which a server's memory is judged
_MORE_THAN_THERE_IS = "100000"


@dataclass
class Diary:
    """The events of a run. Times are seconds since the start; `paused` of them passed without load."""

    lives: list[list[tuple[float, float]]] = field(default_factory=list)  # per server: times and MiB
    events: list[str] = field(default_factory=list)
    settled: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    paused: float = 0.0
    up: bool = False

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def note(self, event: str) -> None:
        self.events.append(f"{self.now:7.0f} s  {event}")
        print(self.events[-1], flush=True)


def run(index: Path, minutes: float, kills: int, searchers: int, seed: int) -> None:
    from jaxretr import parallel

    parallel.initialize()
    with tempfile.TemporaryDirectory() as directory:
        copy, log = Path(directory) / "index", Path(directory) / "log"
        shutil.copytree(index, copy)
        truth, texts = prepare(copy)
        limits = ["--max_k", _MORE_THAN_THERE_IS, "--max_hits", _MORE_THAN_THERE_IS]
        with Server(copy, ["--writable", *limits], log) as server:
            load, diary = Load(server.port, truth, texts, seed), Diary()
            asyncio.run(soak(server, load, truth, diary, 60 * minutes, kills, searchers, np.random.default_rng(seed)))
            if code := server.stop():
                truth.complain(f"the server ended with status {code}")
        check_directory(copy, truth, texts, diary)
        printed = log.read_text(encoding="utf-8", errors="replace")
        if "Traceback" in printed:
            truth.complain("the server printed:\n" + printed[printed.index("Traceback") :][:3000])
    report(load, truth, diary)
    if truth.complaints:
        sys.exit(1)


def prepare(index: Path) -> tuple[Truth, Texts]:
    """Return the content of an index, and the texts to put and to query with, encoded."""
    from jaxretr.index import Index
    from jaxretr.index.encoder import load_encoder
    from jaxretr.index.layout import STORE
    from jaxretr.index.store import Store

    with Index.open(index) as opened:
        about = opened.describe()
    if about["search"] != "exact" or about["storage"] != "float32" or any(about["since_built"].values()):
        raise SystemExit(f"error: {index} must be searched exactly, in float32, and as it was built")
    with Store(index / about["generation"] / STORE) as store:
        held = [passage for block in store.live(store.revision) for _, passage in block]
    passages = [
        {"id": p.id, "text": p.text, "title": p.title, "language": p.language, "metadata": dict(p.metadata)}
        for p in held
    ]
    vectors = np.load(index / about["generation"] / "vectors-00000.npy")
    encoder, rng = load_encoder(about), np.random.default_rng(0)
    queries = list(islice(distinct_queries(index), _TEXTS))
    texts = [f"{queries[rng.integers(len(queries))]} {held[rng.integers(len(held))].text}" for _ in range(_TEXTS)]
    encoded = encoder.encode_query(queries), encoder.encode_document(texts)
    return Truth(passages, vectors), Texts(queries, encoded[0], texts, encoded[1])


async def soak(
    server: Server,
    load: Load,
    truth: Truth,
    diary: Diary,
    seconds: float,
    kills: int,
    searchers: int,
    rng: np.random.Generator,
) -> None:
    """Run everything from the first start to the last check."""
    await start(server, diary)
    await load.seed_group()
    moments = [(seconds * (n + rng.uniform(0.1, 0.9)) / kills, "kill") for n in range(kills)]
    moments += [(seconds * rng.uniform(0.35, 0.65), "compact")]
    moments += [(seconds * tenth / 10, "look") for tenth in range(1, 10)]
    diary.began = time.monotonic()
    watching = asyncio.create_task(watch(server, diary))
    clients = [asyncio.create_task(client) for client in load.clients(searchers)]
    for moment, what in [*sorted(moments), (seconds, "look")]:
        load.go_on()  # not after the last look: a write that is cancelled has no known outcome
        waiting = asyncio.create_task(asyncio.sleep(moment + diary.paused - diary.now))
        await asyncio.wait([waiting, *clients], return_when=asyncio.FIRST_COMPLETED)
        if broken := [client for client in clients if client.done()]:
            broken[0].result()
        pause = diary.now
        if what == "kill":
            await kill(server, load, diary, rng)
        elif what == "compact":
            await compact(server, truth, diary)
            continue
        await load.quiet()
        happened, not_happened = truth.settle(*await load.dump(), time.monotonic())
        diary.settled.update({"happened": happened, "did not": not_happened})
        diary.note(f"{what}: {len(truth):,} passages are there, {len(truth.complaints)} complaints")
        diary.paused += diary.now - pause
    for task in (watching, *clients):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def start(server: Server, diary: Diary) -> None:
    seconds = await asyncio.to_thread(server.start)
    diary.lives.append([])
    diary.up = True
    diary.note(f"the server is ready after {seconds:.1f} s")


async def kill(server: Server, load: Load, diary: Diary, rng: np.random.Generator) -> None:
    """Kill the server while a write is in progress, and restart it."""
    patience = time.monotonic() + 10
    while not load.writing and time.monotonic() < patience:
        await asyncio.sleep(0.001)
    await asyncio.sleep(rng.uniform(0, 0.02))
    load.stopping, diary.up = True, False
    under_way = load.writing
    server.kill()
    diary.note(f"killed, {under_way} writes under way")
    await load.quiet()
    await start(server, diary)
    load.stopping = False


async def compact(server: Server, truth: Truth, diary: Diary) -> None:
    client = Client(server.port)
    status, answer = await client.ask_json("POST", "/passages/compact")
    client.close()
    diary.note(f"compaction: {status} {answer}")
    if status != 202:
        truth.complain(f"compaction was answered {status} {answer}")


async def watch(server: Server, diary: Diary) -> None:
    """Sample memory until cancelled."""
    while True:
        if diary.up:
            diary.lives[-1].append((diary.now, server.resident_mib))
        await asyncio.sleep(_EVERY)


def check_directory(index: Path, truth: Truth, texts: Texts, diary: Diary) -> None:
    """Check the content of the files, without the service."""
    from jaxretr.index import Index, SearchOptions

    with Index.open(index) as opened:
        [answer] = opened.search(texts.query_vectors[:1], [SearchOptions(k=len(opened))])
        upserted, deleted = opened.describe()["since_built"].values()
    hits = [
        {
            "id": hit.passage.id,
            "text": hit.passage.text,
            "title": hit.passage.title,
            "language": hit.passage.language,
            "metadata": dict(hit.passage.metadata),
            "score": hit.score,
        }
        for hit in answer.hits
    ]
    truth.settle(hits, texts.query_vectors[0], time.monotonic())
    diary.note(f"on disk: {len(hits):,} passages; since the compaction {upserted:,} upserted, {deleted:,} taken out")


def report(load: Load, truth: Truth, diary: Diary) -> None:
    print(f"\n{'':20} answered   p50 ms   p95 ms   p99 ms  other statuses (0: killed meanwhile)")
    for what, statuses in sorted(load.statuses.items()):
        taken = load.milliseconds[what]
        percentiles = np.percentile(taken, [50, 95, 99]) if taken else [np.nan] * 3
        others = {status: count for status, count in sorted(statuses.items()) if status != 200}
        print(f"{what:20} {len(taken):8,} {' '.join(f'{ms:8.1f}' for ms in percentiles)}  {others or ''}")
    print(f"writes that were never answered: {dict(diary.settled)}")
    for number, life in enumerate(diary.lives):
        print(f"server {number}, MiB resident: " + memory(life))
        if (grown := growth(life)) is not None and grown > 0.05 * life[0][1] + 16:
            truth.complain(f"the memory of server {number} grew by {grown:.0f} MiB")
    for complaint in truth.complaints[:20]:
        print(f"WRONG: {complaint[:2000]}")
    print(f"verdict: {f'{len(truth.complaints)} complaints' if truth.complaints else 'nothing lost, nothing wrong'}")


def memory(life: list[tuple[float, float]]) -> str:
    """Return some of the samples as text."""
    chosen = np.unique(np.linspace(0, len(life) - 1, 12).astype(int)) if life else []
    return ", ".join(f"{life[n][1]:.0f} at {life[n][0]:.0f} s" for n in chosen)


def growth(life: list[tuple[float, float]]) -> float | None:
    """Return the MiB by which memory grew from the middle third to the last; None if the life was too short."""
    if not life or life[-1][0] - life[0][0] < _JUDGED_FROM:
        return None
    resident = np.asarray(life)[:, 1]
    _, middle, last = np.array_split(resident, 3)
    return float(np.median(last) - np.median(middle))


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--index", type=path_flag, required=True, help="made by scripts/build_index.py; it is copied")
    for name, value in {"minutes": 30.0, "kills": 3, "searchers": 4, "seed": 0}.items():
        add(f"--{name}", type=type(value), default=value, help="default: %(default)s")
