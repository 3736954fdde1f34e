"""The two kinds of records in prepared datasets, and the functions that write and read them.

This module defines the TFDS features of *training pairs* and *retrieval records* and builds such records. `decode` and
`Records` turn the bytes that ArrayRecord returns back into strings.

Training pairs (`libreoffice_help`, `pairs`, `mmarco`; splits `train`, `validation` and `test`, if the dataset has
them). A record is one query in one language with a passage that answers it. `query_id` and `passage_id` are keys
without a language. Translations share both keys, so records with the same `query_id` are parallel examples. Several
queries may have the same passage. In `pairs`, a question with several answers has several records, each with its own
`query_id`; `question_id` and `docid` then say which records are one question or one passage.

Retrieval records (`lareqa`, `beir`, `parallel_beir`, `miracl`, `mrtydi`). The split `corpus` holds the passages; the
other splits hold queries. A passage id is `"{language}:{key}"`. The `relevant_ids` of a query are passage ids, in every
language.

A lone surrogate, which JSON can represent and UTF-8 cannot, is written as U+FFFD.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from jaxretr.tokenization import clean_text

CORPUS_SPLIT = "corpus"
TRAIN_SPLIT = "train"
_CHUNK = 1024  # records read at once in a scan


def pair_features() -> tfds.features.FeaturesDict:
    """Return the features of a training pair."""
    return tfds.features.FeaturesDict(
        {
            "query_id": tfds.features.Text(doc="Key of the question, shared by its translations."),
            "passage_id": tfds.features.Text(doc="Key of the answering passage, shared by its translations."),
            "language": tfds.features.Text(doc="Language of query, passage and negatives."),
            "query": tfds.features.Text(),
            "passage": tfds.features.Text(),
            "negatives": tfds.features.Sequence(tfds.features.Text(), doc="Hard negatives, best first."),
        }
    )


def own_pair_features() -> tfds.features.FeaturesDict:
    """Return the features of a training pair from a user's own data (`pairs`)."""
    identifiers = {
        "question_id": tfds.features.Text(doc="Id of the question; if empty, its text identifies it."),
        "docid": tfds.features.Text(doc="Id of the passage; if empty, its text identifies it."),
    }
    return tfds.features.FeaturesDict({**pair_features(), **identifiers})


def retrieval_features() -> tfds.features.FeaturesDict:
    """Return the features of a passage (split `corpus`) or a query (any other split) of a test collection."""
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(doc="Key of the passage or question, shared by its translations."),
            "language": tfds.features.Text(),
            "title": tfds.features.Text(doc="Title of a passage; empty for queries."),
            "text": tfds.features.Text(),
            "relevant_ids": tfds.features.Sequence(tfds.features.Text(), doc="Judged passages as 'language:key'."),
            "relevances": tfds.features.Sequence(np.int32, doc="Grade of each judged passage; positive is relevant."),
        }
    )


def pair_record(
    query_id: str, passage_id: str, language: str, query: str, passage: str, negatives: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a training pair as a record to write."""
    return {
        "query_id": query_id,
        "passage_id": passage_id,
        "language": language,
        "query": clean_text(query),
        "passage": clean_text(passage),
        "negatives": [clean_text(negative) for negative in negatives],
    }


def own_pair_record(*values: Any, question_id: str, docid: str) -> dict[str, Any]:
    """Return a training pair from a user's own data as a record to write; for `values`, see `pair_record`."""
    return pair_record(*values) | {"question_id": question_id, "docid": docid}


def retrieval_record(
    key: str, language: str, text: str, *, title: str = "", relevant: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return a passage, or a query with its judgements (`relevant`: passage id -> grade), as a record to write."""
    relevant = relevant or {}
    return {
        "key": key,
        "language": language,
        "title": clean_text(title),
        "text": clean_text(text),
        "relevant_ids": list(relevant),
        "relevances": list(relevant.values()),
    }


def decode(record: Mapping[str, Any]) -> dict[str, Any]:
    """Decode a record as returned by `builder.as_data_source(split)[i]`: bytes to strings, arrays to lists."""
    return {name: _decoded(value) for name, value in record.items()}


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return [_decoded(item) for item in value] if isinstance(value, list) else value


class Records:
    """The decoded records of a prepared split, by record number.

    `take` and iteration read many records at once, about three times as fast as single reads.

    Raises:
      ValueError: the dataset has no such split; the message lists its splits.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        if split not in builder.info.splits:
            available = ", ".join(builder.info.splits) or "none"
            raise ValueError(f"{builder.name} has no split {split!r}; it has {available}.")
        self._source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self._features = [
            (name, isinstance(feature, tfds.features.Sequence)) for name, feature in builder.info.features.items()
        ]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._decoded(self._source[row])

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the records with the given numbers, in the given order."""
        return [self._decoded(raw) for raw in self._source.__getitems__(rows)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over all records in stored order."""
        for start in range(0, len(self), _CHUNK):
            yield from self.take(range(start, min(start + _CHUNK, len(self))))

    def _decoded(self, raw: bytes) -> dict[str, Any]:
        stored = tf_example_pb2.Example.FromString(raw).features.feature
        record: dict[str, Any] = {}
        for name, is_list in self._features:
            values = stored[name]
            decoded = [value.decode("utf-8") for value in values.bytes_list.value] or list(values.int64_list.value)
            record[name] = decoded if is_list else decoded[0]
        return record


def scan(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[dict[str, Any]]:
    """Iterate over the decoded records of a split in stored order. Raises ValueError if the dataset lacks the split."""
    return iter(Records(builder, split))
