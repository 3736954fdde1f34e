"""Who may come in: a request's Host and Authorization come in, a 400 or 401 goes out, or the request goes on."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jaxretr.serve.errors import ServiceError
from jaxretr.serve.options import ServiceOptions

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""What a service on this machine's own interface is called; anything else in Host comes from a rebound name."""

OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
"""Paths that need no key: the page asks for it, probes have none, and none of them tells anything of the index."""


class Gate:
    """Lets requests through that are addressed to this service and have its key."""

    def __init__(self, app: ASGIApp, options: ServiceOptions):
        self._app = app
        self._hosts = options.allowed_hosts
        self._key = options.api_key.encode() if options.api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal.response() if refusal else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            return ServiceError(
                400,
                f"the request is addressed to {host[:80]!r}; expected one of {', '.join(self._hosts)}",
                param="Host",
            )
        if self._key is None or scope["path"] in OPEN:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            return None
        refusal = ServiceError(401, "the API key is missing or wrong; expected `Authorization: Bearer KEY`")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal


def _name(host: str) -> str:
    """`host` without port, brackets and case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
