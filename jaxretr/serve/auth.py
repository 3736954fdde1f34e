"""Check the Host and Authorization headers: refuse a request with 400 or 401, or pass it on."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jaxretr.serve.errors import ServiceError
from jaxretr.serve.options import ServiceOptions
from jaxretr.serve.root_path import route_path

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Host names of a service on the loopback interface. Any other name in Host is a sign of DNS rebinding."""

PUBLIC_PATHS = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
"""Paths that need no key: the search page asks the user for the key, probes have no key, and none of these paths
reveals anything about the index."""


class Gate:
    """Pass on requests that are addressed to this service and have its key.

    Starlette's TrustedHostMiddleware answers in plain text, and it has no hook for OpenAI's error format.
    """

    def __init__(self, app: ASGIApp, options: ServiceOptions):
        self._app = app
        self._hosts = () if "*" in options.allowed_hosts else tuple(host.lower() for host in options.allowed_hosts)
        self._key = options.api_key.encode() if options.api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal.response() if refusal else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and not any(_matches(_name(host), pattern) for pattern in self._hosts):
            return ServiceError(
                400,
                f"the request is addressed to {host[:80]!r}; expected one of {', '.join(self._hosts)}",
                param="Host",
            )
        if self._key is None or route_path(scope) in PUBLIC_PATHS:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode("latin-1"), self._key):
            return None
        refusal = ServiceError(401, "the API key is missing or wrong; expected `Authorization: Bearer KEY`")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal


def _name(host: str) -> str:
    """Return the host name in lower case, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]))
