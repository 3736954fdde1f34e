"""The service as a process: run a listening server for an app until a signal stops it, and return an exit code.

uvicorn is the server. This module adds limits on slow clients, so that they do not lock out other clients: uvicorn
itself waits without limit for the head of a request and for a client to read its response.
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
from jaxretr.serve.auth import LOOPBACK
from jaxretr.serve.errors import error_response
from jaxretr.serve.options import API_KEY_VARIABLE, ServiceOptions
from jaxretr.serve.service import Service
from jaxretr.tracking import say


def read_api_key(file: Path | None) -> str | None:
    """Return the key in `file`, or without a file, the key in the environment; None if there is none.

    There is no flag for the key, because other users can see command lines.
    """
    return as_path(file).read_text("utf-8").strip() if file is not None else os.environ.get(API_KEY_VARIABLE)


def allowed_hosts(
    host: str, api_key: str | None, *, insecure: bool = False, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the host names that requests to a service listening at `host` may be addressed to; () for any name.

    Args:
      host: address that the service listens at.
      api_key: key that clients must send; None for no key.
      insecure: whether other machines may use the service without a key.
      names: additional names of the service, such as the name that a reverse proxy passes on. If there are any, a
        service that other machines can reach accepts only these and the loopback names.

    Raises:
      ValueError: other machines could use the service without a key.
    """
    if _is_loopback(host):
        return (*LOOPBACK, *names)
    if api_key is None and not insecure:
        raise ValueError(
            f"anyone who can reach {host or 'this machine'} could use the service; set {API_KEY_VARIABLE}, give a file "
            "with --api_key_file, or pass --insecure to allow it"
        )
    return (*LOOPBACK, *names) if names else ()


def run(app: FastAPI, options: ServiceOptions, *, host: str, port: int) -> int:
    """Serve until SIGTERM or Ctrl-C, then answer the accepted requests and return.

    Returns:
      The exit code: 0 after a requested shutdown, 1 if the service cannot start.
    """
    server = Server(server_config(app, options, host=host, port=port), app.state.service)
    try:
        server.run()
    except SystemExit:  # uvicorn cannot listen and has logged the reason
        return 1
    return 1 if app.state.service.failure else 0


def server_config(app: FastAPI, options: ServiceOptions, *, host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's configuration for the app; port 0 takes any free port."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=functools.partial(Protocol, options),  # type: ignore[arg-type]  # uvicorn calls it like the class
        loop="asyncio",  # the same loop on every machine, even if uvloop is installed
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # the app itself reads the headers
        timeout_keep_alive=math.ceil(options.keep_alive),
        timeout_graceful_shutdown=math.ceil(options.request_timeout + options.body_timeout),
        h11_max_incomplete_event_size=2**16,
    )


class Server(uvicorn.Server):
    """A uvicorn server that returns after a requested shutdown, and stops by itself when the service has failed."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in self.servers[0].sockets if self.started else ():
            host, port = listener.getsockname()[:2]
            say(f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stopping = True
        self.force_exit = self.should_exit and sig == signal.SIGINT  # Ctrl-C twice
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._service.failure is not None


class Protocol(H11Protocol):
    """A connection with time limits for receiving the head of a request and for each part of the response.

    If there are more than `max_connections`, the new connection replaces the one that has sent no request for longest.
    If every other connection has an active request, the new connection gets 503.
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
            others = [other for other in self.connections if isinstance(other, Protocol) and other is not self]
            idle = [
                other for other in others if other.conn.their_state is h11.IDLE and not other.transport.is_closing()
            ]
            if idle:
                min(idle, key=lambda other: other._idle_since).transport.abort()
            else:
                self.app = error_response(
                    503,
                    f"the service already has {self._options.max_connections} clients, the maximum; try again",
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
        self._refuse(400, f"the request is not valid HTTP: {msg}")

    def _watch_head(self) -> None:
        """Run the timer while a head is incomplete, or the body of an already answered request."""
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            _stop(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self._options.header_timeout, self._give_up)

    def _give_up(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self._refuse(408, f"the head of the request did not arrive within {self._options.header_timeout:g} s")
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
