"""The service as a process: an app comes in, a listening server runs until it is told to stop, an exit code goes out.

uvicorn serves. What is added here keeps clients that dawdle from keeping others out: uvicorn itself waits for the
head of a request, and for an answer to be taken, as long as a client likes.
"""

import asyncio
import functools
import ipaddress
import math
import os
import signal
import socket
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxretr.files import as_path
from jaxretr.serve.errors import error_response
from jaxretr.serve.gate import LOOPBACK
from jaxretr.serve.options import ServiceOptions
from jaxretr.serve.service import Service
from jaxretr.tracking import say

API_KEY_VARIABLE = "JAXRETR_API_KEY"


def read_api_key(file: Path | None) -> str | None:
    """The key in `file`, or else in the environment; None when there is none. Command lines can be seen by others."""
    return as_path(file).read_text("utf-8").strip() if file is not None else os.environ.get(API_KEY_VARIABLE)


def allowed_hosts(
    host: str, api_key: str | None, *, insecure: bool = False, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """What requests to a service that listens at `host` must be addressed to; () for anything.

    Args:
      names: what else it is called, such as the name that a reverse proxy passes on. If there are any, a service that
        other machines can reach is no longer called just anything.

    Raises:
      ValueError: when others than this machine could come in without a key.
    """
    if _is_loopback(host):
        return (*LOOPBACK, *names)
    if api_key is None and not insecure:
        raise ValueError(
            f"everyone who reaches {host or 'this machine'} could use the service: set {API_KEY_VARIABLE}, name a file "
            "with --api_key_file, or say --insecure if that is meant"
        )
    return (*LOOPBACK, *names) if names else ()


def run(app: FastAPI, options: ServiceOptions, *, host: str, port: int) -> int:
    """Serves until SIGTERM or Ctrl-C, then answers what has been accepted.

    Returns:
      The exit code: 0 after a shutdown that was asked for, 1 when the service cannot start.
    """
    server = Server(server_config(app, options, host=host, port=port), app.state.service)
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it cannot listen, after it has said why
        return 1
    return 1 if app.state.service.failure else 0


def server_config(app: FastAPI, options: ServiceOptions, *, host: str, port: int) -> uvicorn.Config:
    """How uvicorn is to serve the app; port 0 for any that is free."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=functools.partial(Protocol, options),  # type: ignore[arg-type]  # called as the class would be
        loop="asyncio",  # not whichever happens to be installed
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # the app itself reads them
        timeout_keep_alive=math.ceil(options.keep_alive),
        timeout_graceful_shutdown=math.ceil(options.request_timeout + options.body_timeout),
        h11_max_incomplete_event_size=2**16,
    )


class Server(uvicorn.Server):
    """uvicorn, which ends with 0 when it is asked to end, and by itself when the service has failed."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in self.servers[0].sockets if self.started else ():
            host, port = one.getsockname()[:2]
            say(f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stopping = True
        self.force_exit = self.should_exit and sig == signal.SIGINT  # Ctrl-C twice
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._service.failure is not None


class Protocol(H11Protocol):
    """A connection whose client has so long for a request's head, and so long to take some of an answer.

    When there are `max_connections`, a new one takes the place of the one that has owed a request for longest.
    """

    def __init__(self, options: ServiceOptions, **arguments: Any):
        super().__init__(**arguments)
        self._options = options
        self._idle_since = self.loop.time()
        self._head: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()
        if len(self.connections) > self._options.max_connections:
            others = [one for one in self.connections if isinstance(one, Protocol) and one is not self]
            idle = [one for one in others if one.conn.their_state is h11.IDLE and not one.transport.is_closing()]
            if idle:
                min(idle, key=lambda one: one._idle_since).transport.abort()
            else:
                self.app = error_response(
                    503,
                    f"{self._options.max_connections} clients are being served, as many as may be; try again",
                    headers={"Retry-After": "2", "Connection": "close"},
                )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self._options.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _stop(self._writing)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _stop(self._head)
        _stop(self._writing)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"this cannot be read as an HTTP request: {msg}")

    def _watch_head(self) -> None:
        """Time counts while a head, or the rest of a body that has been answered already, is on its way."""
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            _stop(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self._options.header_timeout, self._give_up)

    def _give_up(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self._refuse(408, f"the head of the request was not there after {self._options.header_timeout:g} s")
        else:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            response = error_response(status, message, headers={"Connection": "close"})
            for event in (
                h11.Response(status_code=status, headers=response.raw_headers, reason=HTTPStatus(status).phrase),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
