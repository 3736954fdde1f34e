"""The search page: `page.html` comes in, a response whose headers allow its own script and style and nothing else."""

import base64
import hashlib
import re
from importlib import resources

from starlette.responses import Response


def content_security_policy(html: str) -> str:
    """A policy that allows the inline scripts and styles of `html` by their hashes, and requests to its own origin."""

    def hashes(element: str) -> str:
        found = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", html, re.DOTALL | re.IGNORECASE)
        digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page() -> Response:
    """The page, the same for everyone and without data in it."""
    html = resources.files("jaxretr.serve").joinpath("page.html").read_text("utf-8")
    headers = {"Content-Security-Policy": content_security_policy(html), "Cache-Control": "no-cache"}
    return Response(html, media_type="text/html", headers=headers)
