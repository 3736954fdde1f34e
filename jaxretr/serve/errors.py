"""Error responses.

Input: an exception. Output: a response with the body `{"error": {"message", "type", "param", "code"}}`.
"""

import errno
import os
import reprlib
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from jaxretr.serve.responses import JSONResponse

INVALID = "invalid_request_error"
_TYPES = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 503: "overloaded_error"}

_shortened = reprlib.Repr(maxstring=60, maxother=60, maxlong=40, maxlist=3, maxdict=3, maxlevel=2)


class ServiceError(Exception):
    """An exception that is answered with an error response.

    Args:
      status: HTTP status.
      message: what was given, what is expected and what to do.
      param: the field of the request that caused the error.
      retry_after: seconds after which the client should try again.
      fault: the exception behind an error that the client did not cause. It is logged, never part of the message.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        fault: Exception | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.fault = fault
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def response(self) -> JSONResponse:
        return error_response(self.status, self.message, param=self.param, headers=self.headers)


def error_response(
    status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error in the format that clients of OpenAI's API expect."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else INVALID)
    content = {"error": {"message": message, "type": kind, "param": param, "code": None}}
    return JSONResponse(content, status, dict(headers or {}))


def shown(value: Any) -> str:
    """Return a shortened representation of a value for messages, without lone surrogates."""
    return _shortened.repr(value).encode("utf-8", "backslashreplace").decode()


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ServiceError:
    """Convert pydantic's errors about a request; the message describes the first error and counts the others."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ServiceError(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    if first["type"] == "missing" and param is None:
        return ServiceError(422, "the body is empty; expected a JSON object")
    given = "" if first["type"] in ("missing", "value_error") else f", got {shown(first['input'])}"
    expected = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ServiceError(422, f"{param or 'the body'}: {expected}{given}{more}", param=param)


def index_error(error: Exception, *, writing: bool) -> ServiceError:
    """Return the error response for an exception that the index raised during a search or an update.

    The index raises a plain ValueError for a request that it refuses, for example because of an unknown language. A
    ValueError with a cause, or of a subclass, comes from a damaged file. Only messages meant for clients are passed on.

    Args:
      error: the exception.
      writing: whether the request was an update.

    Returns:
      422 for a request that the index refuses, 507 for a full disk, 503 for other I/O errors and for shards that do not
      answer, 500 for a damaged index and for every other exception.
    """
    if type(error) is ValueError and error.__cause__ is None:
        return ServiceError(422, str(error))
    if isinstance(error, ConnectionError) and error.errno is None:  # from `ShardedIndex`; may quote a shard's error
        cause = error.__cause__
        message = str(error).replace(f" ({cause})", "")
        return ServiceError(503, message, retry_after=5, fault=None if cause is None else error)
    consequence = "nothing was changed, because the index cannot be written" if writing else "the index cannot be read"
    chain = _chain(error)
    if writing and any(map(_is_full, chain)):
        message = f"{consequence} ({os.strerror(errno.ENOSPC)}); free some space on its disk, then try again"
        return ServiceError(507, message, fault=error)
    if any(isinstance(cause, OSError | sqlite3.OperationalError) for cause in chain):
        number = next((cause.errno for cause in chain if isinstance(cause, OSError) and cause.errno is not None), None)
        reason = "" if number is None else f" ({os.strerror(number)})"
        return ServiceError(503, consequence + reason, retry_after=10, fault=error)
    if isinstance(error, ValueError | sqlite3.Error):
        return ServiceError(500, f"{consequence}: its files are damaged", fault=error)
    return ServiceError(500, "the index raised an unexpected error", fault=error)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and its causes."""
    return [error, *(_chain(error.__cause__) if error.__cause__ is not None else [])]


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
