"""Micro-batches, without HTTP. Nothing here depends on time: a test says when the encoder finishes a batch."""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from jaxretr.index.types import Answer, Hit, IndexedPassage, SearchOptions
from jaxretr.serve.batching import MAX_QUERY_BATCHES_AHEAD, Batcher, Kind
from jaxretr.serve.errors import ServiceError
from jaxretr.serve.metrics import Metrics
from jaxretr.serve.options import ServiceOptions
from tests.serve.fakes import damaged


class Recorded:
    """A batcher whose encoder turns a text into its number, and whose index finds a passage with that number.

    Args:
      held: whether the encoder finishes a batch only after a call of `finish`.
    """

    def __init__(self, *, held: bool = False, **options: Any):
        self.encoded: list[tuple[Kind, list[str]]] = []
        self.searched: list[int] = []
        self.trouble: dict[int, Exception] = {}
        self._finish = threading.Semaphore(0) if held else None
        self._begun = asyncio.Semaphore(0)
        settings = {"max_batch": 4, "max_passage_batch": 2, "max_queue": 300, **options}
        self.metrics = Metrics(lambda: 0)
        self.batcher = Batcher(self.encode, self.search, ServiceOptions(**settings), self.metrics)

    def encode(self, kind: Kind, texts: Sequence[str]) -> np.ndarray:
        self.encoded.append((kind, list(texts)))
        self._loop.call_soon_threadsafe(self._begun.release)
        if self._finish is not None:
            assert self._finish.acquire(timeout=30)
        if "bad" in texts:
            raise RuntimeError("the device is on fire")
        return np.array([[float(text), 1.0] for text in texts], np.float32)

    async def begun(self) -> None:
        """Returns when the encoder has begun one more batch, and all tasks that are ready have run."""
        await self._begun.acquire()
        await all_tasks_run()

    def finish(self, batches: int = 1000) -> None:
        assert self._finish is not None
        self._finish.release(batches)

    def search(self, queries: np.ndarray, options: Sequence[SearchOptions]) -> list[Answer]:
        self.searched.append(len(queries))
        for query in queries:
            if error := self.trouble.get(int(query[0])):
                raise error
        if any(one.languages for one in options):
            raise ValueError("no such language")
        return [
            Answer(tuple(Hit(IndexedPassage(f"{query[0]:.0f}", ""), 1.0) for _ in range(one.k)))
            for query, one in zip(queries, options, strict=True)
        ]

    @property
    def waiting(self) -> float:
        """Queries that wait, as the metrics tell."""
        lines = self.metrics.text().decode().splitlines()
        return float(next(line for line in lines if line.startswith('jaxretr_queue_texts{kind="query"}')).split()[1])

    def run(self, main: Callable[[Batcher], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            self._loop = asyncio.get_running_loop()
            try:
                return await asyncio.wait_for(main(self.batcher), 30)
            finally:
                if self._finish is not None:
                    self.finish()
                await self.batcher.close()

        before = set(threading.enumerate())
        try:
            return asyncio.run(whole())
        finally:
            assert set(threading.enumerate()) <= before


async def all_tasks_run() -> None:
    """Lets every task that is ready run until it waits."""
    for _ in range(3):
        await asyncio.sleep(0)


def texts(count: int) -> list[str]:
    return [str(n) for n in range(count)]


def test_requests_that_come_together_are_encoded_together_and_get_their_own() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> Any:
        return await asyncio.gather(*[batcher.search([str(n)], [SearchOptions(k=1 + n % 3)]) for n in range(9)])

    found = recorded.run(main)
    for n, [answer] in enumerate(found):
        assert [hit.passage.id for hit in answer.hits] == [str(n)] * (1 + n % 3)
    assert [len(texts) for _, texts in recorded.encoded] == [1, 4, 4]  # the first found the device free
    assert recorded.searched == [1, 4, 4]


def test_without_micro_batching_every_request_goes_alone() -> None:
    recorded = Recorded(micro_batching=False)
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
    recorded = Recorded(held=True)
    finished = []

    async def embed(batcher: Batcher, name: str, texts: list[str]) -> np.ndarray:
        vectors = await batcher.embed("query", texts)
        finished.append(name)
        return vectors

    async def main(batcher: Batcher) -> Any:
        long = asyncio.create_task(embed(batcher, "long", texts(40)))
        await recorded.begun()
        short = asyncio.create_task(embed(batcher, "short", ["7"]))
        await all_tasks_run()
        recorded.finish()
        await short
        return await long

    vectors = recorded.run(main)
    assert vectors[:, 0].tolist() == list(range(40))
    assert finished == ["short", "long"]


def test_passages_wait_for_queries_but_not_for_ever() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> None:
        queries = [batcher.embed("query", ["1"]) for _ in range(100)]
        await asyncio.gather(*queries, batcher.embed("passage", ["2"] * 6))

    recorded.run(main)
    kinds = [kind for kind, _ in recorded.encoded]
    places = [at for at, kind in enumerate(kinds) if kind == "passage"]
    waits = [later - earlier - 1 for earlier, later in itertools.pairwise([0, *places])]
    # A long request asks for its next batch while the one after its last is already begun.
    assert len(places) == 3 and all(MAX_QUERY_BATCHES_AHEAD <= wait <= MAX_QUERY_BATCHES_AHEAD + 1 for wait in waits)


def test_pairs_and_passages_take_turns_and_neither_waits_for_ever() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> list[np.ndarray]:
        queries = [batcher.embed("query", ["1"]) for _ in range(100)]
        others = [batcher.score(["3"] * 6), batcher.embed("passage", ["2"] * 6)]  # type: ignore[list-item]
        return (await asyncio.gather(*others, *queries))[:2]

    scores, vectors = recorded.run(main)
    np.testing.assert_array_equal(scores[:, 0], [3.0] * 6)
    np.testing.assert_array_equal(vectors[:, 0], [2.0] * 6)
    kinds = [kind for kind, _ in recorded.encoded]
    assert [kind for kind in kinds if kind != "query"] == ["pair", "passage"] * 3
    places = [at for at, kind in enumerate(kinds) if kind != "query"]
    waits = [later - earlier - 1 for earlier, later in itertools.pairwise([0, *places])]
    assert all(wait <= MAX_QUERY_BATCHES_AHEAD + 1 for wait in waits)


def test_a_lone_client_never_waits() -> None:
    recorded = Recorded(max_wait_ms=1000.0)

    async def main(batcher: Batcher) -> float:
        started = time.monotonic()
        for _ in range(20):
            await batcher.embed("query", ["1"])
        return time.monotonic() - started

    assert recorded.run(main) < 1


def test_the_device_waits_for_clients_that_were_just_answered() -> None:
    """Of four clients that ask again at once, all are together from the second batch on."""
    recorded = Recorded(max_wait_ms=20_000.0)

    async def main(batcher: Batcher) -> None:
        async def client(number: int) -> None:
            for _ in range(5):
                await batcher.embed("query", ["1"])
                for _ in range(number):  # one client after the other, not all in one turn of the loop
                    await asyncio.sleep(0)

        clients = [asyncio.create_task(client(number)) for number in range(4)]
        while len(recorded.encoded) < 5:  # after that, a client that has finished would be waited for
            await recorded.begun()
        for one in clients:
            one.cancel()

    recorded.run(main)
    sizes = [len(texts) for _, texts in recorded.encoded]
    assert sizes == [1, 4, 4, 4, 4]


def test_a_request_that_is_cancelled_is_not_encoded() -> None:
    recorded = Recorded(held=True)

    async def main(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.embed("query", ["1"]))
        await recorded.begun()
        late = [asyncio.create_task(batcher.embed("query", [str(n)])) for n in (2, 3)]
        await all_tasks_run()
        late[0].cancel()
        recorded.finish()
        await asyncio.gather(first, late[1])
        with pytest.raises(asyncio.CancelledError):
            await late[0]

    recorded.run(main)
    assert recorded.encoded == [("query", ["1"]), ("query", ["3"])]


def test_an_exception_fails_its_batch_alone() -> None:
    recorded = Recorded(held=True)

    async def main(batcher: Batcher) -> Any:
        first = asyncio.create_task(batcher.embed("query", ["0"]))
        await recorded.begun()
        late = [asyncio.create_task(batcher.embed("query", [text])) for text in ("1", "bad")]
        await all_tasks_run()
        recorded.finish()
        together = asyncio.gather(*late, return_exceptions=True)
        return await first, await together, await batcher.embed("query", ["4"])

    first, together, last = recorded.run(main)
    assert first[0, 0] == 0 and last[0, 0] == 4
    assert [str(error) for error in together] == ["the device is on fire"] * 2


# ---- What the index raises ----


def test_what_the_index_refuses_of_one_request_the_others_do_not_suffer_for() -> None:
    recorded = Recorded()

    async def main(batcher: Batcher) -> Any:
        calls = [batcher.search([str(n)], [SearchOptions(k=1, languages=("xx",) * (n == 2))]) for n in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True)

    found = recorded.run(main)
    assert isinstance(found[2], ServiceError) and found[2].status == 422 and "no such language" in found[2].message
    assert [answers[0].hits[0].passage.id for n, answers in enumerate(found) if n != 2] == ["0", "1", "3", "4"]


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        (damaged(), 500),
        (OSError(5, "Input/output error", "/srv/index/vectors.npy"), 503),
        (ConnectionError("none of the 2 shards answers; see their logs"), 503),
        (MemoryError("/srv/index"), 500),
    ],
)
def test_a_fault_of_the_index_is_not_the_clients(trouble: Exception, status: int) -> None:
    recorded = Recorded()
    recorded.trouble[2] = trouble

    async def main(batcher: Batcher) -> Any:
        calls = [batcher.search([str(n)], [SearchOptions(k=1)]) for n in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True), await batcher.search(["7"], [SearchOptions(k=1)])

    found, after = recorded.run(main)
    assert isinstance(found[2], ServiceError) and found[2].status == status
    assert "/srv" not in found[2].message and "sqlite" not in found[2].message
    assert found[2].fault is (None if isinstance(trouble, ConnectionError) else trouble)
    assert found[0][0].hits[0].passage.id == "0" and after[0].hits[0].passage.id == "7"
    if isinstance(trouble, ValueError):  # a passage that cannot be read is missed by those only who find it
        assert [answers[0].hits[0].passage.id for n, answers in enumerate(found) if n != 2] == ["0", "1", "3", "4"]


