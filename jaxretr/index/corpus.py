"""Corpora as files: a path comes in, passages in their order go out, one after the other.

| path | layout |
|---|---|
| `*.jsonl`, `*.jsonl.gz` | BEIR's: `{"_id", "text", "title"?, "language"?, "metadata"?}` |
| `*.parquet`, or a folder of them | the same columns; any further column is metadata |
| a folder with `dataset_info.json` | a prepared test collection (TFDS, see docs/data.md) |
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import files, parquet
from jaxretr.index.types import UNKNOWN_LANGUAGE, IndexedPassage, MetadataValue
from jaxretr.tokenization import clean_text

_TEXTS = {"_id": "id", "id": "id", "text": "text", "title": "title", "language": "language", "lang": "language"}
_TFDS = "dataset_info.json"


def read_corpus(path: Path, *, language: str = UNKNOWN_LANGUAGE) -> Iterator[IndexedPassage]:
    """The passages of a corpus.

    Args:
      path: see above.
      language: of the passages that do not say theirs.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: for another layout, or a passage without id or text; names file and line.
    """
    if not path.exists():
        raise FileNotFoundError(f"no corpus at {path}; expected a .jsonl or .parquet file, or a folder of the latter")
    if path.is_dir() and (path / _TFDS).exists():
        yield from _from_tfds(path)
    elif path.is_dir() or path.suffix == ".parquet":
        entries = files.visible(path) if path.is_dir() else [path]
        for file in (entry for entry in entries if entry.suffix == ".parquet"):
            for number, row in parquet.rows(file):
                yield _passage(row, f"{file}, row {number}", language, others_are_metadata=True)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, row in files.json_lines(path):
            yield _passage(row, f"{path}, line {number}", language, others_are_metadata=False)
    else:
        raise ValueError(f"{path} is no corpus; expected .jsonl, .jsonl.gz, .parquet, or a folder of .parquet files")


def make_passage(
    *, id: Any, text: Any, title: Any = "", language: Any = UNKNOWN_LANGUAGE, metadata: Any = None, where: str
) -> IndexedPassage:
    """A passage of values from outside, checked.

    Args:
      where: names the passage in errors.

    Raises:
      ValueError: an id or language that is no text or empty, texts that are none, or metadata that is not flat.
    """
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)  # as some published corpora have them
    for name, value in (("id", id), ("language", language)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {name} is {_short(value)}; expected a text that is not empty")
    for name, value in (("text", text), ("title", title)):
        if not isinstance(value, str):
            raise ValueError(f"{where}: {name} is {_short(value)}; expected a text")
    if not isinstance(metadata or {}, Mapping):
        raise ValueError(f"{where}: metadata is {_short(metadata)}; expected an object")
    flat = {key: value for key, value in (metadata or {}).items() if value is not None}
    for key, value in flat.items():
        if not isinstance(value, MetadataValue) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(
                f"{where}: metadata {key!r} is {_short(value)}; expected a text, a finite number, true or false"
            )
    kept = {clean_text(key): clean_text(value) if isinstance(value, str) else value for key, value in flat.items()}
    return IndexedPassage(clean_text(id), clean_text(text), clean_text(title), clean_text(language), kept)


def _passage(row: Mapping[str, Any], where: str, language: str, others_are_metadata: bool) -> IndexedPassage:
    known = {name: row[column] for column, name in _TEXTS.items() if row.get(column) is not None}
    missing = [name for name in ("id", "text") if name not in known]
    if missing:
        raise ValueError(f"{where}: no {' and no '.join(missing)}; expected _id and text, found {', '.join(row)}")
    metadata = row.get("metadata") or {}
    if others_are_metadata:
        metadata = {key: value for key, value in row.items() if key not in _TEXTS and key != "metadata"} | metadata
    return make_passage(**({"language": language} | known), metadata=metadata, where=where)


def _from_tfds(directory: Path) -> Iterator[IndexedPassage]:
    builder = tfds.builder_from_directory(directory)
    if "relevances" not in builder.info.features:
        raise ValueError(f"{directory} holds training pairs, no corpus; expected a test collection (docs/data.md)")
    for record in schema.scan(builder, schema.CORPUS_SPLIT):
        language, key = record["language"], record["key"]
        yield IndexedPassage(f"{language}:{key}", record["text"], record["title"], language)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
