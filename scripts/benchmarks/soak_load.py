"""The clients of `scripts/benchmark.py soak`: they send requests with prepared texts and check the answers.

Each client makes requests of one kind, chooses their content at random and pauses at random. Two clients write; each
writes only its own passages, so that the order of the writes to a passage is known.
"""

import asyncio
import base64
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.service import Client, request
from benchmarks.soak_truth import TOLERANCE, Asked, Truth

LANGUAGES = ("en", "de", "zh")  # languages of the passages that are put
GROUPS = 5  # number of groups, stated in the metadata of the passages that are put
WRITERS = 2
_IDS = 300  # number of new passages per writer
_PATIENCE = 90.0  # seconds to wait for an answer; the server gives up after 30
_HUGE = b'{"query": "' + b"x" * 5 * 2**20 + b'"}'
BAD: list[tuple[str, str, bytes]] = [
    ("POST", "/search", body)
    for body in (
        b'{"query": ',
        b'{"query": "\xff\xfe"}',
        b'{"query": ""}',
        b'{"query": 1}',
        b'{"query": "a", "queries": ["a"]}',
        b'{"queries": []}',
        b'{"query": "a", "k": 0}',
        b'{"query": "a", "k": 1000000}',
        b'{"query": "a", "k": 1e400}',
        b'{"query": "a", "n": 1}',
        b'{"query": "a", "per_language": 0}',
        b'{"query": "a", "languages": ["tlh"]}',
        b'{"query": "a", "where": {"nothing": 1}}',
        b'{"query": ' + b"[" * 50_000,
        _HUGE,
    )
]
BAD += [
    ("POST", "/v1/embeddings", b'{"input": "a", "model": "gpt"}'),
    ("POST", "/v1/embeddings", b'{"input": [[1, 2]]}'),
    ("PUT", "/passages", b'{"passages": [{"id": "a", "text": "a"}, {"id": "a", "text": "b"}]}'),
    ("PUT", "/passages", b'{"passages": [{"id": "a", "text": ""}]}'),
    ("PUT", "/passages", b'{"passages": [{"id": "a", "text": "a", "metadata": {"b": []}}]}'),
    ("POST", "/passages/delete", b'{"ids": []}'),
    ("DELETE", "/passages", b""),
    ("GET", "/nothing", b""),
]


@dataclass(frozen=True)
class Texts:
    """Texts and their vectors, encoded by the service's encoder outside the service."""

    queries: Sequence[str]
    query_vectors: np.ndarray
    passages: Sequence[str]
    passage_vectors: np.ndarray


