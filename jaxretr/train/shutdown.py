"""Graceful shutdown: signal handlers set a flag, and the training loop checks it between steps.

All processes of a job stop after the same step, whichever process received the signal.
"""

import signal
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import jax

from jaxretr import parallel


class GracefulShutdown(AbstractContextManager["GracefulShutdown"]):
    """While open, the first SIGINT or SIGTERM sets `requested`; a second signal has its usual effect."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulShutdown":
        self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    @property
    def requested_in_single_process(self) -> bool:
        """Whether a shutdown is requested and the job has no other process that must agree."""
        return self.requested and jax.process_count() == 1

    def agreed(self) -> bool:
        """Return whether a shutdown is requested in any process.

        All processes must call this after the same step, when their devices are idle. Otherwise, on CPUs, this
        collective could overtake earlier work, and the collectives would wait for each other.
        """
        return parallel.any_process(self.requested)

    def _request(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
