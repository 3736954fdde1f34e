"""The time budget of `scripts/benchmark.py accelerator`, and the processes of its two sides."""

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.torch_process import TorchProcess


class Clock:
    """The time budget.

    Args:
      minutes: the budget.
    """

    def __init__(self, minutes: float):
        self._began = time.monotonic()
        self.budget_s = 60 * minutes

    @property
    def share(self) -> float:
        """The share of the budget that has passed."""
        return (time.monotonic() - self._began) / self.budget_s

    def seconds_until(self, share: float) -> float:
        """Return the seconds until a share of the budget has passed, negative if it has."""
        return (share - self.share) * self.budget_s

    def say(self, line: str) -> None:
        """Print a line of progress with the time."""
        passed, total = (divmod(round(seconds), 60) for seconds in (self.share * self.budget_s, self.budget_s))
        print("[{}:{:02} of {}:{:02}] {}".format(*passed, *total, line), flush=True)


class Party:
    """One side: a process that is started again if it has ended or did not answer in time."""

    def __init__(self, python: Path, program: str, environment: dict[str, str]):
        self._start = (python, program), environment
        self._process: TorchProcess | None = None
        self._opening: dict[str, Any] = {}

    def ask(self, wait_s: float, **question: Any) -> dict[str, Any]:
        """Return the answer, or {"error": reason}."""
        try:
            if self._process is None:
                self._process = TorchProcess(*self._start[0], environment=self._start[1])
                if self._opening:
                    self._process.ask(wait_s=wait_s, **self._opening)
            answer = self._process.ask(wait_s=wait_s, **question)
        except (TimeoutError, RuntimeError) as error:
            self.close()
            return {"error": str(error)}
        if question["do"] == "open" and "error" not in answer:
            self._opening = question
        return answer

    def close(self) -> None:
        """End the process; its memory on the device is free then."""
        if self._process is not None:
            self._process.__exit__()
            self._process = None


def environment() -> dict[str, str]:
    """Return the environment of both sides: one GPU, and its memory is taken only as it is needed."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    platforms = os.environ.get("JAX_PLATFORMS", "")
    added = {"CUDA_VISIBLE_DEVICES": visible, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "HF_HUB_OFFLINE": "1"}
    if platforms and "cpu" not in platforms.split(","):
        added["JAX_PLATFORMS"] = f"{platforms},cpu"  # the reference of parity
    return {**os.environ, **added}
