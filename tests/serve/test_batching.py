"""Micro-batches, without HTTP."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from jaxretr.index.types import Answer, Hit, IndexedPassage, SearchOptions
from jaxretr.serve.batching import PATIENCE, Batcher, Kind
from jaxretr.serve.errors import ServiceError
from jaxretr.serve.metrics import Metrics
from jaxretr.serve.options import ServiceOptions


class Recorded:
    """A batcher whose encoder turns a text into its number, and whose index finds a passage with that number."""

    def __init__(self, *, delay: float = 0.02, **options: Any):
        self.encoded: list[tuple[Kind, list[str]]] = []
        self.searched: list[int] = []
        self.delay = delay
        settings = {"max_batch": 4, "max_passage_batch": 2, "max_queue": 300, **options}
        self.batcher = Batcher(self.encode, self.search, ServiceOptions(**settings), Metrics(lambda: 0))

    def encode(self, kind: Kind, texts: Sequence[str]) -> np.ndarray:
        self.encoded.append((kind, list(texts)))
        time.sleep(self.delay)
        if "bad" in texts:
            raise RuntimeError("the device is on fire")
        return np.array([[float(text), 1.0] for text in texts], np.float32)

    def search(self, queries: np.ndarray, options: Sequence[SearchOptions]) -> list[Answer]:
        self.searched.append(len(queries))
        if any(one.languages for one in options):
            raise ValueError("no such language")
        return [
            Answer(tuple(Hit(IndexedPassage(f"{query[0]:.0f}", ""), 1.0) for _ in range(one.k)))
            for query, one in zip(queries, options, strict=True)
        ]

    def run(self, main: Callable[[Batcher], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            try:
                return await asyncio.wait_for(main(self.batcher), 30)
            finally:
                await self.batcher.close()

        return asyncio.run(whole())


def test_requests_that_come_together_are_encoded_together_and_get_their_own() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> Any:
        return await asyncio.gather(*[batcher.search([str(n)], SearchOptions(k=1 + n % 3)) for n in range(9)])

    found = recorded.run(main)
    for n, [answer] in enumerate(found):
        assert [hit.passage.id for hit in answer.hits] == [str(n)] * (1 + n % 3)
    assert [len(texts) for _, texts in recorded.encoded] == [1, 4, 4]  # the first found the device free
    assert recorded.searched == [1, 4, 4]


def test_without_micro_batching_every_request_goes_alone() -> None:
    recorded = Recorded(micro_batching=False, delay=0)
    recorded.run(lambda batcher: asyncio.gather(*[batcher.embed("query", [str(n)]) for n in range(5)]))
    assert [len(texts) for _, texts in recorded.encoded] == [1] * 5


def test_kinds_do_not_mix() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> Any:
        kinds: list[Kind] = ["query", "passage"]
        return await asyncio.gather(*[batcher.embed(kinds[n % 2], [str(n)]) for n in range(10)])

    vectors = recorded.run(main)
    assert [vector[0, 0] for vector in vectors] == list(range(10))
    for kind, texts in recorded.encoded:
        assert {int(text) % 2 for text in texts} == {0 if kind == "query" else 1}


def test_a_long_request_keeps_its_order_and_lets_short_ones_in_between() -> None:
    recorded = Recorded()
    finished = []

    async def embed(batcher: Batcher, name: str, texts: list[str]) -> np.ndarray:
        vectors = await batcher.embed("query", texts)
        finished.append(name)
        return vectors

    async def main(batcher: Batcher) -> Any:
        long = asyncio.create_task(embed(batcher, "long", [str(n) for n in range(40)]))
        await asyncio.sleep(0.03)
        await embed(batcher, "short", ["7"])
        return await long

    vectors = recorded.run(main)
    assert vectors[:, 0].tolist() == list(range(40))
    assert finished == ["short", "long"]


def test_passages_wait_for_queries_but_not_for_ever() -> None:
    recorded = Recorded(delay=0.002)

    async def main(batcher: Batcher) -> None:
        queries = [batcher.embed("query", ["1"]) for _ in range(100)]
        await asyncio.gather(*queries, batcher.embed("passage", ["2"] * 6))

    recorded.run(main)
    kinds = [kind for kind, _ in recorded.encoded]
    places = [at for at, kind in enumerate(kinds) if kind == "passage"]
    waits = [later - earlier - 1 for earlier, later in itertools.pairwise([0, *places])]
    # A long request asks for its next batch while the one after its last is already begun.
    assert len(places) == 3 and all(PATIENCE <= wait <= PATIENCE + 1 for wait in waits)


def test_a_lone_client_never_waits() -> None:
    recorded = Recorded(delay=0, max_wait_ms=1000.0)

    async def main(batcher: Batcher) -> float:
        started = time.monotonic()
        for _ in range(20):
            await batcher.embed("query", ["1"])
        return time.monotonic() - started

    assert recorded.run(main) < 1


def test_the_device_waits_for_clients_that_were_just_answered() -> None:
    """Of four clients that ask again at once, all are together from the second batch on."""
    recorded = Recorded(max_wait_ms=500.0)

    async def main(batcher: Batcher) -> None:
        async def client() -> None:
            for _ in range(5):
                await batcher.embed("query", ["1"])
                await asyncio.sleep(0.005)

        await asyncio.gather(*[client() for _ in range(4)])

    recorded.run(main)
    sizes = [len(texts) for _, texts in recorded.encoded]
    assert sizes[:5] == [1, 4, 4, 4, 4]


def test_a_request_that_is_cancelled_is_not_encoded() -> None:
    recorded = Recorded(delay=0.1)

    async def main(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.embed("query", ["1"]))
        await asyncio.sleep(0.02)
        late = [asyncio.create_task(batcher.embed("query", [str(n)])) for n in (2, 3)]
        await asyncio.sleep(0.02)
        late[0].cancel()
        await asyncio.gather(first, late[1])
        with pytest.raises(asyncio.CancelledError):
            await late[0]

    recorded.run(main)
    assert recorded.encoded == [("query", ["1"]), ("query", ["3"])]


def test_an_exception_fails_its_batch_alone() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> Any:
        first = asyncio.create_task(batcher.embed("query", ["0"]))
        await asyncio.sleep(0.005)
        together = asyncio.gather(*[batcher.embed("query", [t]) for t in ("1", "bad")], return_exceptions=True)
        return await first, await together, await batcher.embed("query", ["4"])

    first, together, last = recorded.run(main)
    assert first[0, 0] == 0 and last[0, 0] == 4
    assert [str(error) for error in together] == ["the device is on fire"] * 2


def test_what_the_index_refuses_of_one_request_the_others_do_not_suffer_for() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> Any:
        calls = [batcher.search([str(n)], SearchOptions(k=1, languages=("xx",) * (n == 2))) for n in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True)

    found = recorded.run(main)
    assert isinstance(found[2], ServiceError) and found[2].status == 422 and "no such language" in found[2].message
    assert [answers[0].hits[0].passage.id for n, answers in enumerate(found) if n != 2] == ["0", "1", "3", "4"]


def test_a_full_queue_refuses_and_recovers() -> None:
    recorded = Recorded(max_queue=6, max_texts=6)

    async def main(batcher: Batcher) -> Any:
        calls = [asyncio.create_task(batcher.embed("query", ["1"])) for _ in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(ServiceError, match="6 texts wait already, of 6") as refused:
            await batcher.embed("query", ["2"])
        assert refused.value.status == 503 and int(refused.value.headers["Retry-After"]) >= 1
        # Passages have a queue of their own.
        passages = await batcher.embed("passage", ["5"])
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert passages[0, 0] == 5 and (await batcher.embed("query", ["3"]))[0, 0] == 3
        return found

    found = recorded.run(main)
    assert sum(isinstance(one, ServiceError) for one in found) == 3  # one was encoded at once, six waited


def test_closing_answers_what_runs_and_refuses_what_waits() -> None:
    recorded = Recorded(delay=0.1)

    async def main(batcher: Batcher) -> Any:
        running = asyncio.create_task(batcher.embed("query", ["1"]))
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(batcher.embed("query", ["2"]))
        await asyncio.sleep(0.02)
        await batcher.close()
        return await asyncio.gather(running, waiting, return_exceptions=True)

    running, waiting = recorded.run(main)
    assert running[0, 0] == 1
    assert isinstance(waiting, ServiceError) and waiting.status == 503
