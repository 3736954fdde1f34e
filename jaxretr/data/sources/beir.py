"""`beir`: any test collection in BEIR layout, from a directory or a zip.

Input: `corpus.jsonl` ({"_id", "title", "text"}), `queries.jsonl` ({"_id", "text"}) and `qrels/<split>.tsv` (header
`query-id corpus-id score`), in `source` or in the only folder inside it. Corpus and queries may be gzipped. Output:
retrieval records, with one query split per qrels file. Grades are kept, and queries without judgements are dropped.
Passages without a text are kept, because published measures count them.

Reference: Thakur et al., BEIR, arXiv 2104.08663.
"""

import dataclasses
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files, judged
from jaxretr.data.sources.files import File

LAYOUT = "corpus.jsonl, queries.jsonl (or .jsonl.gz) and qrels/<split>.tsv"
QRELS_HEADER = ["query-id", "corpus-id", "score"]


@dataclasses.dataclass(kw_only=True)
class BeirConfig(base.SourceConfig):
    """Settings: `source`, the directory or zip; `language`, the language of all texts."""

    source: str | Path | None = None
    language: str = "en"

    @override
    def validate(self) -> None:
        base.check_language(self.language, "language")
        self.source = base.existing_path(self.source, "source")

    @override
    def label(self) -> str:
        return f"{Path(self.source or '').stem}-{self.language}"


class Beir(base.Source):
    """The builder of `beir`; see the module docstring."""

    name = "beir"
    config_class = BeirConfig
    features = staticmethod(schema.retrieval_features)
    description = "A test collection in BEIR layout."

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        return judged.records({self.builder_config.language: part(self.builder_config.source)})


def part(source: Path) -> judged.LanguageSource:
    """Return the collection in a directory or zip. Raises ValueError if its layout is wrong."""
    corpus, queries, tables = locate(source)
    queries_of_split = {
        Path(table.name).stem: judged.SplitQueries(queries, _query_texts(queries), read_qrels(table))
        for table in tables
    }
    return judged.LanguageSource(corpus, _passage_texts(corpus), queries_of_split)


def locate(source: Path) -> tuple[File, File, list[File]]:
    """Return the corpus, the queries and the qrels files.

    Raises:
      ValueError: the layout is wrong; the message says what was expected and what was found.
    """
    root: File = source
    if source.is_file():
        files.check_fetched(source)
        if not zipfile.is_zipfile(source):
            raise ValueError(f"source={str(source)!r} is neither a directory nor a zip; expected {LAYOUT}.")
        root = zipfile.Path(source)
    entries: dict[str, File] = {entry.name: entry for entry in files.visible(root)}
    if len(entries) == 1 and (only := next(iter(entries.values()))).is_dir():
        entries = {entry.name: entry for entry in files.visible(only)}
    corpus = entries.get("corpus.jsonl") or entries.get("corpus.jsonl.gz")
    queries = entries.get("queries.jsonl") or entries.get("queries.jsonl.gz")
    qrels = entries.get("qrels")
    judgements: list[File] = files.visible(qrels) if qrels and qrels.is_dir() else []
    judgements = [file for file in judgements if file.name.endswith(".tsv")]
    if not corpus or not queries or not judgements:
        names = ", ".join(sorted(entries)) or "nothing"
        raise ValueError(f"source={str(source)!r} is not in BEIR layout: looked for {LAYOUT}, found {names}.")
    return corpus, queries, judgements


def read_qrels(file: File) -> judged.Qrels:
    """Return the judgements by query id and passage id.

    Raises:
      ValueError: the header is missing, a row is not a judgement, or one pair has two different grades.
    """
    rows = files.table(file, columns=3)
    _, header = next(rows, (1, []))
    if header != QRELS_HEADER:
        raise ValueError(f"{file}, line 1: expected the header {' '.join(QRELS_HEADER)!r}, found {' '.join(header)!r}.")
    qrels: judged.Qrels = {}
    for number, (query, passage, score) in rows:
        judged.add_judgement(qrels, query, passage, score, file, number)
    return qrels


def _passage_texts(file: File) -> Iterator[tuple[str, str, str]]:
    for number, record in files.json_lines(file):
        title = files.text(record, "title", file, number) if "title" in record else ""
        yield files.field(record, "_id", file, number), title, files.text(record, "text", file, number)


def _query_texts(file: File) -> Iterator[tuple[int, str, str]]:
    for number, record in files.json_lines(file):
        yield number, files.field(record, "_id", file, number), files.text(record, "text", file, number)
