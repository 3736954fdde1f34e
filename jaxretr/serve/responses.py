"""JSON that can always be encoded: a value comes in, a response goes out."""

import json
from typing import Any

from starlette import responses


class JSONResponse(responses.JSONResponse):
    """A value as UTF-8 JSON. A lone surrogate in a string, which UTF-8 does not have, goes out as its JSON escape."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")