# ---- The queue ----


def test_a_full_queue_refuses_and_recovers() -> None:
    recorded = Recorded(held=True, max_queue=6, max_texts=6)

    async def main(batcher: Batcher) -> Any:
        calls = [asyncio.create_task(batcher.embed("query", ["1"])) for _ in range(10)]
        await recorded.begun()
        with pytest.raises(ServiceError, match="the queue holds 6 texts of at most 6") as refused:
            await batcher.embed("query", ["2"])
        assert refused.value.status == 503 and int(refused.value.headers["Retry-After"]) >= 1
        # Passages have a queue of their own.
        recorded.finish()
        passages = await batcher.embed("passage", ["5"])
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert passages[0, 0] == 5 and (await batcher.embed("query", ["3"]))[0, 0] == 3
        return found

    found = recorded.run(main)
    assert sum(isinstance(one, ServiceError) for one in found) == 3  # one was encoded at once, six waited


@pytest.mark.parametrize("searching", [False, True])
def test_all_texts_of_a_request_count_from_the_start(searching: bool) -> None:
    """Not only those of the batch that is in the queue."""
    recorded = Recorded(held=True, max_queue=20, max_texts=20)

    def ask(batcher: Batcher, count: int) -> asyncio.Task[Any]:
        call = (
            batcher.search(texts(count), [SearchOptions(k=1)] * count)
            if searching
            else batcher.embed("query", texts(count))
        )
        return asyncio.create_task(call)  # type: ignore[arg-type]

    async def main(batcher: Batcher) -> None:
        first = ask(batcher, 20)
        await recorded.begun()
        assert recorded.waiting == 16  # a batch of four is being encoded
        second = ask(batcher, 4)
        await all_tasks_run()
        assert recorded.waiting == 20
        with pytest.raises(ServiceError, match="the queue holds 20 texts of at most 20"):
            await ask(batcher, 1)
        # A request that is given up makes room for another one, by all its texts.
        first.cancel()
        await all_tasks_run()
        assert recorded.waiting == 4
        third = ask(batcher, 16)
        await all_tasks_run()
        recorded.finish()
        assert [len(await second), len(await third)] == [4, 16]
        assert recorded.waiting == 0

    recorded.run(main)


def test_a_request_that_fails_makes_room() -> None:
    recorded = Recorded(max_queue=20, max_texts=20)

    async def main(batcher: Batcher) -> Any:
        with pytest.raises(RuntimeError, match="on fire"):
            await batcher.embed("query", ["bad", *texts(19)])
        assert recorded.waiting == 0
        return await batcher.embed("query", texts(20))

    assert len(recorded.run(main)) == 20


def test_a_request_larger_than_the_queue_is_told_so() -> None:
    """Trying again would not help, so this is no 503."""
    recorded = Recorded(max_queue=300)

    async def main(batcher: Batcher) -> None:
        with pytest.raises(ServiceError, match="301 texts; expected at most 300") as refused:
            await batcher.embed("query", texts(301))
        assert refused.value.status == 422

    recorded.run(main)


# ---- The end ----


def test_closing_answers_what_runs_and_refuses_what_waits() -> None:
    recorded = Recorded(held=True)

    async def main(batcher: Batcher) -> Any:
        running = asyncio.create_task(batcher.embed("query", ["1"]))
        await recorded.begun()
        waiting = asyncio.create_task(batcher.embed("query", ["2"]))
        await all_tasks_run()
        recorded.finish()
        await batcher.close()
        return await asyncio.gather(running, waiting, return_exceptions=True)

    running, waiting = recorded.run(main)
    assert running[0, 0] == 1
    assert isinstance(waiting, ServiceError) and waiting.status == 503


