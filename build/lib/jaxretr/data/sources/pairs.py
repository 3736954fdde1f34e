"""`pairs`: a user's own training pairs, as JSON lines (gzipped or not) or parquet.

Input: a file, or a folder of files named by split, language and shard (`jaxretr.data.sources.split_files`), with rows
in one of the layouts of `jaxretr.data.sources.pair_rows`. Output: training pairs.

Each answer of a question becomes a record. A question is identified by its id (`query_id`, `qid` or `id`) or, without
an id, by its text. Its answers may be in one row or in several. Equal ids in different languages are translations. A
passage is identified by its id (`passage_id`, or the passage's `docid`) or, without an id, by its text. The language of
a row is its `language`; if it has none, the language in the file name; otherwise the setting. Titles are joined to
texts.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files, pair_rows, parquet, split_files
from jaxretr.data.sources.pair_rows import PairRow
from jaxretr.data.sources.split_files import DataFile


@dataclasses.dataclass(kw_only=True)
class PairsConfig(base.SourceConfig):
    """Settings: `source`, the file or folder; `language`, the language of records that do not name theirs."""

    source: str | Path | None = None
    language: str = "en"

    @override
    def validate(self) -> None:
        self.source = base.existing_path(self.source, "source")
        pair_rows.check_language(self.language, "language")

    @override
    def label(self) -> str:
        return f"{Path(self.source or '').name.split('.')[0]}-{self.language}"


class Pairs(base.Source):
    """The builder of `pairs`; see the module docstring."""

    name = "pairs"
    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 ignored the ids of questions and passages
    config_class = PairsConfig
    features = staticmethod(schema.own_pair_features)
    description = "Training pairs from JSON lines or parquet."

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        config = self.builder_config
        unread: set[str] = set()
        return {
            split: _records(data_files, split, config.language, unread)
            for split, data_files in split_files.locate(config.source).items()
        }


def _records(
    data_files: list[DataFile], split: str, default_language: str, unread: set[str]
) -> Iterator[dict[str, Any]]:
    """Yield the records of a split. Columns that are not read are reported once; `unread` collects them over splits."""
    seen = _Questions()
    new: set[str] = set()
    for file in data_files:
        for number, row in _rows(file.path, new):
            pair = pair_rows.read(row, file.path, number)
            if split == schema.TRAIN_SPLIT and not pair.query.strip():  # `load_collection` checks other splits
                raise ValueError(f"{file.path}, line {number}: the query has no text, only white space.")
            new |= pair.unread
            yield from _pairs(pair, f"{file.name}:{number}", pair.language or file.language or default_language, seen)
    if new := new - unread:
        unread |= new
        files.CONSOLE.print(
            f"pairs: ignored columns: {', '.join(sorted(new))} ({split})", highlight=False, soft_wrap=True
        )


def _rows(path: Path, unread: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file; add columns of a parquet file that are not read to `unread`."""
    if path.suffix != ".parquet":
        yield from files.json_lines(path)
        return
    unread |= {name for name in parquet.column_names(path) if not pair_rows.is_known(name)}
    yield from parquet.rows(path, pair_rows.is_known)


def _pairs(pair: PairRow, place: str, language: str, seen: "_Questions") -> Iterator[dict[str, Any]]:
    """Yield one record per answer."""
    for number, (docid, text) in enumerate(pair.answers):
        if pair.question_id is None:
            key, query_suffix, passage_suffix = place, _suffix(number), _suffix(number)
            passage_key = _digest(text)[:16]
        else:
            answer, first = seen.add(pair.question_id, language, pair.query, text)
            key, query_suffix, passage_suffix = pair.question_id, _suffix(answer), _suffix(first)
            passage_key = f"{key}{passage_suffix}"
        if pair.passage_id is not None:
            docid = f"{pair.passage_id}{_suffix(number)}"
        yield schema.own_pair_record(
            f"{key}{query_suffix}",
            docid or passage_key,
            language,
            pair.query,
            text,
            pair.negatives,
            question_id=pair.question_id or "",
            docid=docid or "",
        )


class _Questions:
    """The answers seen so far of every question with an id, for a whole split: about 200 bytes per question."""

    def __init__(self) -> None:
        self._answers: dict[bytes, list[bytes]] = {}

    def add(self, key: str, language: str, query: str, answer: str) -> tuple[int, int]:
        """Return the position of an answer among its question's answers, and the position of the first equal answer."""
        answers = self._answers.setdefault(_digest(f"{language}:{key}", query)[:8].encode(), [])
        answers.append(_digest(answer)[:8].encode())
        return len(answers) - 1, answers.index(answers[-1])


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _suffix(place: int) -> str:
    return f"+{place}" if place else ""
