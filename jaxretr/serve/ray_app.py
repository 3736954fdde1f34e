"""The service on Ray Serve: build an application from directories of index shards.

    serve run jaxretr.serve.ray_app:build index=/data/shard-0,/data/shard-1

Each shard is a deployment with one replica, which opens its directory; Ray restarts a shard that dies. The ingress
holds the encoder and serves `create_app` over all shards. docs/scaling.md describes what to expect. No other file
imports Ray.
"""

import asyncio
import dataclasses
import functools
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI
from jaxtyping import Float32, Float64
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from ray import serve
from ray.exceptions import RayTaskError

from jaxretr.index.encoder import load_encoder
from jaxretr.index.index import Index
from jaxretr.index.rerank import load_reranker
from jaxretr.index.shards import ShardedIndex
from jaxretr.index.types import Answer, IndexedPassage, LexicalQuery, Quarantined, SearchOptions, TermStatistics
from jaxretr.serve.app import create_app
from jaxretr.serve.auth import LOOPBACK
from jaxretr.serve.options import RERANKER_MAX_LENGTH, ServiceOptions, name_of_model
from jaxretr.serve.server import read_api_key
from jaxretr.tracking import say

_SEARCHES = 4  # concurrent searches per shard
_STARTING = 600.0  # seconds that the ingress waits for a shard to start
_PROBE = 0.25  # seconds between attempts to reach a lost shard
_COMMAS = BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given)


class RayOptions(BaseModel):
    """Options of `build`: `name=value` after `serve run`, or `args` in a configuration file.

    Attributes:
      index: directories of all shards, as paths on the shards' machines; separated by commas on a command line.
      model: current location of the model (default: its location when the index was built).
      reranker: directory or hub name of a cross-encoder, which the ingress loads; it adds /rerank and /v1/rerank.
      reranker_max_length: maximum number of tokens of a query and a passage together, or fewer if the reranker supports
        fewer.
      writable: whether clients may put and delete passages.
      api_key_file: file with the key that clients must send (default: JAXRETR_API_KEY in the ingress's environment).
      insecure: whether to answer requests without a key that are addressed to names other than the loopback names.
      allowed_hosts: names in the Host header besides the loopback names; separated by commas on a command line, like
        `forwarded_allow_ips` and `cors_origins`.
      forwarded_allow_ips, cors_origins: see `ServiceOptions`. The root path is that of the application in Ray Serve.
      log_queries: whether the access log includes the texts of queries.
      shard_timeout: seconds that a shard has for a search; after that, the answer is returned without this shard.
      shard_write_timeout: seconds that a shard has for a write.
      limits: numeric settings of `ServiceOptions`, by name.
    """

    model_config = ConfigDict(extra="forbid")

    index: Annotated[list[Path], _COMMAS] = Field(min_length=1)
    model: str | None = None
    reranker: str | None = None
    reranker_max_length: int = RERANKER_MAX_LENGTH
    writable: bool = False
    api_key_file: Path | None = None
    insecure: bool = False
    allowed_hosts: Annotated[tuple[str, ...], _COMMAS] = ()
    forwarded_allow_ips: Annotated[tuple[str, ...], _COMMAS] = ()
    cors_origins: Annotated[tuple[str, ...], _COMMAS] = ()
    log_queries: bool = False
    shard_timeout: float = Field(5.0, gt=0)
    shard_write_timeout: float = Field(30.0, gt=0)
    limits: dict[str, int | float] = {}

    def service(self, model: str) -> ServiceOptions:
        """Return the options of the service.

        Args:
          model: path of the model that the index names.

        Raises:
          ValueError: a limit is unknown or out of range.
        """
        known = [field.name for field in dataclasses.fields(ServiceOptions) if field.type in (int, float)]
        if unknown := sorted(set(self.limits) - set(known)):
            raise ValueError(f"unknown limit {', '.join(unknown)}; expected one of {', '.join(known)}")
        key = read_api_key(self.api_key_file)
        open_to_all = (key is not None or self.insecure) and not self.allowed_hosts
        return ServiceOptions(
            model=name_of_model(self.model or model),
            reranker=name_of_model(self.reranker or "reranker"),
            writable=self.writable,
            api_key=key,
            allowed_hosts=() if open_to_all else (*LOOPBACK, *self.allowed_hosts),
            forwarded_allow_ips=self.forwarded_allow_ips,
            cors_origins=self.cors_origins,
            log_queries=self.log_queries,
            **self.limits,  # type: ignore[arg-type]  # `ServiceOptions` checks the values
        )


