"""`scripts/serve.py` in its own process, and lightweight clients for it.

Clients speak HTTP over plain asyncio streams, each with one keep-alive connection: on two cores, an HTTP library would
take as much time as the service it measures.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVE = Path(__file__).parents[1] / "serve.py"
_UP = 300.0  # longest start of the service, in seconds
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """The service on a port of this machine.

    Args:
      index: directory of the index.
      flags: flags of scripts/serve.py.
      log: file to which the service's output is appended.
    """

    def __init__(self, index: Path, flags: Sequence[str], log: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [sys.executable, SERVE, "--index", index, "--port", str(self.port), *flags]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    def start(self) -> float:
        """Start the service, wait until it is ready, and return the seconds that this took.

        Raises:
          RuntimeError: the service is not ready in time, or it ended.
        """
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        while time.monotonic() < began + _UP and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                    return time.monotonic() - began
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"the server is not ready after {time.monotonic() - began:.0f} s; see {self._log}")

    def kill(self) -> None:
        """Kill the service as `kill -9` does."""
        self._running.kill()
        self._running.wait()

    def stop(self) -> int:
        """Stop the service with SIGTERM; return its exit status."""
        self._running.send_signal(signal.SIGTERM)
        return self._running.wait(60)

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._running.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def resident_mib(self) -> float:
        pages = Path(f"/proc/{self._running.pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "started"
        return self._process


class Client:
    """One connection, opened on first use and reopened after it was lost."""

    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request that `request` made; return the status and body of the answer.

        Raises:
          OSError: no complete answer arrived; it is unknown whether the server acted on the request.
        """
        try:
            if self._streams is None or self._streams[0].at_eof():
                self.close()
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**26)
            reader, writer = self._streams
            writer.write(request)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if b"\r\nconnection: close" in head:
                self.close()
            return int(head.split(maxsplit=2)[1]), body
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ConnectionError(f"no answer: {error!r}") from error

    async def ask_json(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """Send a JSON request and decode the JSON answer, as `ask` does for bytes."""
        status, body = await self.ask(request(method, path, b"" if content is None else json.dumps(content).encode()))
        return status, json.loads(body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def request(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """Return the bytes of an HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
