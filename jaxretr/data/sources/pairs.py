"""`pairs`: training pairs of one's own, as JSON lines (gzipped or not) or parquet.

In: a file, or a folder of files named `<split>.jsonl`, `<split>-<language>.jsonl`, `.jsonl.gz` or `.parquet` with the
splits `train`, `validation` and `test`. Out: training pairs. Three layouts are told apart by their columns:

| layout | question | answer | hard negatives |
|---|---|---|---|
| sentence-transformers | `query` or `anchor` | `passage` or `positive` | `negative_1` ... `negative_n` or `negative` |
| FlagEmbedding | `query` | `pos` (list) | `neg` (list) |
| Tevatron | `query` | `positive_passages` (list of `{title, text}`) | `negative_passages` (the same) |

Each answer of a question makes a record. Optional columns: `language` (else the file name's, else the setting), `id`
(Tevatron's `query_id`): equal ids in different languages are translations; without one, questions are numbered by file
and line. `passage_id`: else the id, or where there is none a hash of the passage. Titles are joined to texts.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, override

import pyarrow.parquet
import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files

NAME = re.compile(r"(?P<split>train|validation|test)(-(?P<language>[A-Za-z0-9_-]+))?\.(jsonl|jsonl\.gz|parquet)")
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclasses.dataclass(kw_only=True)
class PairsConfig(base.SourceConfig):
    """Settings: `source`, the file or folder; `language` of records that do not say theirs."""

    source: str | Path | None = None
    language: str = "en"

    @override
    def validate(self) -> None:
        self.source = base.existing_path(self.source, "source")

    @override
    def label(self) -> str:
        return f"{Path(self.source or '').name.split('.')[0]}-{self.language}"


class Pairs(base.Source):
    """See the module's docstring."""

    name = "pairs"
    config_class = PairsConfig
    features = staticmethod(schema.pair_features)
    description = "Training pairs from JSON lines or parquet."

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        config = self.builder_config
        return {split: _records(found, config.language) for split, found in locate(config.source).items()}


def locate(source: Path) -> dict[str, list[tuple[Path, str | None]]]:
    """The files of each split, each with the language in its name. A single file of another name is the train split.

    Raises:
      ValueError: a data file whose name says no split, or no data file at all.
    """
    if source.is_file() and source.name.endswith(SUFFIXES):
        match = NAME.fullmatch(source.name)
        return {match["split"] if match else "train": [(source, match and match["language"])]}
    data = [path for path in sorted(source.iterdir()) if path.name.endswith(SUFFIXES)] if source.is_dir() else []
    splits: dict[str, list[tuple[Path, str | None]]] = {}
    for path in data:
        match = NAME.fullmatch(path.name)
        if not match:
            raise ValueError(f"{path}: name the file train, validation or test, optionally with -<language>.")
        splits.setdefault(match["split"], []).append((path, match["language"]))
    if not splits:
        raise ValueError(f"source={str(source)!r}: looked for files ending in {', '.join(SUFFIXES)}, found none.")
    return splits


def _records(paths: list[tuple[Path, str | None]], default_language: str) -> Iterator[dict[str, Any]]:
    for path, language in paths:
        for number, row in _rows(path):
            yield from _pairs(row, path, number, language or default_language)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix != ".parquet":
        yield from files.json_lines(path)
        return
    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: value for name, value in row.items() if value is not None}


def _pairs(row: dict[str, Any], path: Path, number: int, language: str) -> Iterator[dict[str, Any]]:
    """One record per answer of a row, whichever its layout."""
    query = files.field(row, "query" if "query" in row else "anchor", path, number)
    if "positive_passages" in row:
        answers, negatives = row["positive_passages"], row.get("negative_passages") or []
    elif "pos" in row:
        answers, negatives = row["pos"], row.get("neg") or []
    else:
        answers = [files.field(row, "passage" if "passage" in row else "positive", path, number)]
        columns = sorted((c for c in row if re.fullmatch(r"negative_\d+", c)), key=lambda c: int(c.partition("_")[2]))
        negatives = [row[column] for column in columns] or row.get("negative") or []
        negatives = [negatives] if isinstance(negatives, str) else negatives
    texts = [_text(answer, path, number) for answer in answers]
    if not texts:
        raise ValueError(f"{path}, line {number}: the question has no answer.")

    key = row.get("id", row.get("query_id"))
    for place, text in enumerate(texts):
        suffix = f"+{place}" if place else ""
        passage_id = row.get("passage_id", key)
        yield schema.pair_record(
            f"{path.name.partition('.')[0]}:{number}{suffix}" if key is None else f"{key}{suffix}",
            hashlib.sha256(text.encode()).hexdigest()[:16] if passage_id is None else f"{passage_id}{suffix}",
            str(row.get("language", language)),
            query,
            text,
            [_text(negative, path, number) for negative in negatives],
        )


def _text(passage: Any, path: Path, number: int) -> str:
    """A passage given as a string or as {title, text}."""
    if isinstance(passage, dict):
        passage = f"{passage.get('title') or ''} {passage.get('text') or ''}".strip()
    if not isinstance(passage, str) or not passage:
        raise ValueError(f"{path}, line {number}: expected a passage that is not empty, found {passage!r}.")
    return passage
