"""Micro-batches: texts of concurrent requests come in, each request's own embeddings or answers go out.

Everything here happens in the event loop, except the two things that take time, each in one thread of its own:
encoding, which owns the device, and searching. So the loop is never blocked and nothing needs a lock.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from jaxretr.index.types import Answer, SearchOptions
from jaxretr.serve.errors import ServiceError, index_error
from jaxretr.serve.metrics import Metrics
from jaxretr.serve.options import ServiceOptions

Kind = Literal["query", "passage"]
"""Which prefix a text gets; the two never share a batch."""

PATIENCE = 4
"""Batches of queries that may go before one of passages that waits."""
_SEARCHES = 2  # batches being searched or waiting for it before no more queries are encoded


@dataclass(eq=False, slots=True)
class _Job:
    """Texts that stay together; with `options` they are queries to search with."""

    texts: Sequence[str]
    options: Sequence[SearchOptions] | None
    result: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Collects what concurrent requests want encoded, and searched, and gives each back its own.

    While the device is busy, requests wait; when it is free, those that wait go together. It is not left idle for
    others to come, with one exception: clients that were just answered often ask again at once, so for `max_wait_ms`
    after a batch it waits until as many requests are there as were before. Passages go when no query waits, or when
    they have let `PATIENCE` batches of queries go first. A request that is cancelled leaves the queue.

    At most `max_queue` texts of each kind wait. All texts of a request count from the moment it is accepted, although
    only those of its next batch are in the queue.

    Args:
      encode: embeds texts of one kind; only ever called from one thread.
      search: answers queries, each with its options; only ever called from one other thread.
    """

    def __init__(
        self,
        encode: Callable[[Kind, Sequence[str]], Float32[np.ndarray, "texts dim"]],
        search: Callable[[Float32[np.ndarray, "queries dim"], Sequence[SearchOptions]], Sequence[Answer]],
        options: ServiceOptions,
        metrics: Metrics,
    ):
        self._encode = encode
        self._search = search
        self._options = options
        self._metrics = metrics
        self._limits: dict[Kind, int] = {"query": options.max_batch, "passage": options.max_passage_batch}
        self._queues: dict[Kind, deque[_Job]] = {"query": deque(), "passage": deque()}
        self._device = ThreadPoolExecutor(1, "encode")
        self._searcher = ThreadPoolExecutor(1, "search")
        self._later: dict[Kind, int] = {"query": 0, "passage": 0}  # accepted texts that are not in the queue yet
        self._closed = False
        self._running: set[asyncio.Task[None]] = set()
        self._busy = False
        self._searching = 0
        self._passed_over = 0  # batches of queries since passages wait
        self._expected = 1  # requests there were when the device became free
        self._free_since = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._seconds_per_text = 0.1

    async def embed(self, kind: Kind, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """Embeddings in the order of the texts.

        Raises:
          ServiceError: 503 when too many texts wait already.
        """
        return np.concatenate(await self._in_batches(kind, texts, None))

    async def search(self, queries: Sequence[str], options: SearchOptions) -> list[Answer]:
        """The answer to each query.

        Raises:
          ServiceError: 503 when too many texts wait already, others as `index_error` says.
        """
        return [answer for part in await self._in_batches("query", queries, options) for answer in part]

    async def on_device(self, function: Callable[[], Any]) -> Any:
        """Calls a function in the thread that encodes."""
        return await asyncio.get_running_loop().run_in_executor(self._device, function)

    async def close(self) -> None:
        """Waits for the batches that are being encoded or searched; answers 503 to all others, now and later."""
        self._closed = True
        for queue in self._queues.values():
            _fail(queue, _closing())
            queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        try:
            while self._running:
                await asyncio.wait(set(self._running))
        finally:
            self._device.shutdown()
            self._searcher.shutdown()

    async def _in_batches(self, kind: Kind, texts: Sequence[str], options: SearchOptions | None) -> list[Any]:
        """The results of a request, one batch at a time, so that a long request leaves room for short ones."""
        self._admit(kind, len(texts))
        results, size, later = [], self._limits[kind], len(texts)
        self._later[kind] += later
        try:
            for at in range(0, len(texts), size):
                part = texts[at : at + size]
                later -= len(part)
                self._later[kind] -= len(part)
                results.append(await self._wait(kind, part, None if options is None else [options] * len(part)))
        finally:
            self._later[kind] -= later
            self._metrics.queued(kind, self._waiting(kind))
        return results

    def _admit(self, kind: Kind, texts: int) -> None:
        if self._closed:
            raise _closing()
        waiting = self._waiting(kind)
        if texts > self._options.max_queue:
            raise ServiceError(422, f"{texts} texts; expected at most {self._options.max_queue}, as many as may wait")
        if waiting + texts > self._options.max_queue:
            seconds = min(60, max(1, math.ceil(waiting * self._seconds_per_text)))
            raise ServiceError(
                503,
                f"{waiting} texts wait already, of {self._options.max_queue} that may; try again in {seconds} s",
                retry_after=seconds,
            )

    def _waiting(self, kind: Kind) -> int:
        """Texts that are accepted and not being encoded yet."""
        return self._later[kind] + self._queued(kind)

    def _queued(self, kind: Kind) -> int:
        return sum(len(job.texts) for job in self._queues[kind])

    async def _wait(self, kind: Kind, texts: Sequence[str], options: Sequence[SearchOptions] | None) -> Any:
        if self._closed:
            raise _closing()
        job = _Job(texts, options)
        queue = self._queues[kind]
        queue.append(job)
        self._metrics.queued(kind, self._waiting(kind))
        self._start()
        try:
            return await job.result
        finally:
            if job in queue:  # cancelled
                queue.remove(job)

    def _start(self) -> None:
        """Starts a batch if the device is free, something waits and nothing more is to be waited for."""
        kind = self._next_kind()
        if self._busy or kind is None:
            return
        patience = self._free_since + self._options.max_wait_ms / 1000 - time.monotonic()
        queue = self._queues[kind]
        full = self._queued(kind) >= self._limits[kind] or sum(map(len, self._queues.values())) >= self._expected
        if patience > 0 and not full and self._options.micro_batching:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(patience, self._waited)
            return
        jobs = [queue.popleft()]
        texts = len(jobs[0].texts)
        while self._options.micro_batching and queue and texts + len(queue[0].texts) <= self._limits[kind]:
            jobs.append(queue.popleft())
            texts += len(jobs[-1].texts)
        self._metrics.queued(kind, self._waiting(kind))
        self._passed_over = self._passed_over + 1 if kind == "query" and self._queues["passage"] else 0
        self._busy = True
        task = asyncio.get_running_loop().create_task(self._run(kind, jobs))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _waited(self) -> None:
        self._timer = None
        self._start()

    def _next_kind(self) -> Kind | None:
        queries = bool(self._queues["query"]) and self._searching < _SEARCHES
        if self._queues["passage"] and (not queries or self._passed_over >= PATIENCE):
            return "passage"
        return "query" if queries else None

    async def _run(self, kind: Kind, jobs: Sequence[_Job]) -> None:
        loop = asyncio.get_running_loop()
        texts = [text for job in jobs for text in job.texts]
        started = time.perf_counter()
        try:
            vectors = await loop.run_in_executor(self._device, self._encode, kind, texts)
        except Exception as error:
            _fail(jobs, error)
            return
        finally:
            seconds = time.perf_counter() - started
            self._metrics.encoded(kind, len(texts), seconds)
            self._seconds_per_text += 0.2 * (seconds / len(texts) - self._seconds_per_text)
            self._busy = False
            self._expected = len(jobs) + sum(map(len, self._queues.values()))
            self._free_since = time.monotonic()
            self._start()
        searches = []
        for job, part in zip(jobs, np.split(vectors, np.cumsum([len(job.texts) for job in jobs])[:-1]), strict=True):
            if job.options is not None and not job.result.done():
                searches.append((job, part))
            elif not job.result.done():
                job.result.set_result(part)
        if searches:
            await self._run_search(searches)

    async def _run_search(self, searches: Sequence[tuple[_Job, np.ndarray]]) -> None:
        jobs = [job for job, _ in searches]
        started = time.perf_counter()
        self._searching += 1
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._searcher, self._search_together, searches)
        except Exception as error:
            _fail(jobs, error)
            return
        finally:
            self._metrics.searched(time.perf_counter() - started)
            self._searching -= 1
            self._start()
        for job, answers in zip(jobs, found, strict=True):
            if isinstance(answers, ServiceError):
                _fail([job], answers)
            elif not job.result.done():
                job.result.set_result(answers)

    def _search_together(self, searches: Sequence[tuple[_Job, np.ndarray]]) -> list[list[Answer] | ServiceError]:
        """The answers to each job, or its error. A request that the index refuses does not fail the others."""
        options = [one for job, _ in searches for one in job.options or ()]
        try:
            answers = list(self._search(np.concatenate([vectors for _, vectors in searches]), options))
        except ValueError as error:
            if len(searches) == 1:
                return [index_error(error, writing=False)]
            return [self._search_together([one])[0] for one in searches]
        except Exception as error:
            return [index_error(error, writing=False)] * len(searches)
        ends = np.cumsum([len(vectors) for _, vectors in searches])
        return [answers[end - len(vectors) : end] for end, (_, vectors) in zip(ends, searches, strict=True)]


def _closing() -> ServiceError:
    return ServiceError(503, "the service is shutting down", retry_after=5)


def _fail(jobs: Iterable[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.result.done():
            job.result.set_exception(error)
