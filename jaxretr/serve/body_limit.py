"""Read request bodies completely, with limits on their size, memory and time.

Input: the stream of a client. Output: the whole body for the app, or an error response.
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxretr.serve.errors import ServiceError
from jaxretr.serve.options import ServiceOptions

_DISCARDED = 8  # a refused body is read up to this multiple of `max_body_bytes`
_HELD = 64  # all request bodies together may occupy this multiple of `max_body_bytes` in memory


class BoundedBody:
    """Read the whole body before calling the app; cancel the app if the client disconnects before the response.

    Bytes are counted as they arrive, whatever Content-Length says. If a body is too large, some of the rest is read and
    discarded before the refusal: a client that is still sending when the connection closes would lose the response.
    """

    def __init__(self, app: ASGIApp, options: ServiceOptions):
        self._app = app
        self._limit = options.max_body_bytes
        self._timeout = options.body_timeout
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        chunks: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    async for chunk in self._chunks(scope, receive):
                        self._held += len(chunk)
                        chunks.append(chunk)
                body = b"".join(chunks)
                _check_text(scope, body)
            except TimeoutError as error:
                raise ServiceError(408, f"the body did not arrive within {self._timeout:g} s") from error
        except ServiceError as error:
            if error.status != 400:
                error.headers["Connection"] = "close"  # the rest of the body may still arrive
            await error.response()(scope, receive, send)
        except _ClientGone:
            pass
        else:
            await self._run(scope, body, receive, send)
        finally:
            self._held -= sum(map(len, chunks))

    async def _chunks(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        headers = Headers(scope=scope)
        refused = ServiceError(413, f"the body is larger than {self._limit} bytes; split it into smaller requests")
        if "expect" in headers and _declared(headers) > self._limit:
            raise refused  # the client waits for "100 Continue" and has sent nothing of the body
        total = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            total += len(message.get("body", b""))
            if total <= self._limit:
                if self._held + len(message.get("body", b"")) > _HELD * self._limit:
                    raise ServiceError(503, "the service holds too many large requests; try again", retry_after=2)
                yield message.get("body", b"")
            if total > self._limit and (not message.get("more_body") or total > _DISCARDED * self._limit):
                raise refused
            if not message.get("more_body"):
                return

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        replayed = answered = disconnected = False
        app = asyncio.current_task()
        assert app is not None

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                await asyncio.Event().wait()  # until the app is canceled
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched_send(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        async def watch() -> None:
            nonlocal disconnected
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answered:
                disconnected = True
                app.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, watched_send)
        except asyncio.CancelledError:
            if not disconnected or app.uncancel():
                raise  # the server, not `watch`, canceled the request: the shutdown took too long
        finally:
            watcher.cancel()


class _ClientGone(Exception):
    pass


def _declared(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0


def _check_text(scope: Scope, body: bytes) -> None:
    if not body:
        return
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        actual = f"is {kind[:60]!r}" if kind else "is missing"
        raise ServiceError(415, f"Content-Type {actual}; expected application/json", param="Content-Type")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise ServiceError(400, f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
