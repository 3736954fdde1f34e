"""The service without HTTP: methods that take checked requests and return JSON values."""

import asyncio
import dataclasses
import functools
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import jax
import numpy as np

from jaxretr.index.types import Answer, Searchable, SearchOptions
from jaxretr.model.cross_encoder import CrossEncoder
from jaxretr.model.encode import Encoder
from jaxretr.serve import responses
from jaxretr.serve.batching import Batcher, Kind
from jaxretr.serve.errors import ServiceError, index_error, shown
from jaxretr.serve.metrics import Metrics
from jaxretr.serve.options import ServiceOptions
from jaxretr.serve.requests import DeleteRequest, EmbeddingsRequest, PutRequest, ReleaseRequest, SearchRequest
from jaxretr.serve.rerank_requests import RerankDocuments, RerankTexts
from jaxretr.serve.reranking import NO_RERANKER, Reranking
from jaxretr.serve.warm_up import encoder_batch_size, pair_shapes, shapes
from jaxretr.tracking import progress_bar, say


class Service:
    """An index, its encoder and perhaps a reranker, behind micro-batches and one writer thread.

    Attributes:
      metrics: metrics of this service.
      reranking: answers requests to rerank; None without a reranker.
      failure: the reason why the service can never become ready, or None. Clients do not see it, since it may name
        paths.
      stopping: whether the service is shutting down; set by the code that runs it.
    """

    def __init__(
        self, index: Searchable, encoder: Encoder, options: ServiceOptions, reranker: CrossEncoder | None = None
    ):
        self.index = index
        self.encoder = encoder
        self.options = options
        self.metrics = Metrics(lambda: len(index))
        self.failure: str | None = None
        self.stopping = False
        self._batch_size = encoder_batch_size(options)
        self._batcher = Batcher(self._encode, index.search, options, self.metrics)
        self.reranking = None if reranker is None else Reranking(reranker, options, self._batcher.score)
        self._writer = ThreadPoolExecutor(1, "write")  # one thread, so that writes run in the order of arrival
        self._compaction: asyncio.Future[None] | None = None
        self._created = int(time.time())
        self._not_ready = "starting"  # why requests cannot be answered yet; empty after the warm-up

    @property
    def unready(self) -> str | None:
        """The reason why clients should send no requests now, or None.

        During a shutdown, requests that are already accepted are still answered.
        """
        return "the service is shutting down" if self.stopping else self._not_ready or None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Warm up in the background; at the end, wait for running work."""
        warming = asyncio.create_task(self._warm_up())
        try:
            yield
        finally:
            self.stopping = True
            self.metrics.ready.set(0)
            warming.cancel()
            try:
                await asyncio.wait([warming])
            finally:
                try:
                    await self._batcher.close()
                finally:
                    self._writer.shutdown()
            if self._compaction is not None:
                await asyncio.wait([self._compaction])

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """Return a `SearchAnswer`, or `SearchAnswers` for several queries."""
        started = time.perf_counter()
        texts = request.texts
        if len(texts) * request.k > self.options.max_hits:
            raise ServiceError(
                422,
                f"{len(texts)} queries with k = {request.k} give {len(texts) * request.k} passages; expected at most "
                f"{self.options.max_hits} passages per response",
                param="k",
            )
        options = request.options()
        reranking = self._needed_reranking(422) if request.rerank else None
        if reranking is not None:
            candidates = reranking.candidates(request)
            options = [dataclasses.replace(one, k=candidates) for one in options]
        self._check_ready()
        async with self._deadline():
            answers = await self._search(request, options)
            if reranking is not None:
                answers = await reranking.answers(request.texts, answers, request.k)
        shown = [responses.hits(answer) for answer in answers]
        body: dict[str, Any] = {"answers": shown} if request.queries else shown[0]
        return {**body, "took_ms": round(1000 * (time.perf_counter() - started), 3)}

    async def _search(self, request: SearchRequest, options: list[SearchOptions]) -> list[Answer]:
        try:
            return await self._batcher.search(request.texts, options)
        except ServiceError as error:
            if error.status == 422 and request.lexical is not None and not self.index.has_lexical:
                error.param = "lexical"
            raise

    async def rerank_texts(self, request: RerankTexts) -> list[dict[str, Any]]:
        """Return a `Rank` per text, best first."""
        reranking = self._needed_reranking(404)
        self._check_ready()
        async with self._deadline():
            return await reranking.texts(request)

    async def rerank_documents(self, request: RerankDocuments) -> dict[str, Any]:
        """Return `RerankResults`."""
        reranking = self._needed_reranking(404)
        if request.model is not None and request.model != self.options.reranker:
            raise _no_model(request.model, self.options.reranker)
        self._check_ready()
        async with self._deadline():
            return await reranking.documents(request)

    async def embed(self, request: EmbeddingsRequest) -> dict[str, Any]:
        """Return `Embeddings`."""
        if request.model is not None and request.model != self.options.model:
            raise _no_model(request.model, self.options.model)
        self._check_ready()
        async with self._deadline():
            vectors = await self._batcher.embed(request.kind, request.input)
            tokens = await asyncio.to_thread(self._count_tokens, request.kind, request.input)
        return responses.embeddings(
            vectors, encoding_format=request.encoding_format, model=self.options.model, tokens=tokens
        )

    async def upsert(self, request: PutRequest) -> dict[str, Any]:
        """Return `Upserted` after the passages are on disk."""
        self._check_ready()
        passages = [passage.passage() for passage in request.passages]
        async with self._deadline():
            vectors = await self._batcher.embed("passage", [passage.full_text for passage in passages])
        quarantined = await self._write(lambda: self.index.upsert(passages, vectors))
        self.metrics.changed("upserted", len(passages))
        self.metrics.changed("quarantined", len(quarantined))
        return {"upserted": len(passages)} | ({"quarantined": quarantined} if quarantined else {})

    async def delete(self, request: DeleteRequest) -> dict[str, Any]:
        """Return `Deleted` after the change is on disk."""
        deleted = await self._write(lambda: self.index.delete(request.ids))
        self.metrics.changed("deleted", deleted)
        return {"deleted": deleted}

    def quarantine(self, limit: int, after: str) -> dict[str, Any]:
        """Return a `Quarantine`."""
        try:
            page = self.index.quarantine(limit + 1, after)
        except Exception as error:
            raise index_error(error, writing=False) from error
        return responses.quarantine(page, limit)

    async def release(self, request: ReleaseRequest) -> dict[str, Any]:
        """Return `Released` after the change is on disk."""
        released = await self._write(lambda: self.index.release(request.ids))
        self.metrics.changed("released", released)
        return {"released": released}

    def compact(self) -> dict[str, Any]:
        """Start a compaction in the background and return a `Compaction`."""
        if self._compaction is not None and not self._compaction.done():
            raise ServiceError(409, "a compaction is already running; try again when it is done")
        self._compaction = asyncio.get_running_loop().run_in_executor(None, self._compact)
        return {"compaction": "begun"}

    def _compact(self) -> None:
        started = time.monotonic()
        try:
            self.index.compact()
        except Exception as error:  # no request waits for the compaction; the index is unchanged
            traceback.print_exception(error)
        else:
            say(f"Compacted {len(self.index):,} passages in {time.monotonic() - started:.0f} s")

    def info(self) -> dict[str, Any]:
        """Return an `Info`."""
        return {
            "model": self.options.model,
            "reranker": None if self.reranking is None else self.options.reranker,
            "dim": self.encoder.dim,
            "passages": len(self.index),
            "languages": dict(self.index.languages),
            "lexical": self.index.has_lexical,
            "since_built": self.index.describe()["since_built"],
            "writable": self.options.writable,
            "limits": self.options.limits,
        }

    def models(self) -> dict[str, Any]:
        """Return `Models`."""
        return {"object": "list", "data": [self.model(name) for name in self._names()]}

    def model(self, id: str) -> dict[str, Any]:
        """Return a `Model`."""
        if id not in (names := self._names()):
            raise _no_model(id, *names)
        return {"id": id, "object": "model", "created": self._created, "owned_by": "jaxretr"}

    def _names(self) -> list[str]:
        """Return the names of the encoder and the reranker, which may be equal."""
        reranker = [] if self.reranking is None else [self.options.reranker]
        return list(dict.fromkeys([self.options.model, *reranker]))

    def _needed_reranking(self, status: int) -> Reranking:
        if self.reranking is None:
            raise ServiceError(status, NO_RERANKER, param="rerank" if status == 422 else None)
        return self.reranking

    def _check_ready(self) -> None:
        if self._not_ready:
            raise ServiceError(503, self._not_ready, retry_after=5)

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.options.request_timeout):
                yield
        except TimeoutError as error:
            message = f"the request took more than {self.options.request_timeout:g} s and was canceled"
            raise ServiceError(504, f"{message}; nothing was changed; send fewer texts, or try again later") from error

    async def _write(self, change: Callable[[], Any]) -> Any:
        """Wait for a write without a deadline, because the client must know whether it succeeded."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, change)
        except Exception as error:
            raise index_error(error, writing=True) from error

    def _encode(self, kind: Kind, texts: Sequence[Any]) -> np.ndarray:
        if kind == "pair":
            return self._needed_reranking(404).encode(texts, self._batch_size)
        encode = self.encoder.encode_query if kind == "query" else self.encoder.encode_document
        return encode(texts, batch_size=self._batch_size, progress=False)

    def _count_tokens(self, kind: Kind, texts: Sequence[str]) -> int:
        tokenize = self.encoder.query_tokenization if kind == "query" else self.encoder.passage_tokenization
        return sum(map(len, tokenize(texts)))

    async def _warm_up(self) -> None:
        """Compile every shape of batches, one at a time, so that a shutdown waits for one compilation only."""
        started = time.monotonic()
        # By default, JAX caches only programs that took at least a second to compile. Most shapes compile faster, and
        # the next start of the service should find their programs in the cache.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        try:
            warm_up_shapes = await self._batcher.on_device(self._shapes)
            with progress_bar() as bar:
                for done, (kind, texts) in enumerate(bar.track(warm_up_shapes, description="warm up")):
                    self._not_ready = f"warming up: {done} of {len(warm_up_shapes)} batch shapes are compiled"
                    await self._batcher.on_device(functools.partial(self._encode, kind, texts))
        except Exception as error:
            traceback.print_exception(error)
            models = "encoder" if self.reranking is None else "encoder or the reranker"
            self.failure = f"the {models} cannot be warmed up: {error}"
            self._not_ready = f"the {models} cannot be warmed up; see the log of the service"
            return
        self._not_ready = ""
        self.metrics.ready.set(1)
        say(f"Ready: compiled {len(warm_up_shapes)} batch shapes in {time.monotonic() - started:.0f} s")

    def _shapes(self) -> list[tuple[Kind, list[Any]]]:
        """Return the kind and the texts of every batch to compile."""
        of_encoder: list[tuple[Kind, list[Any]]] = [
            ("query", shape.texts) for shape in shapes(self.encoder, self.options)
        ]
        if self.reranking is None:
            return of_encoder
        return of_encoder + [("pair", shape.texts) for shape in pair_shapes(self.reranking.reranker, self.options)]


def _no_model(name: str, *expected: str) -> ServiceError:
    names = " or ".join(map(repr, expected))
    return ServiceError(404, f"there is no model {shown(name)}; expected {names}", param="model")