def build(args: RayOptions) -> serve.Application:
    """Return the application: an ingress and its shards."""
    args.service("any model")  # raises ValueError before any deployment starts
    shards = [
        serve.deployment(
            IndexShard,
            name=f"shard-{place}",
            max_ongoing_requests=100,
            ray_actor_options={"num_cpus": 0.5},
            health_check_period_s=1,
            health_check_timeout_s=10,
            graceful_shutdown_timeout_s=5,  # for a hanging shard; all writes that it has confirmed are on disk
        ).bind(directory, args.writable)
        for place, directory in enumerate(args.index)
    ]

    # Ray calls this function in the process of the ingress.
    def app() -> FastAPI:
        with ThreadPoolExecutor(1) as thread:  # Ray requires that results are awaited outside the event loop
            return thread.submit(_app, args).result()

    class Search:
        """The ingress. Its arguments only make the shards part of the application."""

        def __init__(self, *shards: Any):
            pass

        def check_health(self) -> None:
            if failure := self.app.state.service.failure:  # type: ignore[attr-defined]
                raise RuntimeError(failure)

    ingress = serve.deployment(
        serve.ingress(app)(Search),
        name="search",
        max_ongoing_requests=1_000,  # high, since the app itself limits its requests
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=60,
    )
    return ingress.bind(*shards)


