"""The other side of a benchmark: a program in its own environment, queried in JSON lines."""

import json
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any


class TorchProcess(AbstractContextManager["TorchProcess"]):
    """A program of this directory under another interpreter; it waits between queries.

    Args:
      python: interpreter of the environment with PyTorch.
      program: file name of the program.
      arguments: command-line arguments of the program.
    """

    def __init__(self, python: Path, program: str, *arguments: object):
        command = [str(python), str(Path(__file__).with_name(program)), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and return the answer."""
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline() if self._process.stdout else ""
        if not answer:
            raise RuntimeError(f"{self._process.args} ended; its own message stands above")
        return json.loads(answer)

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()
