"""Queries with typos, for training that teaches a model to see through them.

In: records of training pairs. Out: their queries after random slips of the finger, language by language, a pure
function of seed, step and row, so that a resumed run draws the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxretr.perturb.text import draw, typos
from jaxretr.perturb.text.words import FUNCTION_WORDS


@dataclass(frozen=True)
class Typos:
    """`edits` typos a query, each uniform over all that are possible (`jaxretr.perturb.text.typos`)."""

    edits: int
    seed: int

    def of(self, records: Sequence[Mapping[str, Any]], step: int, first_row: int) -> list[bytes]:
        """The queries of a process's records, which are rows `first_row` and on of a batch; one that has no word to
        hit stays as it is."""
        return [self._of(record, step, row) for row, record in enumerate(records, start=first_row)]

    def _of(self, record: Mapping[str, Any], step: int, row: int) -> bytes:
        text, language = record["query"].decode(), record["language"].decode()
        (seed,) = np.random.SeedSequence([self.seed, step, row]).generate_state(1, np.uint64)
        found = draw(typos, text, language, count=1, edits=self.edits, seed=int(seed))
        return found[0].encode() if found else record["query"]


def check_languages(languages: Sequence[str]) -> None:
    """Raises ValueError where typos are not known for a language, naming those they are known for."""
    if missing := [code for code in languages if code not in FUNCTION_WORDS]:
        raise ValueError(
            f"There are no typos for language {', '.join(missing)}, only for {', '.join(FUNCTION_WORDS)}; leave the "
            "others out of data.languages, or set another hardening.method."
        )
