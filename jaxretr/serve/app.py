"""The service over HTTP: build an ASGI application from an index, an encoder and options."""

import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import jaxretr
from jaxretr.index.types import Searchable
from jaxretr.model.cross_encoder import CrossEncoder
from jaxretr.model.encode import Encoder
from jaxretr.serve import metrics, responses
from jaxretr.serve.access_log import AccessLog, log, to_stderr
from jaxretr.serve.auth import PUBLIC_PATHS, Gate
from jaxretr.serve.body_limit import BoundedBody
from jaxretr.serve.errors import ServiceError, error_response, validation_error
from jaxretr.serve.faults import Faults, report
from jaxretr.serve.options import ServiceOptions
from jaxretr.serve.page import page
from jaxretr.serve.requests import (
    DeleteRequest,
    EmbeddingsRequest,
    PutRequest,
    ReleaseRequest,
    SearchRequest,
    requests,
)
from jaxretr.serve.requests import (
    Request as Body,
)
from jaxretr.serve.rerank_requests import RerankDocuments, RerankTexts, rerank_requests
from jaxretr.serve.reranking import NO_RERANKER
from jaxretr.serve.responses import JSONResponse
from jaxretr.serve.root_path import RootPath, route_path
from jaxretr.serve.service import Service

_PAGE = 100  # default number of quarantined passages in a response
_RERANK_PATHS = ("/v1/rerank", "/v2/rerank")  # of Jina and Cohere 1, and of Cohere 2
_BODY_ERRORS = (400, 408, 413, 415, 422, 500, 503)  # error statuses of every endpoint that takes a body
_READ_ONLY = "passages cannot be changed: the service was started without --writable"
_ENCODING_ERRORS = (*_BODY_ERRORS, 504)  # error statuses of every endpoint that encodes texts


