"""What the service is tested with: an index in memory, an encoder without a model, a server in a thread."""

import json
import sqlite3
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from jaxretr.index.lexical import check_lexical
from jaxretr.index.types import Answer, Hit, IndexedPassage, Quarantined, SearchOptions, Verdict
from jaxretr.model.cross_encoder import CrossEncoder, activate
from jaxretr.model.encode import Encoder
from jaxretr.serve.app import create_app
from jaxretr.serve.options import ServiceOptions
from jaxretr.serve.server import Server, server_config
from jaxretr.tokenization import Tokenization
from tests import tiny

QUICK = ServiceOptions(max_batch=8, max_passage_batch=8, writable=True)
"""The fewest shapes that eight devices allow."""


class MemoryIndex:
    """Exact search. Passages with the word "hub" are quarantined.

    Attributes:
      trouble, unreadable: what the next writes, and the next reads, raise.
      calls: how many queries each search had.
      has_lexical: whether queries may have a lexical part, which changes no answer.
      asked: the options of the last search.
    """

    def __init__(self) -> None:
        self.passages: dict[str, IndexedPassage] = {}
        self.held: dict[str, IndexedPassage] = {}
        self.vectors: dict[str, np.ndarray] = {}
        self.trouble: Exception | None = None
        self.unreadable: Exception | None = None
        self.delay = 0.0
        self.calls: list[int] = []
        self.has_lexical = False
        self.asked: list[SearchOptions] = []
        self.missing_shards: tuple[int, ...] = ()

    def search(self, queries: np.ndarray, options: Sequence[SearchOptions]) -> list[Answer]:
        assert len(queries) == len(options)
        self.calls.append(len(queries))
        self.asked = list(options)
        if self.unreadable is not None:
            raise self.unreadable
        for one in options:
            if unknown := set(one.languages) - set(self.languages):
                raise ValueError(f"no passage is in {sorted(unknown)[0]!r}; expected of {sorted(self.languages)}")
        check_lexical(options, self.has_lexical)
        return [self._answer(query, one) for query, one in zip(queries, options, strict=True)]

    def _answer(self, query: np.ndarray, options: SearchOptions) -> Answer:
        found = [
            Hit(passage, float(query @ self.vectors[id]))
            for id, passage in self.passages.items()
            if not options.languages or passage.language in options.languages
            if all(
                passage.metadata.get(key) in (value if isinstance(value, tuple) else (value,))
                for key, value in options.where.items()
            )
        ]
        found.sort(key=lambda hit: -hit.score)
        return Answer(tuple(found[: options.k]), self.missing_shards)

    def upsert(self, passages: Sequence[IndexedPassage], vectors: np.ndarray) -> list[str]:
        time.sleep(self.delay)
        if self.trouble is not None:
            raise self.trouble
        for passage, vector in zip(passages, vectors, strict=True):
            is_hub = "hub" in passage.text.split()
            kept, other = (self.held, self.passages) if is_hub else (self.passages, self.held)
            kept[passage.id] = passage
            other.pop(passage.id, None)
            self.vectors[passage.id] = vector
        return [passage.id for passage in passages if passage.id in self.held]

    def delete(self, ids: Sequence[str]) -> int:
        if self.trouble is not None:
            raise self.trouble
        gone = [kept.pop(id, None) for id in ids for kept in (self.passages, self.held)]
        return sum(passage is not None for passage in gone)

    def quarantine(self, limit: int, after: str = "") -> list[Quarantined]:
        if self.unreadable is not None:
            raise self.unreadable
        ids = sorted(id for id in self.held if id > after)[:limit]
        return [Quarantined(self.held[id], Verdict(7, 7.5, 2.0, None, ("a", "b"))) for id in ids]

    def release(self, ids: Sequence[str]) -> int:
        if self.trouble is not None:
            raise self.trouble
        released = {id: self.held.pop(id) for id in {*ids} & self.held.keys()}
        self.passages |= released
        return len(released)

    @property
    def languages(self) -> dict[str, int]:
        return Counter(passage.language for passage in self.passages.values())

    def compact(self) -> None:
        time.sleep(self.delay)

    def describe(self) -> dict[str, Any]:
        if self.unreadable is not None:
            raise self.unreadable
        return {"since_built": {"upserted": 0, "deleted": 0}}

    def __len__(self) -> int:
        return len(self.passages)


