"""Ctrl-C and termination notices, turned into a wish that the loop grants between two steps.

All processes of a job must stop after the same step, whichever of them was told to.
"""

import signal
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import jax

from jaxretr import parallel


class Interruption(AbstractContextManager["Interruption"]):
    """While open, the first SIGINT or SIGTERM sets `requested`; a second one acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    @property
    def is_ours(self) -> bool:
        """Whether it is requested of a process that need not ask others."""
        return self.requested and jax.process_count() == 1

    def agreed(self) -> bool:
        """Whether it is requested of any process; all must ask, after the same step, and have waited for their devices.

        (On CPUs, what is computed may overtake what was dispatched before, and their collectives wait for each other.)
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