def create_app(
    index: Searchable,
    encoder: Encoder,
    options: ServiceOptions,
    *,
    reranker: CrossEncoder | None = None,
    write_log: Callable[[str], object] = to_stderr,
) -> FastAPI:
    """Return the service as an ASGI app; docs/serving.md and the app's /openapi.json describe the API.

    Args:
      index: the index to search; the app never closes it.
      encoder: the encoder of the index's passages.
      options: permissions and limits.
      reranker: scores passages together with the query; None for a service that cannot rerank.
      write_log: receives the lines of the access log.

    Returns:
      The app; its `state.service` is the `Service`. The app becomes ready some time after it starts.
    """
    service = Service(index, encoder, options, reranker)
    models = requests(options, encoder.dim)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="jaxretr",
        version=jaxretr.__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's documentation pages load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    html = page()

    def route(
        method: str,
        path: str,
        response_model: Any,
        error_statuses: tuple[int, ...] = (),
        media_type: str | None = None,
        status: int = 200,
    ) -> Any:
        """Return a decorator that registers an endpoint, and documents its errors and whether it needs the key."""
        needs_key = options.api_key is not None and path not in PUBLIC_PATHS
        documented: dict[int | str, dict[str, Any]] = {
            status: {"model": responses.Error, "description": HTTPStatus(status).phrase}
            for status in (*error_statuses, *((400,) if options.allowed_hosts else ()), *((401,) if needs_key else ()))
        }
        if media_type is not None:
            documented[200] = {"content": {media_type: {"schema": {"type": "string"}}}}
        documented_route = app.api_route(
            path,
            methods=[method],
            response_model=response_model,
            status_code=status,
            responses=documented,
            response_class=JSONResponse if media_type is None else Response,
            openapi_extra={"security": [{"key": []}]} if needs_key else None,
        )

        def register(endpoint: Callable[..., Any]) -> Callable[..., Any]:
            documented_route(endpoint)
            if method == "GET":  # the server omits the body of a response to HEAD
                app.add_api_route(path, endpoint, methods=["HEAD"], response_model=None, include_in_schema=False)
            return endpoint

        return register

    @route("POST", "/search", responses.SearchAnswer | responses.SearchAnswers, _ENCODING_ERRORS)
    @_with_body(models.search)
    async def search(request: Request, body: SearchRequest) -> Response:
        """Return the passages that answer a query, or each of several queries, best first."""
        log(request.scope, k=body.k, texts=len(body.texts))
        if options.log_queries:
            log(request.scope, queries=body.texts)
        return JSONResponse(await service.search(body))

    @route("POST", "/v1/embeddings", responses.Embeddings, (*_ENCODING_ERRORS, 404))
    @_with_body(models.embeddings)
    async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
        """Return embeddings of texts in the format of OpenAI's API."""
        log(request.scope, texts=len(body.input))
        if options.log_queries:
            log(request.scope, queries=body.input)
        return JSONResponse(await service.embed(body))

    @route("GET", "/v1/models", responses.Models)
    async def list_models() -> Response:
        """List the encoder, and the reranker if there is one, in the format of OpenAI's API."""
        return JSONResponse(service.models())

    @route("GET", "/v1/models/{id:path}", responses.Model, (404, 422))
    async def get_model(id: str) -> Response:
        """Describe the model of this name in the format of OpenAI's API."""
        return JSONResponse(service.model(id))

    if reranker is not None:
        rerank_models = rerank_requests(options)

        @route("POST", "/rerank", list[responses.Rank], _ENCODING_ERRORS)
        @_with_body(rerank_models.texts)
        async def rerank_texts(request: Request, body: RerankTexts) -> Response:
            """Score texts for a query, best first, in the format of text-embeddings-inference."""
            log(request.scope, texts=len(body.texts))
            if options.log_queries:
                log(request.scope, queries=[body.query])
            return JSONResponse(await service.rerank_texts(body))

        async def rerank_documents(request: Request, body: RerankDocuments) -> Response:
            """Score documents for a query, best first, in the format of Cohere and Jina."""
            log(request.scope, texts=len(body.documents))
            if options.log_queries:
                log(request.scope, queries=[body.query])
            return JSONResponse(await service.rerank_documents(body))

        for path in _RERANK_PATHS:
            route("POST", path, responses.RerankResults, (*_ENCODING_ERRORS, 404))(
                _with_body(rerank_models.documents)(rerank_documents)
            )

    if options.writable:

        @route("PUT", "/passages", responses.Upserted, (*_ENCODING_ERRORS, 507))
        @_with_body(models.put)
        async def put_passages(request: Request, body: PutRequest) -> Response:
            """Add passages, or replace passages with the same ids: all or none. The response comes when they are on
            disk."""
            log(request.scope, texts=len(body.passages))
            return JSONResponse(await service.upsert(body))

        @route("POST", "/passages/delete", responses.Deleted, (*_BODY_ERRORS, 507))
        @_with_body(models.delete)
        async def delete_passages(request: Request, body: DeleteRequest) -> Response:
            """Delete passages by id. The response comes when the deletion is on disk."""
            log(request.scope, texts=len(body.ids))
            return JSONResponse(await service.delete(body))

        @route("POST", "/passages/compact", responses.Compaction, (409,), status=202)
        async def compact_index() -> Response:
            """Start to rebuild the index from its passages, so that new passages are searched like all others."""
            return JSONResponse(service.compact(), 202)

        @route("POST", "/quarantine/release", responses.Released, (*_BODY_ERRORS, 507))
        @_with_body(models.release)
        async def release_passages(request: Request, body: ReleaseRequest) -> Response:
            """Serve quarantined passages until their text changes. The response comes when the release is on disk."""
            log(request.scope, texts=len(body.ids))
            return JSONResponse(await service.release(body))

    default_page = min(_PAGE, options.max_texts)

    @route("GET", "/quarantine", responses.Quarantine, (422, 500, 503))
    def list_quarantine(
        limit: Annotated[int, Query(ge=1, le=options.max_texts)] = default_page,
        after: Annotated[str, Query(max_length=512)] = "",
    ) -> Response:
        """List the passages that the gate of the index holds back, in order of id.

        `after` is an id: the page begins with the first id above it.
        """
        return JSONResponse(service.quarantine(limit, after))

    @route("GET", "/info", responses.Info)
    def info() -> Response:
        """Describe the served index and model, and the limits on requests."""
        return JSONResponse(service.info())

    @route("GET", "/healthz", responses.Status)
    async def healthz() -> Response:
        """Answer 200 while the process runs."""
        return JSONResponse({"status": "alive"})

    @route("GET", "/readyz", responses.Status, (503,))
    async def readyz() -> Response:
        """Answer 200 when the service is warm; 503 before that and during a shutdown."""
        if service.unready:
            raise ServiceError(503, service.unready, retry_after=5)
        return JSONResponse({"status": "ready"})

    @route("GET", "/metrics", None, media_type="text/plain")
    def prometheus() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @route("GET", "/", None, media_type="text/html")
    async def search_page() -> Response:
        """Return the search page."""
        return html

    routes = [route for route in app.routes if isinstance(route, Route)]
    _check_root_path(options.root_path, routes)
    # The middleware that is added last sees a request first.
    app.add_middleware(BoundedBody, options=options)
    app.add_middleware(Gate, options=options)
    app.add_middleware(Faults)
    if options.cors_origins:  # outside the gate, because browsers send preflight requests without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT"),
            allow_headers=("*",),
            expose_headers=("Retry-After", "X-Request-ID"),
        )
    proxies = options.forwarded_allow_ips
    app.add_middleware(AccessLog, metrics=service.metrics, routes=routes, write=write_log, clients=bool(proxies))
    if proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(proxies))
    if options.root_path:
        app.add_middleware(RootPath, root_path=options.root_path)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    absent = {} if options.writable else dict.fromkeys(("/passages", "/quarantine/"), _READ_ONLY)
    absent |= {} if reranker is not None else dict.fromkeys(("/rerank", *_RERANK_PATHS), NO_RERANKER)
    app.add_exception_handler(HTTPException, functools.partial(_http_error, absent))
    if options.api_key is not None:
        _describe_key(app)
    return app