class StubEncoder(Encoder):
    """Unit vectors drawn by the text; whether they are of queries or passages is not told from them.

    Attributes:
      batches: texts of each call after the warm-up, which calls with blanks and `a` alone.
      delay: seconds that a call takes.
      trouble: is raised for a text that holds the key.
    """

    dim = 16  # type: ignore[assignment]

    def __init__(self, delay: float = 0.0):
        self.max_length = 32
        self.query_tokenization = self.passage_tokenization = Tokenization(
            tiny.tokenizer().backend_tokenizer, prefix="", max_len=self.max_length, pad_id=1
        )
        self.batches: list[list[str]] = []
        self.delay = delay
        self.trouble: dict[str, Exception] = {}

    def _encode(self, texts: Any, tokenize: Any, batch_size: int, progress: bool) -> np.ndarray:
        if any(text.strip("a ") for text in texts):
            self.batches.append(list(texts))
            time.sleep(self.delay)
        for text in texts:
            for word, error in self.trouble.items():
                if word in text:
                    raise error
        return np.stack([vector(text) for text in texts])


class StubReranker(CrossEncoder):
    """Logits are the numbers of words that query and document have in common, minus 2.

    Attributes:
      batches: number of pairs of each call after the warm-up, whose queries are empty.
    """

    def __init__(self) -> None:
        self.max_length = 16
        self.activation = "sigmoid"
        self.tokenization = Tokenization(
            tiny.tokenizer().backend_tokenizer, prefix="", max_len=self.max_length, pad_id=1
        )
        self.batches: list[int] = []

    def predict(self, pairs: Any, documents: Any = None, *, activation: Any = None, **_: Any) -> np.ndarray:  # type: ignore[override]
        if any(query for query, _ in pairs):
            self.batches.append(len(pairs))
        common = [len({*query.split()} & {*document.split()}) for query, document in pairs]
        return activate(np.array(common, np.float32) - 2, activation or self.activation)


def vector(text: str) -> np.ndarray:
    """What `StubEncoder` makes of a text."""
    drawn = np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass"))).normal(size=StubEncoder.dim)  # type: ignore[arg-type]
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


@dataclass
class Running:
    """A server that runs, and its parts."""

    url: str
    index: MemoryIndex
    encoder: Encoder
    app: Any
    server: Server
    thread: threading.Thread
    log: list[str]

    def client(self, **arguments: Any) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "timeout": 30, **arguments})

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log]

    def stop(self) -> None:
        """As SIGTERM does it."""
        self.server.handle_exit(15, None)


@contextmanager
def serving(
    options: ServiceOptions = QUICK,
    *,
    encoder: Encoder | None = None,
    index: MemoryIndex | None = None,
    reranker: CrossEncoder | None = None,
    started: Callable[[Running], object] = lambda running: None,
    patience: float = 60,
) -> Iterator[Running]:
    """A uvicorn server on a free port, ready; `started` is called before that."""
    index, encoder = index or MemoryIndex(), encoder or StubEncoder()
    log: list[str] = []
    app = create_app(index, encoder, options, reranker=reranker, write_log=log.append)
    server = Server(server_config(app, options, host="127.0.0.1", port=0), app.state.service)
    thread = threading.Thread(target=server.run)
    running = Running("", index, encoder, app, server, thread, log)
    started(running)
    thread.start()
    try:
        until(lambda: server.started, patience)
        running.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        until(lambda: app.state.service.unready is None, patience)
        yield running
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 60) -> None:
    """Waits for something that another thread or process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def damaged() -> ValueError:
    """What an index raises whose file is damaged."""
    error = ValueError("/srv/index/passages.sqlite is damaged (database disk image is malformed); restore the index")
    error.__cause__ = sqlite3.DatabaseError("database disk image is malformed")
    return error
