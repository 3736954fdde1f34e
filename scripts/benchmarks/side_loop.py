"""The loop of a program that `torch_process.TorchProcess` asks: a line of JSON in, a line of JSON out.

It needs no package, so it also runs in an environment without jaxretr.
"""

import json
import os
import sys


def serve(side: object) -> None:
    """Answer questions until the input ends.

    A question names a method in "do"; the other entries are its arguments. The answer is what the method returns, a
    dict, or {"error": type and message}. What the program and its libraries print goes to stderr.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(side, asked.pop("do"))(**asked)
        except Exception as error:  # out of memory, a kernel that the device lacks: the other settings go on
            message = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {message[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)