def _with_body(model: type[Body]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that sets the type of an endpoint's parameter `body`.

    Args:
      model: pydantic model of the body, with the limits of this service.
    """

    def annotate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        endpoint.__annotations__["body"] = model
        return endpoint

    return annotate


def _describe_key(app: FastAPI) -> None:
    describe = app.openapi

    def described() -> dict[str, Any]:
        description = describe()
        description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return description

    app.openapi = described  # type: ignore[method-assign]


def _check_root_path(root_path: str, routes: Sequence[Route]) -> None:
    for route in routes:
        if root_path and f"{route.path}/".startswith(f"{root_path}/"):
            raise ValueError(
                f"root_path is {root_path}, but the service has the endpoint {route.path}, so their paths would be "
                "ambiguous; choose another root path"
            )


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.fault is None:
        return error.response()
    where_to_look = report(request.scope, error.fault)
    return error_response(error.status, f"{error.message}; {where_to_look}", param=error.param, headers=error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return validation_error(error.errors()).response()


async def _http_error(absent: Mapping[str, str], request: Request, error: Exception) -> Response:
    """Return an error response; `absent` has the reasons why endpoints are absent, by the beginnings of their paths."""
    assert isinstance(error, HTTPException)
    path = route_path(request.scope)
    if error.status_code == 404 and (reason := next((absent[one] for one in absent if path.startswith(one)), None)):
        return error_response(404, reason)
    root = request.scope.get("root_path")
    if error.status_code == 404 and root and request.scope["path"] == root and request.method in ("GET", "HEAD"):
        return RedirectResponse(f"{root}/")  # to the search page, whose links are relative
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    messages = {
        400: "the body cannot be parsed as JSON: it is nested too deeply, or a number has thousands of digits",
        404: f"there is no endpoint {request.url.path[:80]}; /openapi.json lists all endpoints",
        405: f"{request.url.path[:80]} does not allow {request.method[:20]}; expected {headers.get('Allow', '')}",
    }
    return error_response(error.status_code, messages.get(error.status_code, error.detail), headers=headers)
