"""`beir`: any test collection in BEIR layout, from a directory or a zip.

In: `corpus.jsonl` ({"_id", "title", "text"}), `queries.jsonl` ({"_id", "text"}) and `qrels/<split>.tsv` (header
`query-id corpus-id score`), each but the qrels optionally gzipped, directly in `source` or in the only folder inside.
Out: retrieval records; one query split per qrels file. Grades are kept, queries without judgements are dropped, and so
is nothing else: passages without a text stay, because the published measures count them.

Reference: Thakur et al., BEIR, arXiv 2104.08663.
"""

import collections
import dataclasses
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files
from jaxretr.data.sources.files import File

LAYOUT = "corpus.jsonl, queries.jsonl (or .jsonl.gz) and qrels/<split>.tsv"
QRELS_HEADER = ["query-id", "corpus-id", "score"]


@dataclasses.dataclass(kw_only=True)
class BeirConfig(base.SourceConfig):
    """Settings: `source`, the directory or zip; `language` of all its texts."""

    source: str | Path | None = None
    language: str = "en"

    @override
    def validate(self) -> None:
        self.source = base.existing_path(self.source, "source")

    @override
    def label(self) -> str:
        return f"{Path(self.source or '').stem}-{self.language}"


class Beir(base.Source):
    """See the module's docstring."""

    name = "beir"
    config_class = BeirConfig
    features = staticmethod(schema.retrieval_features)
    description = "A test collection in BEIR layout."

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        language = self.builder_config.language
        corpus, queries, qrels_files = locate(self.builder_config.source)
        qrels = {Path(file.name).stem: read_qrels(file) for file in qrels_files}
        judged = {passage for judgements in qrels.values() for grades in judgements.values() for passage in grades}
        return {
            schema.CORPUS_SPLIT: _passages(corpus, judged, language),
            **{split: _queries(queries, judgements, language) for split, judgements in qrels.items()},
        }


def locate(source: Path) -> tuple[File, File, list[File]]:
    """The corpus, the queries and the qrels files.

    Raises:
      ValueError: another layout; says what was found and what was looked for.
    """
    root: File = source
    if source.is_file():
        if not zipfile.is_zipfile(source):
            raise ValueError(f"source={str(source)!r} is neither a directory nor a zip; expected {LAYOUT}.")
        root = zipfile.Path(source)
    entries: dict[str, File] = {
        entry.name: entry for entry in root.iterdir() if not entry.name.startswith((".", "__MACOSX"))
    }
    if len(entries) == 1 and (only := next(iter(entries.values()))).is_dir():
        entries = {entry.name: entry for entry in only.iterdir()}
    corpus = entries.get("corpus.jsonl") or entries.get("corpus.jsonl.gz")
    queries = entries.get("queries.jsonl") or entries.get("queries.jsonl.gz")
    qrels = entries.get("qrels")
    judgements: list[File] = [*qrels.iterdir()] if qrels and qrels.is_dir() else []
    judgements = sorted((file for file in judgements if file.name.endswith(".tsv")), key=lambda file: file.name)
    if not corpus or not queries or not judgements:
        found = ", ".join(sorted(entries)) or "nothing"
        raise ValueError(f"source={str(source)!r} is not in BEIR layout: looked for {LAYOUT}, found {found}.")
    return corpus, queries, judgements


def read_qrels(file: File) -> dict[str, dict[str, int]]:
    """Judgements by query id and passage id.

    Raises:
      ValueError: no header, a row that is no judgement, or two different grades for one pair.
    """
    rows = files.table(file, columns=3)
    _, header = next(rows, (1, []))
    if header != QRELS_HEADER:
        raise ValueError(f"{file}, line 1: expected the header {' '.join(QRELS_HEADER)!r}, found {' '.join(header)!r}.")
    qrels: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for number, (query, passage, score) in rows:
        grade = files.integer(score, file, number)
        if qrels[query].setdefault(passage, grade) != grade:
            raise ValueError(
                f"{file}, line {number}: query {query!r} and passage {passage!r} were judged differently before."
            )
    return dict(qrels)


def _passages(file: File, judged: Collection[str], language: str) -> Iterator[dict[str, Any]]:
    unseen = set(judged)
    for number, record in files.json_lines(file):
        key = files.field(record, "_id", file, number)
        unseen.discard(key)
        yield schema.retrieval_record(key, language, record.get("text") or "", title=record.get("title") or "")
    _check_all_seen(unseen, "passages", file)


def _queries(file: File, qrels: Mapping[str, Mapping[str, int]], language: str) -> Iterator[dict[str, Any]]:
    unseen = set(qrels)
    for number, record in files.json_lines(file):
        key = files.field(record, "_id", file, number)
        if key in qrels:
            unseen.discard(key)
            relevant = {f"{language}:{passage}": grade for passage, grade in qrels[key].items()}
            yield schema.retrieval_record(key, language, files.field(record, "text", file, number), relevant=relevant)
    _check_all_seen(unseen, "queries", file)


def _check_all_seen(unseen: Collection[str], what: str, file: File) -> None:
    if unseen:
        some = ", ".join(sorted(unseen)[:5])
        raise ValueError(
            f"{len(unseen)} {what} in qrels are not in {file}, such as {some}: do the files belong together?"
        )
