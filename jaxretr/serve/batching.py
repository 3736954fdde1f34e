"""Micro-batches: encode and search the texts of concurrent requests together.

Input: texts of concurrent requests. Output: embeddings or answers for each request.

All code here runs in the event loop, except for the two slow operations, each in its own thread: encoding, which owns
the device, and searching. So the loop is never blocked, and no locks are needed.
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

Kind = Literal["query", "passage", "pair"]
"""Kind of a text: a query, a passage, or a pair of query and document for the reranker. Kinds never share a batch."""

MAX_QUERY_BATCHES_AHEAD = 4
"""Maximum number of query batches that overtake a waiting batch of passages or pairs."""
_SEARCHES = 2  # running and waiting searches; at this number, the encoding of queries pauses


@dataclass(eq=False, slots=True)
class _Job:
    """Texts that stay together in a batch. With `options`, the texts are queries to search for."""

    texts: Sequence[Any]
    options: Sequence[SearchOptions] | None
    arrival: float = field(default_factory=time.monotonic)
    result: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Encode and search the texts of concurrent requests in shared batches; return each request its own results.

    While the device is busy, requests wait; when it becomes free, the waiting requests form the next batch. The device
    does not wait for more requests, with one exception. Clients often send their next request right after a
    response. So after a batch, the device waits at most `max_wait_ms` for these requests. The wait ends early if the
    next batch is full. It also ends if enough requests are queued: the number in the last batch plus the number that
    were queued when this batch ended. Passages and pairs run if no query is queued, if two searches run or wait, or
    after `MAX_QUERY_BATCHES_AHEAD` query batches have overtaken them. Among passages and pairs, the job that waits for
    longest comes first. A canceled request leaves the queue.

    At most `max_queue` texts of each kind wait. A request is queued one batch at a time, but all its texts count from
    the start.

    Args:
      encode: embeds texts of one kind, or scores pairs; always called from one thread.
      search: answers queries, each with its options; always called from one other thread.
      options: limits and waiting times.
      metrics: receives the queue lengths and the times of batches.
    """

    def __init__(
        self,
        encode: Callable[[Kind, Sequence[Any]], Float32[np.ndarray, "texts ..."]],
        search: Callable[[Float32[np.ndarray, "queries dim"], Sequence[SearchOptions]], Sequence[Answer]],
        options: ServiceOptions,
        metrics: Metrics,
    ):
        self._encode = encode
        self._search = search
        self._options = options
        self._metrics = metrics
        self._limits: dict[Kind, int] = {
            "query": options.max_batch,
            "passage": options.max_passage_batch,
            "pair": options.max_passage_batch,
        }
        self._queues: dict[Kind, deque[_Job]] = {kind: deque() for kind in self._limits}
        self._device = ThreadPoolExecutor(1, "encode")
        self._searcher = ThreadPoolExecutor(1, "search")
        self._unqueued: dict[Kind, int] = dict.fromkeys(self._limits, 0)  # accepted texts not yet in the queue
        self._closed = False
        self._running: set[asyncio.Task[None]] = set()
        self._busy = False
        self._searching = 0
        self._passed_over = 0  # query batches that started while passages or pairs waited
        self._expected = 1  # requests of the last batch plus waiting requests when the device became free
        self._free_since = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._seconds_per_text = 0.1

    async def embed(self, kind: Kind, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """Return embeddings in the order of the texts.

        Raises:
          ServiceError: 503 if too many texts are waiting, 422 if the request has more than `max_queue` texts.
        """
        return np.concatenate(await self._in_batches(kind, texts, None))

    async def score(self, pairs: Sequence[tuple[str, str]]) -> Float32[np.ndarray, " pairs"]:
        """Return the reranker's logits in the order of the pairs.

        Raises:
          ServiceError: as `embed`.
        """
        return np.concatenate(await self._in_batches("pair", pairs, None))

    async def search(self, queries: Sequence[str], options: Sequence[SearchOptions]) -> list[Answer]:
        """Return the answer to each query; `options[i]` belongs to `queries[i]`.

        Raises:
          ServiceError: 503 if too many texts are waiting, 422 if the request has more than `max_queue` texts; others as
            described in `index_error`.
        """
        return [answer for part in await self._in_batches("query", queries, options) for answer in part]

    async def on_device(self, function: Callable[[], Any]) -> Any:
        """Call a function in the thread that encodes and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._device, function)

    async def close(self) -> None:
        """Wait for the batches that are being encoded or searched; answer 503 to all other requests, now and later."""
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

    async def _in_batches(self, kind: Kind, texts: Sequence[Any], options: Sequence[SearchOptions] | None) -> list[Any]:
        """Return the results of a request, computed batch by batch, so that short requests run in between."""
        self._admit(kind, len(texts))
        results, size, unqueued = [], self._limits[kind], len(texts)
        self._unqueued[kind] += unqueued
        try:
            for at in range(0, len(texts), size):
                part = texts[at : at + size]
                unqueued -= len(part)
                self._unqueued[kind] -= len(part)
                results.append(await self._enqueue(kind, part, None if options is None else options[at : at + size]))
        finally:
            self._unqueued[kind] -= unqueued
            self._metrics.queued(kind, self._waiting(kind))
        return results

    def _admit(self, kind: Kind, texts: int) -> None:
        if self._closed:
            raise _closing()
        waiting = self._waiting(kind)
        if texts > self._options.max_queue:
            raise ServiceError(
                422, f"the request has {texts} texts; expected at most {self._options.max_queue}, the size of the queue"
            )
        if waiting + texts > self._options.max_queue:
            seconds = min(60, max(1, math.ceil(waiting * self._seconds_per_text)))
            raise ServiceError(
                503,
                f"the queue holds {waiting} texts of at most {self._options.max_queue}; try again in {seconds} s",
                retry_after=seconds,
            )

    def _waiting(self, kind: Kind) -> int:
        """Return the number of accepted texts that are not being encoded yet."""
        return self._unqueued[kind] + self._queued(kind)

    def _queued(self, kind: Kind) -> int:
        return sum(len(job.texts) for job in self._queues[kind])

    async def _enqueue(self, kind: Kind, texts: Sequence[Any], options: Sequence[SearchOptions] | None) -> Any:
        if self._closed:
            raise _closing()
        job = _Job(texts, options)
        queue = self._queues[kind]
        queue.append(job)
        self._metrics.queued(kind, self._waiting(kind))
        self._maybe_start()
        try:
            return await job.result
        finally:
            if job in queue:  # the request was canceled
                queue.remove(job)

    def _maybe_start(self) -> None:
        """Start a batch if the device is free, a job is waiting and there is no reason to wait for more jobs."""
        kind = self._next_kind()
        if self._busy or kind is None:
            return
        remaining_wait = self._free_since + self._options.max_wait_ms / 1000 - time.monotonic()
        queue = self._queues[kind]
        full = self._queued(kind) >= self._limits[kind] or sum(map(len, self._queues.values())) >= self._expected
        if remaining_wait > 0 and not full and self._options.micro_batching:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(remaining_wait, self._on_timer)
            return
        jobs = [queue.popleft()]
        texts = len(jobs[0].texts)
        while self._options.micro_batching and queue and texts + len(queue[0].texts) <= self._limits[kind]:
            jobs.append(queue.popleft())
            texts += len(jobs[-1].texts)
        self._metrics.queued(kind, self._waiting(kind))
        self._passed_over = self._passed_over + 1 if kind == "query" and self._waiting_longest() else 0
        self._busy = True
        task = asyncio.get_running_loop().create_task(self._run(kind, jobs))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _on_timer(self) -> None:
        self._timer = None
        self._maybe_start()

    def _next_kind(self) -> Kind | None:
        queries = bool(self._queues["query"]) and self._searching < _SEARCHES
        other = self._waiting_longest()
        if other and (not queries or self._passed_over >= MAX_QUERY_BATCHES_AHEAD):
            return other
        return "query" if queries else None

    def _waiting_longest(self) -> Kind | None:
        """Return the kind, passages or pairs, whose first job waits for longest; None if neither waits."""
        waiting = [kind for kind in self._queues if kind != "query" and self._queues[kind]]
        return min(waiting, key=lambda kind: self._queues[kind][0].arrival, default=None)

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
            self._maybe_start()
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
            answers_of_jobs = await loop.run_in_executor(self._searcher, self._search_together, searches)
        except Exception as error:
            _fail(jobs, error)
            return
        finally:
            self._metrics.searched(time.perf_counter() - started)
            self._searching -= 1
            self._maybe_start()
        for job, answers in zip(jobs, answers_of_jobs, strict=True):
            if isinstance(answers, ServiceError):
                _fail([job], answers)
            elif not job.result.done():
                job.result.set_result(answers)

    def _search_together(self, searches: Sequence[tuple[_Job, np.ndarray]]) -> list[list[Answer] | ServiceError]:
        """Return the answers to each job, or its error. If the index refuses one request, the others get answers."""
        options = [query_options for job, _ in searches for query_options in job.options or ()]
        try:
            answers = list(self._search(np.concatenate([vectors for _, vectors in searches]), options))
        except ValueError as error:
            if len(searches) == 1:
                return [index_error(error, writing=False)]
            return [self._search_together([search])[0] for search in searches]
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
