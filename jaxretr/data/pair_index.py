"""Which training example exists in which language.

In: training pairs (`jaxretr.data.schema`). Out: a `PairIndex` of integer arrays, small enough for
memory when the texts are not (4 bytes an example and language), from which hybrid batches are planned.
"""

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from jaxretr.data import schema
from jaxretr.files import replaced_file
from jaxretr.fingerprint import checksum, stamps, text_checksum


@dataclass(frozen=True)
class PairIndex:
    """Attributes:

    languages: column names of `rows`.
    rows: record number in the data source of example e in language l, -1 where there is none.
    passages: number of the passage that answers example e; the examples of one passage share it in every language.
    negatives: the number of examples in language l that have exactly n hard negatives, in row l and column n.
    fingerprint: checksum of all records of the split, in every language.
    """

    languages: tuple[str, ...]
    rows: Int[np.ndarray, "examples languages"]
    passages: Int[np.ndarray, "examples"]
    negatives: Int[np.ndarray, "_ counts"] = field(default_factory=lambda: np.zeros((0, 1), np.int64))
    fingerprint: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """Examples per language."""
        return dict(zip(self.languages, (self.rows >= 0).sum(axis=0).tolist(), strict=True))

    def with_negatives(self, count: int) -> dict[str, int]:
        """Examples per language that have at least `count` hard negatives."""
        return dict(zip(self.languages, self.negatives[:, count:].sum(axis=1).tolist(), strict=True))

    def check_negatives(self, count: int) -> None:
        """Raises ValueError if no example has the `count` hard negatives that training wants of each."""
        if count and not any(self.with_negatives(count).values()):
            most = int(np.flatnonzero(self.negatives.any(axis=0)).max(initial=0))
            raise ValueError(
                f"data.num_hard_negatives={count} is not possible: the training examples in "
                f"{', '.join(self.languages)} have at most {most} hard negatives each. Set it to {most} or less, or "
                "prepare data with more (docs/data.md lists the columns that hard negatives are read from)."
            )


def scan(records: Iterable[Mapping[str, Any]]) -> PairIndex:
    """Reads every record once.

    Args:
      records: training pairs, decoded, in the order of their record numbers.

    Raises:
      ValueError: where a query occurs twice in one language.
    """
    examples: dict[str, int] = {}
    passages: dict[str, int] = {}
    languages: dict[str, int] = {}
    numbers, negatives, checksums = array("i"), array("i"), array("Q")
    for record in records:
        numbers.append(examples.setdefault(record["query_id"], len(examples)))
        numbers.append(passages.setdefault(record["passage_id"], len(passages)))
        numbers.append(languages.setdefault(record["language"], len(languages)))
        negatives.append(len(record["negatives"]))
        checksums.append(text_checksum(json.dumps(record, sort_keys=True)))
    example, passage, language = np.array(numbers, np.int32).reshape(-1, 3).T
    rows = np.full((len(examples), len(languages)), -1, np.int32)
    rows[example, language] = np.arange(len(example), dtype=np.int32)
    lost = np.flatnonzero(rows[example, language] != np.arange(len(example)))
    if len(lost):
        raise ValueError(
            f"query_id {list(examples)[example[lost[0]]]!r} occurs twice in language "
            f"{list(languages)[language[lost[0]]]!r}; give every question of a language its own id."
        )
    passage_of = np.empty(len(examples), np.int32)
    passage_of[example] = passage
    counts = np.zeros((len(languages), max(negatives, default=0) + 1), np.int64)
    np.add.at(counts, (language, np.array(negatives, np.int32)), 1)
    fingerprint = checksum([np.frombuffer(checksums, np.uint64)])
    return PairIndex(tuple(languages), rows, passage_of, counts, fingerprint)


def load(builder: tfds.core.DatasetBuilder, split: str) -> PairIndex:
    """Return the index of a prepared split, scanned once and cached beside the data in a hidden file.

    The split is scanned again if a file of the data has another size or time than at the last scan.
    """
    cache = Path(builder.data_path) / f".pair_index-{split}.npz"
    of = json.dumps(stamps(Path(builder.data_path)))
    if cache.exists():
        with np.load(cache) as kept:
            if str(kept["of"]) == of:
                return PairIndex(
                    tuple(kept["languages"].tolist()),
                    kept["rows"],
                    kept["passages"],
                    kept["negatives"],
                    str(kept["fingerprint"]),
                )
    index = scan(schema.scan(builder, split))
    with replaced_file(cache) as partial:
        np.savez(partial, of=np.array(of), **vars(index))
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
    columns = [index.languages.index(code) for code in languages]
    rows = index.rows[:, columns]
    used = (rows >= 0).any(axis=1)
    return PairIndex(tuple(languages), rows[used], index.passages[used], index.negatives[columns], index.fingerprint)
