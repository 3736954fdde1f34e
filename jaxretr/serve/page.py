"""The search page: `page.html` as a response whose headers allow only the page's own scripts and styles."""

import base64
import hashlib
import re
from importlib import resources

from starlette.responses import Response


def content_security_policy(html: str) -> str:
    """Return a policy that allows the inline scripts and styles of `html` by hash, and requests to its own origin."""

    def hashes(element: str) -> str:
        contents = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", html, re.DOTALL | re.IGNORECASE)
        digests = (base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents)
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page() -> Response:
    """Return the search page, which is the same for every client and contains no data."""
    html = resources.files("jaxretr.serve").joinpath("page.html").read_text("utf-8")
    headers = {"Content-Security-Policy": content_security_policy(html), "Cache-Control": "no-cache"}
    return Response(html, media_type="text/html", headers=headers)
