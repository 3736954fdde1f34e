"""Log one JSON line per request and update the metrics.

`AccessLog` wraps every layer of the app that can answer, so that every response is counted and has a request id.
"""

import contextlib
import json
import re
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxretr.serve.metrics import Metrics
from jaxretr.serve.root_path import route_path

CLIENT_GONE = 499
"""Status in the log and the metrics if the client disconnects before its response, as other servers log it. It is never
sent."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class AccessLog:
    """Log and count requests; add the request id and common headers to responses.

    Handlers add fields to the line of their request with `log`.

    Args:
      app: the app that answers.
      metrics: counts the requests.
      routes: routes of the app. Requests are counted per path template; other paths count as "unmatched".
      write: receives the lines.
      clients: whether lines include the client's address.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        routes: Sequence[Route],
        write: Callable[[str], object],
        *,
        clients: bool = False,
    ):
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._write = write
        self._clients = clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = _request_id(scope)
        line: dict[str, Any] = {}
        scope.setdefault("state", {}).update(log=line, request_id=request_id)
        if self._clients and scope.get("client"):
            line["client"] = scope["client"][0]
        started, received, sent, status = time.perf_counter(), 0, 0, None

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)  # copies the headers, since requests may share a response
                for name, value in {**_HEADERS, "X-Request-ID": request_id}.items():
                    headers.setdefault(name, value)
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.answered(scope["method"], self._template(scope), status or CLIENT_GONE, seconds)
            self._log(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "request_id": request_id,
                    "method": scope["method"][:20],
                    "path": scope["path"][:200],
                    "status": status or CLIENT_GONE,
                    "ms": round(1000 * seconds, 1),
                    "bytes_in": received,
                    "bytes_out": sent,
                    **line,
                }
            )

    def _template(self, scope: Scope) -> str:
        path = route_path(scope)
        return next((route.path_format for route in self._routes if route.path_regex.match(path)), "unmatched")

    def _log(self, fields: dict[str, Any]) -> None:
        # The service keeps answering even if the log's disk is full or its pipe is closed.
        with contextlib.suppress(OSError):
            self._write(json.dumps(fields))


def to_stderr(line: str) -> None:
    """Print a line to stderr and flush it."""
    print(line, file=sys.stderr, flush=True)


def log(scope: Scope, **values: Any) -> None:
    """Add fields to the log line of this request."""
    scope["state"]["log"].update(values)


def _request_id(scope: Scope) -> str:
    client_id = Headers(scope=scope).get("x-request-id", "").encode("latin-1")
    return client_id.decode() if _REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex
