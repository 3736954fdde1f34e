"""Index training examples by language.

Input: training pairs (`jaxretr.data.schema`). Output: a `PairIndex` of integer arrays, from which hybrid batches are
planned. It takes 4 bytes per example and language, so it fits into memory even if the texts do not.
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
    """Record numbers of training examples in each language, with the number of hard negatives and a checksum.

    Attributes:
      languages: names of the columns of `rows`.
      rows: record number of example e in language l; -1 if the example does not exist in the language.
      passages: index of the passage that answers example e. All examples with this passage have the same index, in
        every language.
      negatives: histogram; row l, column n is the number of examples in language l with exactly n hard negatives.
      fingerprint: checksum of all records of the split, in every language.
    """

    languages: tuple[str, ...]
    rows: Int[np.ndarray, "examples languages"]
    passages: Int[np.ndarray, "examples"]
    negatives: Int[np.ndarray, "_ counts"] = field(default_factory=lambda: np.zeros((0, 1), np.int64))
    fingerprint: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of examples per language."""
        return dict(zip(self.languages, (self.rows >= 0).sum(axis=0).tolist(), strict=True))

    def with_negatives(self, count: int) -> dict[str, int]:
        """Return the number of examples per language that have at least `count` hard negatives."""
        return dict(zip(self.languages, self.negatives[:, count:].sum(axis=1).tolist(), strict=True))

    def check_negatives(self, count: int) -> None:
        """Raise ValueError if no example has at least `count` hard negatives."""
        if count and not any(self.with_negatives(count).values()):
            most = int(np.flatnonzero(self.negatives.any(axis=0)).max(initial=0))
            raise ValueError(
                f"data.num_hard_negatives={count} is too high: the training examples in "
                f"{', '.join(self.languages)} have at most {most} hard negatives each. Set it to {most} or less, or "
                "prepare data with more (docs/data.md lists the columns that hard negatives are read from)."
            )


def scan(records: Iterable[Mapping[str, Any]]) -> PairIndex:
    """Build the index; every record is read once.

    Args:
      records: decoded training pairs, in the order of their record numbers.

    Raises:
      ValueError: a query id occurs twice in one language.
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
    repeated = np.flatnonzero(rows[example, language] != np.arange(len(example)))
    if len(repeated):
        raise ValueError(
            f"query_id {list(examples)[example[repeated[0]]]!r} occurs twice in language "
            f"{list(languages)[language[repeated[0]]]!r}; give every question of a language its own id."
        )
    passage_of = np.empty(len(examples), np.int32)
    passage_of[example] = passage
    counts = np.zeros((len(languages), max(negatives, default=0) + 1), np.int64)
    np.add.at(counts, (language, np.array(negatives, np.int32)), 1)
    fingerprint = checksum([np.frombuffer(checksums, np.uint64)])
    return PairIndex(tuple(languages), rows, passage_of, counts, fingerprint)


def load(builder: tfds.core.DatasetBuilder, split: str) -> PairIndex:
    """Return the index of a prepared split, scanned once and cached beside the data in a hidden file.

    The split is scanned again if the size or the modification time of a data file has changed since the last scan.
    """
    cache = Path(builder.data_path) / f".pair_index-{split}.npz"
    data_stamps = json.dumps(stamps(Path(builder.data_path)))
    if cache.exists():
        with np.load(cache) as kept:
            if str(kept["of"]) == data_stamps:
                return PairIndex(
                    tuple(kept["languages"].tolist()),
                    kept["rows"],
                    kept["passages"],
                    kept["negatives"],
                    str(kept["fingerprint"]),
                )
    index = scan(schema.scan(builder, split))
    with replaced_file(cache) as partial:
        np.savez(partial, of=np.array(data_stamps), **vars(index))
    return index


def select(index: PairIndex, languages: Sequence[str]) -> PairIndex:
    """Return the part of an index in the given languages, in the given order.

    Raises:
      ValueError: the data lacks a language; the message lists the languages it has.
    """
    if missing := [code for code in languages if code not in index.languages]:
        raise ValueError(
            f"The training data has no language {', '.join(missing)}; it has {', '.join(sorted(index.languages))}. "
            "Change data.languages, or prepare data in this language."
        )
    columns = [index.languages.index(code) for code in languages]
    rows = index.rows[:, columns]
    used = (rows >= 0).any(axis=1)
    return PairIndex(tuple(languages), rows[used], index.passages[used], index.negatives[columns], index.fingerprint)
