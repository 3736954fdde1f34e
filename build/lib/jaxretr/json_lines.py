r"""Reading of JSON lines that this package has written.

Lines end only at "\n". `str.splitlines` would also split a text at U+2028, U+0085 and six more characters that JSON
may contain unescaped. Corpora and training data of users are read by `jaxretr.data.sources.files`, which streams them
and names the line of any error.
"""

import json
from typing import Any

from jaxretr.files import AnyPath


def read(path: AnyPath) -> list[Any]:
    r"""Return the value of every line.

    A last line without "\n" that is not valid JSON is skipped: the process that wrote it was killed.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: another line is not JSON; the message names file and line.
    """
    *lines, last = path.read_bytes().split(b"\n")
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(json.loads(line))
        except ValueError as error:  # not JSON, or not UTF-8
            raise ValueError(
                f"{path}, line {number}: not JSON ({error}): {line[:80]!r}; delete the file and run the command that "
                "wrote it again"
            ) from error
    try:
        return [*values, json.loads(last)]
    except ValueError:
        return values
