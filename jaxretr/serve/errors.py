"""Errors as clients see them: an exception comes in, `{"error": {"message", "type", "param"}}` goes out."""

import errno
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxretr.serve.responses import JSONResponse

INVALID = "invalid_request_error"
_TYPES = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 503: "overloaded_error"}

_shortened = reprlib.Repr(maxstring=60, maxother=60, maxlong=40, maxlist=3, maxdict=3, maxlevel=2)


class ServiceError(Exception):
    """A request that is answered with an error.

    Args:
      status: of HTTP.
      message: what was given, what is expected and what to do.
      param: the field of the request that is to blame.
      retry_after: seconds after which it is worth asking again.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def response(self) -> JSONResponse:
        return error_response(self.status, self.message, param=self.param, headers=self.headers)


def error_response(
    status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error in the form that clients of OpenAI's API expect."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else INVALID)
    content = {"error": {"message": message, "type": kind, "param": param, "code": None}}
    return JSONResponse(content, status, dict(headers or {}))


def shown(value: Any) -> str:
    """What was given, shortened, and without lone surrogates."""
    return _shortened.repr(value).encode("utf-8", "backslashreplace").decode()


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ServiceError:
    """What pydantic found wrong with a request; the first thing is told."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ServiceError(400, f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    if first["type"] == "missing" and param is None:
        return ServiceError(422, "the body is empty; expected a JSON object")
    given = "" if first["type"] in ("missing", "value_error") else f", got {shown(first['input'])}"
    expected = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ServiceError(422, f"{param or 'the body'}: {expected}{given}{more}", param=param)


def storage_error(error: OSError) -> ServiceError:
    """A write that failed. It changed nothing, but where a shard did not answer, which may have made its part."""
    if isinstance(error, ConnectionError):
        return ServiceError(503, str(error), retry_after=5)
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ServiceError(
            507, f"nothing was changed, for the index cannot grow: {reason}; free some space, then retry"
        )
    return ServiceError(503, f"nothing was changed, for the index cannot be written: {reason}", retry_after=10)