class Load:
    """Clients, and the outcome of their requests.

    Attributes:
      milliseconds: latencies of answers with status 200, per kind of request.
      statuses: number of answers per status, per kind of request; status 0 means no answer.
      writing: number of writes in progress.
      stopping: the server is being killed, so a missing answer is no fault.
    """

    def __init__(self, port: int, truth: Truth, texts: Texts, seed: int):
        self.milliseconds: defaultdict[str, list[float]] = defaultdict(list)
        self.statuses: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.writing = 0
        self.stopping = False
        self._port, self._truth, self._texts = port, truth, texts
        self._rng = np.random.default_rng(seed)
        self._open = asyncio.Event()
        self._busy = 0
        self._versions = itertools.count(1)
        ids = sorted(truth.current)
        self._ids = [[*ids[n::WRITERS], *(f"new-{n}-{i}" for i in range(_IDS))] for n in range(WRITERS)]

    def clients(self, searchers: int) -> list[Awaitable[None]]:
        """Return all clients; they run until they are cancelled."""
        kinds: list[tuple[Callable[..., Awaitable[None]], float]] = [
            *[(self._search, 0.02)] * searchers,
            *[(self._search_several, 0.3)] * 2,
            (self._embed, 0.3),
            (self._ask_badly, 0.3),
        ]
        writers = [self._client(self._write, 0.5, ids) for ids in self._ids]
        return [*(self._client(kind, pause) for kind, pause in kinds), *writers]

    def go_on(self) -> None:
        self._open.set()

    async def quiet(self) -> None:
        """Start no more requests and return when none is in progress."""
        self._open.clear()
        while self._busy:
            await asyncio.sleep(0.01)

    async def seed_group(self) -> None:
        """Put one passage of every group and language, so that the index knows all filters."""
        client = Client(self._port)
        count = max(GROUPS, len(LANGUAGES))
        passages = [self._passage(f"seed-{n}", n, n % len(LANGUAGES), n % GROUPS) for n in range(count)]
        await self._put(client, passages, list(range(count)))
        client.close()

    async def dump(self) -> tuple[Any, np.ndarray]:
        """Return the whole content of the index as hits of a query, and the query's vector."""
        client = Client(self._port)
        number = int(self._rng.integers(len(self._texts.queries)))
        content = {"query": self._texts.queries[number], "k": len(self._truth) + 500}
        status, answer = await client.ask_json("POST", "/search", content)
        client.close()
        if status != 200:
            raise RuntimeError(f"the index cannot be read: {status} {answer}")
        return answer["hits"], self._texts.query_vectors[number]

    async def _client(self, act: Callable[..., Awaitable[None]], pause: float, *arguments: Any) -> None:
        client = Client(self._port)
        while True:
            await asyncio.sleep(self._rng.exponential(pause))
            await self._open.wait()
            self._busy += 1
            try:
                await act(client, *arguments)
            finally:
                self._busy -= 1

    async def _asked(self, client: Client, what: str, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Send a request; return the status and content of the answer, or 0 and None without an answer."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE):
                status, answer = await client.ask(request(method, path, body))
        except OSError as error:
            client.close()
            self.statuses[what][0] += 1
            if not self.stopping and body is not _HUGE:  # the server may cut off the huge request
                self._truth.complain(f"{what}: {error}, and the server was not being killed")
            return 0, None
        self.statuses[what][status] += 1
        if status == 200:
            self.milliseconds[what].append(1e3 * (time.perf_counter() - began))
        elif what != "bad requests" and status != 503:
            self._truth.complain(f"{what}: {status} {answer[:500]!r}")
        return status, json.loads(answer)

    async def _search(self, client: Client) -> None:
        await self._find(client, "search", int(self._rng.integers(len(self._texts.queries))))

    async def _search_several(self, client: Client) -> None:
        chosen = self._rng.choice(len(self._texts.queries), int(self._rng.integers(2, 9)), replace=False).tolist()
        await self._find(client, "search of several", *chosen)

    async def _find(self, client: Client, what: str, *numbers: int) -> None:
        wanted: dict[str, Any] = {"k": int(self._rng.choice([1, 3, 10, 50]))}
        dice = self._rng.random()
        if dice < 0.2:
            wanted["languages"] = self._rng.choice(LANGUAGES, 2, replace=False).tolist()
        elif dice < 0.4:
            wanted["where"] = {"group": int(self._rng.integers(GROUPS))}
        elif dice < 0.5:
            wanted["per_language"] = 2
        texts = [self._texts.queries[number] for number in numbers]
        content = wanted | ({"query": texts[0]} if what == "search" else {"queries": texts})
        sent = time.monotonic()
        status, answer = await self._asked(client, what, "POST", "/search", json.dumps(content).encode())
        if status == 200:
            received = time.monotonic()
            for number, one in zip(numbers, [answer] if what == "search" else answer["answers"], strict=True):
                asked = Asked(self._texts.query_vectors[number], sent=sent, received=received, **wanted)
                self._truth.check(asked, one["hits"])

    async def _embed(self, client: Client) -> None:
        number, encoding = int(self._rng.integers(len(self._texts.passages))), self._rng.choice(["float", "base64"])
        content = {"input": self._texts.passages[number], "encoding_format": encoding, "input_type": "passage"}
        status, answer = await self._asked(client, "embed", "POST", "/v1/embeddings", json.dumps(content).encode())
        if status == 200:
            given = answer["data"][0]["embedding"]
            vector = np.frombuffer(base64.b64decode(given), "<f4") if encoding == "base64" else np.asarray(given)
            if not np.abs(vector - self._texts.passage_vectors[number]).max() <= TOLERANCE:
                self._truth.complain(f"{content} has another embedding than it should have")

    async def _ask_badly(self, client: Client) -> None:
        method, path, body = BAD[self._rng.integers(len(BAD))]
        status, answer = await self._asked(client, "bad requests", method, path, body)
        if status and not 400 <= status < 500 and status != 503:
            self._truth.complain(f"{method} {path} {body[:80]!r}: {status} {answer}")

    async def _write(self, client: Client, ids: Sequence[str]) -> None:
        free = sorted(set(ids) - self._truth.uncertain)
        chosen = self._rng.choice(free, int(self._rng.integers(1, 6)), replace=False).tolist()
        if self._rng.random() < 0.6:
            texts = self._rng.integers(len(self._texts.passages), size=len(chosen)).tolist()
            kinds = self._rng.integers((len(LANGUAGES), GROUPS), size=(len(chosen), 2)).tolist()
            passages = [self._passage(id, text, *kind) for id, text, kind in zip(chosen, texts, kinds, strict=True)]
            await self._put(client, passages, texts)
        else:
            write = self._truth.delete(chosen, time.monotonic())
            body = json.dumps({"ids": chosen}).encode()
            answer = await self._written(client, write, "delete", "POST", "/passages/delete", body)
            if answer is not None and answer["deleted"] != len(write.removed):
                self._truth.complain(f"{answer} deleted, expected {write.removed}")

    async def _put(self, client: Client, passages: Sequence[dict[str, Any]], texts: Sequence[int]) -> None:
        write = self._truth.upsert(passages, self._texts.passage_vectors[texts], time.monotonic())
        body = json.dumps({"passages": passages}).encode()
        await self._written(client, write, "put", "PUT", "/passages", body)

    async def _written(self, client: Client, write: Any, what: str, method: str, path: str, body: bytes) -> Any:
        self.writing += 1
        status, answer = await self._asked(client, what, method, path, body)
        self.writing -= 1
        if status == 200:
            self._truth.accepted(write, time.monotonic())
        elif status:
            self._truth.refused(write)
        else:
            self._truth.unanswered(write)
        return answer if status == 200 else None

    def _passage(self, id: str, text: int, language: int, group: int) -> dict[str, Any]:
        metadata = {"version": next(self._versions), "group": group}
        passage = {"id": id, "text": self._texts.passages[text], "title": "", "language": LANGUAGES[language]}
        return passage | {"metadata": metadata}