class IndexShard:
    """One shard in a separate process.

    Args:
      directory: directory of the shard's index.
      writable: whether the index may be updated.
    """

    def __init__(self, directory: Path, writable: bool):
        self._index = Index.open(directory, writable=writable)
        self._searching = ThreadPoolExecutor(_SEARCHES, "search")
        self._writing = ThreadPoolExecutor(1, "write")  # one thread, so that writes run in the order of arrival
        self._state = uuid.uuid4().hex  # changes after each update

    async def search(
        self,
        queries: np.ndarray,
        options: Sequence[SearchOptions],
        language_means: Mapping[str, np.ndarray] | None,
        statistics: Sequence[TermStatistics] | None,
    ) -> list[Answer]:
        """Return the answers of `Index.search_shard`."""
        return await self._run(self._searching, self._index.search_shard, queries, options, language_means, statistics)

    async def term_statistics(self, queries: Sequence[LexicalQuery]) -> list[TermStatistics]:
        """Call `Index.term_statistics`."""
        return await self._run(self._searching, self._index.term_statistics, queries)

    async def write(self, method: str, arguments: Sequence[Any], until: float) -> Any:
        """Call `Index.upsert`, `Index.delete` or `Index.release`.

        Args:
          method: name of the method.
          arguments: arguments of the method.
          until: deadline in seconds since the epoch. After it, the caller has given up and may have written something
            else.

        Raises:
          TimeoutError: the call came after the deadline.
        """

        def write() -> Any:
            if time.time() > until:
                raise TimeoutError("the write arrived after its deadline")
            try:
                return getattr(self._index, method)(*arguments)
            finally:
                self._state = uuid.uuid4().hex

        return await self._run(self._writing, write)

    async def quarantine(self, limit: int, after: str) -> list[Quarantined]:
        """Call `Index.quarantine`."""
        return await asyncio.to_thread(self._index.quarantine, limit, after)

    async def compact(self) -> None:
        """Call `Index.compact`."""
        await asyncio.to_thread(self._index.compact)
        self._state = uuid.uuid4().hex

    async def about(self, known: str | None) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
        """Return the id of the current state, `Index.describe` and `Index.language_sums`; None if the id is `known`."""

        def about() -> tuple[str, dict[str, Any], dict[str, Any]] | None:
            state = self._state
            return None if state == known else (state, self._index.describe(), self._index.language_sums)

        return await asyncio.to_thread(about)

    async def check_health(self) -> None:
        """Raise an exception if the index cannot be read."""
        await asyncio.to_thread(self._index.describe)

    async def _run(self, executor: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


class RemoteShard:
    """A `Shard` in another process, called through its Ray handle.

    A shard that does not answer in time counts as lost. Calls to a lost shard fail at once. A thread probes the shard
    and marks it as available when it answers again.

    Args:
      handle: handle of the shard's deployment.
      timeout: seconds for reads.
      write_timeout: seconds for writes.
    """

    def __init__(self, handle: Any, timeout: float, write_timeout: float):
        self._handle, self._timeout, self._write_timeout = handle, timeout, write_timeout
        self._lost: str | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._about = self._handle.about.remote(None).result(timeout_s=_STARTING)

    def search_shard(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        options: Sequence[SearchOptions],
        language_means: Mapping[str, Float32[np.ndarray, " dim"]] | None = None,
        statistics: Sequence[TermStatistics] | None = None,
    ) -> list[Answer]:
        return self._ask(self._handle.search, queries, options, language_means, statistics, timeout=self._timeout)

    def term_statistics(self, queries: Sequence[LexicalQuery]) -> list[TermStatistics]:
        return self._ask(self._handle.term_statistics, queries, timeout=self._timeout)

    def upsert(self, passages: Sequence[IndexedPassage], vectors: Float32[np.ndarray, "passages dim"]) -> list[str]:
        return self._write("upsert", passages, vectors)

    def delete(self, ids: Sequence[str]) -> int:
        return self._write("delete", ids)

    def quarantine(self, limit: int, after: str = "") -> list[Quarantined]:
        return self._ask(self._handle.quarantine, limit, after, timeout=self._timeout)

    def release(self, ids: Sequence[str]) -> int:
        return self._write("release", ids)

    def compact(self) -> None:
        self._ask(self._handle.compact, timeout=None)

    def describe(self) -> dict[str, Any]:
        return self._now()[1]

    @property
    def language_sums(self) -> dict[str, tuple[Float64[np.ndarray, " dim"], int]]:
        return self._now()[2]

    def close(self) -> None:
        self._closed.set()

    def _now(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        known = self._about
        changed = self._ask(self._handle.about, known[0], timeout=self._timeout)
        if changed is not None:
            self._about = known = changed
        return known

    def _write(self, method: str, *arguments: Any) -> Any:
        until = time.time() + self._write_timeout
        return self._ask(self._handle.write, method, arguments, until, timeout=self._write_timeout)

    def _ask(self, method: Any, *arguments: Any, timeout: float | None) -> Any:
        if self._lost is not None:
            raise ConnectionError(f"the shard is still lost: {self._lost}")
        response = None
        try:
            response = method.remote(*arguments)
            return response.result(timeout_s=timeout)
        except RayTaskError as error:  # the shard is alive and answers with an error
            raise error.cause from None
        except Exception as error:
            if response is not None:
                response.cancel()
            late = isinstance(error, TimeoutError)
            why = f"no answer within {timeout:g} s" if late else repr(error).partition("\n")[0][:200]
            self._lose(why)
            raise ConnectionError(why) from error

    def _lose(self, why: str) -> None:
        with self._lock:
            if self._lost is None:
                self._lost = why
                say(f"{self._handle.deployment_name} is lost: {why}")
                threading.Thread(target=self._probe, name="probe", daemon=True).start()

    def _probe(self) -> None:
        while not self._closed.wait(_PROBE):
            response = None
            try:
                response = self._handle.about.remote(None)
                self._about = response.result(timeout_s=self._timeout)
            except Exception:  # the shard is still lost, whatever the error
                if response is not None:
                    response.cancel()
            else:
                self._lost = None
                say(f"{self._handle.deployment_name} answers again")
                return


def _app(args: RayOptions) -> FastAPI:
    """Return the app that the ingress serves; called in the process of the ingress."""
    application = serve.get_replica_context().app_name
    handles = [serve.get_deployment_handle(f"shard-{place}", application) for place in range(len(args.index))]
    connect = functools.partial(RemoteShard, timeout=args.shard_timeout, write_timeout=args.shard_write_timeout)
    index = ShardedIndex([connect(handle) for handle in handles])
    about = index.describe()
    reranker = load_reranker(args.reranker, about, args.reranker_max_length) if args.reranker else None
    return create_app(index, load_encoder(about, args.model), args.service(about["model"]), reranker=reranker)
