"""Read the passages of a prepared corpus from disk on demand.

Input: a prepared builder of retrieval records (`jaxretr.data.schema`). Output: `StoredPassages`, which hold the ids and
languages of a corpus in memory (about 80 bytes per passage) and read texts on access.
"""

import json
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, overload, override

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt64
from rich.progress import track

from jaxretr.data import schema
from jaxretr.data.sources import files
from jaxretr.files import replaced_file
from jaxretr.fingerprint import stamps, text_checksum
from jaxretr.types import Passage, PassageStore

_CHUNK = 1024  # passages read at once
_INDEX = ".passages.parquet"  # a hidden file does not count as content of the directory
_INDEXED = b"indexed files"


class StoredPassages(PassageStore):
    """The passages of a corpus in corpus order: all of them, or the passages in some languages.

    Args:
      records: records of the corpus.
      rows: record number of each passage.
      ids: id of each passage.
      languages: language of each passage.
      blank: ids of the passages that have neither a title nor a text.
      index: file with the checksum of each record.
    """

    def __init__(
        self,
        records: schema.Records,
        rows: Int[np.ndarray, " passages"],
        ids: Sequence[str],
        languages: Sequence[str],
        blank: Sequence[str],
        index: Path,
    ):
        self._records, self._rows, self._index = records, rows, index
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

    @override
    def checksums(self) -> UInt64[np.ndarray, " passages"]:
        kept = pyarrow.parquet.read_table(self._index, columns=["checksum"])["checksum"]
        return kept.to_numpy()[self._rows]

    def select(self, languages: Collection[str]) -> "StoredPassages":
        """Return the passages in the given languages, in corpus order."""
        return self.select_rows([i for i, language in enumerate(self._languages) if language in languages])

    @override
    def select_rows(self, indices: Sequence[int]) -> "StoredPassages":
        """Return the passages at ascending `indices`; their texts stay on disk."""
        if len(indices) == len(self):
            return self
        ids, languages = ([column[i] for i in indices] for column in (self._ids, self._languages))
        known = set(ids)
        blank = [id for id in self.blank if id in known]
        rows = self._rows[np.array(indices, np.int64)]
        return StoredPassages(self._records, rows, ids, languages, blank, self._index)

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
    """Return the corpus of a prepared builder. The ids are scanned once and cached beside the data.

    The corpus is scanned again if the size or the modification time of a data file has changed since the last scan.
    """
    records = schema.Records(builder, schema.CORPUS_SPLIT)
    cache = Path(builder.data_path) / _INDEX
    data_stamps = json.dumps(stamps(Path(builder.data_path))).encode()
    if not cache.exists() or (pyarrow.parquet.read_schema(cache).metadata or {}).get(_INDEXED) != data_stamps:
        scanned = _scan(records).replace_schema_metadata({_INDEXED: data_stamps})
        with replaced_file(cache) as partial:
            pyarrow.parquet.write_table(scanned, partial)
    index = pyarrow.parquet.read_table(cache, columns=["id", "language", "blank"])
    # All passages of a language share one string.
    languages = [sys.intern(language) for language in index["language"].to_pylist()]
    blank = index["id"].filter(index["blank"]).to_pylist()
    return StoredPassages(records, np.arange(len(index)), index["id"].to_pylist(), languages, blank, cache)


def _scan(records: schema.Records) -> pyarrow.Table:
    ids, languages, blank, checksums = [], [], [], array("Q")
    for record in track(
        records,
        "Indexing passages",
        total=len(records),
        transient=True,
        console=files.CONSOLE,
        disable=not files.CONSOLE.is_terminal,
    ):
        ids.append(f"{record['language']}:{record['key']}")
        checksums.append(text_checksum(ids[-1], record["title"], record["text"]))
        languages.append(record["language"])
        blank.append(not (record["title"] + record["text"]).strip())
    return pyarrow.table(
        {"id": ids, "language": languages, "blank": blank, "checksum": np.frombuffer(checksums, np.uint64)}
    )
