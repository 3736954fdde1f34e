"""A side of a benchmark: a program in its own process and environment, queried in JSON lines."""

import json
import select
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any


class TorchProcess(AbstractContextManager["TorchProcess"]):
    """A program of this directory under a given interpreter; it waits between queries.

    Args:
      python: interpreter, such as that of the environment with PyTorch.
      program: file name of the program.
      arguments: command-line arguments of the program.
      environment: environment variables of the program; None for those of this process.
    """

    def __init__(self, python: Path, program: str, *arguments: object, environment: Mapping[str, str] | None = None):
        command = [str(python), str(Path(__file__).with_name(program)), *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, *, wait_s: float | None = None, **question: Any) -> dict[str, Any]:
        """Send a question and return the answer.

        Raises:
          TimeoutError: there is no answer within `wait_s` seconds; None waits forever. The process is killed.
          RuntimeError: the process has ended.
        """
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError(f"{self._process.args} ended; its own message stands above") from None
        if wait_s is not None and not select.select([self._process.stdout], [], [], wait_s)[0]:
            self._process.kill()
            raise TimeoutError(f"no answer within {wait_s:.0f} s")
        answer = self._process.stdout.readline() if self._process.stdout else ""
        if not answer:
            raise RuntimeError(f"{self._process.args} ended; its own message stands above")
        return json.loads(answer)

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            with suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.close()
        self._process.wait()
