"""Unexpected exceptions of the service: log the traceback and give the client a request id to quote."""

import sys
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxretr.serve.access_log import log
from jaxretr.serve.errors import error_response


def report(scope: Scope, error: Exception) -> str:
    """Log an exception with the id of its request; return the part of the error message that names this id.

    Messages of exceptions may contain paths and other facts about the machine, so clients never see them.
    """
    request_id = scope["state"]["request_id"]
    log(scope, error=f"{type(error).__name__}: {error}"[:200])
    print(f"request {request_id} failed:", *traceback.format_exception(error), sep="\n", file=sys.stderr)
    return f"see request id {request_id} in the log of the service"


class Faults:
    """Answer 500 if a request raises an exception that no handler expects; the service keeps running."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:
            where_to_look = report(scope, error)
            if started:
                raise  # the response has begun and cannot be replaced: the server closes the connection
            await error_response(500, f"unexpected error in the service; {where_to_look}")(scope, receive, send)
