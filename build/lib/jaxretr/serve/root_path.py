"""Paths below the root path, the prefix under which a reverse proxy shows the service."""

from starlette.types import ASGIApp, Receive, Scope, Send


def route_path(scope: Scope) -> str:
    """Return the path of a request without the root path, whether or not the proxy has removed the root path.

    Starlette's router matches routes by this rule too.
    """
    path, root = scope["path"], scope.get("root_path", "")
    if path == root:
        return "/"
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


class RootPath:
    """Set the app's root path, which the server does not know, on each request."""

    def __init__(self, app: ASGIApp, root_path: str):
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = self._root_path
        await self._app(scope, receive, send)