def test_closing_in_the_tick_in_which_a_request_is_cancelled() -> None:
    recorded = Recorded(held=True)

    async def main(batcher: Batcher) -> Any:
        running = asyncio.create_task(batcher.embed("query", ["1"]))
        await recorded.begun()
        waiting = [asyncio.create_task(batcher.embed("query", [str(n)])) for n in (2, 3)]
        await all_tasks_run()
        recorded.finish()
        waiting[0].cancel()
        await batcher.close()
        return await asyncio.gather(running, *waiting, return_exceptions=True)

    running, cancelled, waiting = recorded.run(main)  # which also sees that no thread is left
    assert running[0, 0] == 1
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(waiting, ServiceError) and waiting.status == 503


@pytest.mark.parametrize("searching", [False, True])
def test_closing_refuses_the_rest_of_a_long_request_and_later_ones(searching: bool) -> None:
    recorded = Recorded(held=True)

    async def main(batcher: Batcher) -> Any:
        call = batcher.search(texts(12), [SearchOptions()] * 12) if searching else batcher.embed("query", texts(12))
        long = asyncio.create_task(call)  # type: ignore[arg-type]
        await recorded.begun()
        recorded.finish()
        await batcher.close()
        late = batcher.embed("passage", ["1"])
        return await asyncio.gather(long, late, return_exceptions=True)

    for refused in recorded.run(main):
        assert isinstance(refused, ServiceError) and refused.status == 503 and "shutting down" in refused.message
    assert len(recorded.encoded) == 1 and recorded.waiting == 0


def test_closing_that_is_itself_cancelled_leaves_no_thread() -> None:
    recorded = Recorded(held=True)

    async def main(batcher: Batcher) -> None:
        running = asyncio.create_task(batcher.embed("query", ["1"]))
        await recorded.begun()
        closing = asyncio.create_task(batcher.close())
        await all_tasks_run()
        closing.cancel()
        recorded.finish()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await running

    recorded.run(main)
