"""Which training example exists in which language.

In: a data source of training pairs (`jaxretr.data.schema`). Out: a `PairIndex` of integer arrays, small enough for
memory when the texts are not (4 bytes an example and language), from which hybrid batches are planned.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class PairIndex:
    """Attributes:

    languages: column names of `rows`.
    rows: record number in the data source of example e in language l, -1 where there is none.
    passages: number of the passage that answers example e; the examples of one passage share it in every language.
    """

    languages: tuple[str, ...]
    rows: Int[np.ndarray, "examples languages"]
    passages: Int[np.ndarray, "examples"]

    @property
    def sizes(self) -> dict[str, int]:
        """Examples per language."""
        return dict(zip(self.languages, (self.rows >= 0).sum(axis=0).tolist(), strict=True))


def scan(source: Sequence[dict[str, Any]]) -> PairIndex:
    """Reads every record once.

    Args:
      source: records with the byte strings `query_id`, `passage_id` and `language`.

    Raises:
      ValueError: where a query occurs twice in one language.
    """
    examples: dict[bytes, int] = {}
    passages: dict[bytes, int] = {}
    languages: dict[bytes, int] = {}
    entries = np.empty((len(source), 3), np.int32)
    for row in range(len(source)):
        record = source[row]
        entries[row] = (
            examples.setdefault(record["query_id"], len(examples)),
            passages.setdefault(record["passage_id"], len(passages)),
            languages.setdefault(record["language"], len(languages)),
        )
    example, passage, language = entries.T
    rows = np.full((len(examples), len(languages)), -1, np.int32)
    rows[example, language] = np.arange(len(source), dtype=np.int32)
    if (rows >= 0).sum() < len(source):
        lost = int(np.flatnonzero(rows[example, language] != np.arange(len(source)))[0])
        raise ValueError(
            f"query_id {source[lost]['query_id'].decode()!r} occurs twice in language "
            f"{source[lost]['language'].decode()!r}; give every question of a language its own id."
        )
    passage_of = np.empty(len(examples), np.int32)
    passage_of[example] = passage
    return PairIndex(tuple(code.decode() for code in languages), rows, passage_of)


def load(source: Sequence[dict[str, Any]], cache: Path) -> PairIndex:
    """`scan`, kept in the file `cache` beside the prepared data, which never changes once written."""
    if cache.exists():
        with np.load(cache) as kept:
            return PairIndex(tuple(kept["languages"].tolist()), kept["rows"], kept["passages"])
    index = scan(source)
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as file:
        np.savez(file, languages=np.array(index.languages), rows=index.rows, passages=index.passages)
    os.replace(file.name, cache)
    return index


def select(index: PairIndex, languages: Sequence[str]) -> PairIndex:
    """The part of an index in the given languages, in their order.

    Raises:
      ValueError: naming a language that the data lacks, and those it has.
    """
    if missing := [code for code in languages if code not in index.languages]:
        raise ValueError(
            f"The training data has no language {', '.join(missing)}; it has {', '.join(sorted(index.languages))}. "
            "Change data.languages, or prepare data that holds it."
        )
    rows = index.rows[:, [index.languages.index(code) for code in languages]]
    used = (rows >= 0).any(axis=1)
    return PairIndex(tuple(languages), rows[used], index.passages[used])
