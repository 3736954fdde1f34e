"""A prepared corpus as passages that stay on disk.

In: a prepared builder of retrieval records (`jaxretr.data.schema`). Out: `StoredPassages`, which hold a corpus' ids and
languages (about 80 bytes a passage) and read its texts when they are asked for.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, overload, override

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds
from jaxtyping import Int
from rich.progress import track

from jaxretr.data import schema
from jaxretr.data.sources import files
from jaxretr.files import replaced_file
from jaxretr.types import Passage, PassageStore

_CHUNK = 1024  # passages read at once


class StoredPassages(PassageStore):
    """Passages in the order of the corpus; all of them or those of some languages.

    Args:
      records: the corpus.
      rows: the record number of each passage.
      ids: the id of each passage.
      languages: the language of each passage.
      blank: ids of those that have neither a title nor a text.
    """

    def __init__(
        self,
        records: schema.Records,
        rows: Int[np.ndarray, " passages"],
        ids: Sequence[str],
        languages: Sequence[str],
        blank: Sequence[str],
    ):
        self._records, self._rows = records, rows
        self._ids, self._languages, self.blank = ids, languages, blank

    @property
    @override
    def ids(self) -> Sequence[str]:
        return self._ids

    @property
    @override
    def languages(self) -> Sequence[str]:
        return self._languages

    @override
    def take(self, indices: Iterable[SupportsIndex]) -> list[Passage]:
        rows = self._rows[np.fromiter(map(int, indices), np.int64)]
        return [_passage(record) for record in self._records.take(rows.tolist())]

    def select(self, languages: Collection[str]) -> "StoredPassages":
        """The passages in some of the languages, in the same order."""
        kept = np.flatnonzero([language in languages for language in self._languages])
        if len(kept) == len(self):
            return self
        ids, of = ([column[i] for i in kept.tolist()] for column in (self._ids, self._languages))
        blank = [id for id in self.blank if id.partition(":")[0] in languages]
        return StoredPassages(self._records, self._rows[kept], ids, of, blank)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Passage]:
        for start in range(0, len(self), _CHUNK):
            yield from self.take(range(start, min(start + _CHUNK, len(self))))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    @override
    def __getitem__(self, index: SupportsIndex | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return _passage(self._records[int(self._rows[index])])


def _passage(record: Mapping[str, Any]) -> Passage:
    return Passage(record["key"], record["language"], record["text"], record["title"])


def load(builder: tfds.core.DatasetBuilder) -> StoredPassages:
    """The corpus of a prepared builder, scanned once for its ids, which are kept beside the data (it never changes)."""
    records = schema.Records(builder, schema.CORPUS_SPLIT)
    cache = Path(builder.data_path) / "passages.parquet"
    if not cache.exists():
        index = _index(records)
        with replaced_file(cache) as partial:
            pyarrow.parquet.write_table(index, partial)
    index = pyarrow.parquet.read_table(cache)
    # One string for all passages of a language, not one for each.
    languages = [sys.intern(language) for language in index["language"].to_pylist()]
    blank = index["id"].filter(index["blank"]).to_pylist()
    return StoredPassages(records, np.arange(len(index)), index["id"].to_pylist(), languages, blank)


def _index(records: schema.Records) -> pyarrow.Table:
    ids, languages, blank = [], [], []
    for record in track(
        records,
        "Indexing passages",
        total=len(records),
        transient=True,
        console=files.CONSOLE,
        disable=not files.CONSOLE.is_terminal,
    ):
        ids.append(f"{record['language']}:{record['key']}")
        languages.append(record["language"])
        blank.append(not (record["title"] + record["text"]).strip())
    return pyarrow.table({"id": ids, "language": languages, "blank": blank})
