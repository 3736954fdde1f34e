"""Paths below the root path, the prefix under which a reverse proxy shows the service."""

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """The path of a request without the root path, whether or not the proxy has removed the root path itself.

    Starlette's router finds its routes by the same rule.
    """
    path, root = scope["path"], scope.get("root_path", "")
    if path == root:
        return "/"
    return path.removeprefix(root) if path.startswith(f"{root}/") else path
