"""`miracl`: monolingual retrieval in 18 languages, in the published layout.

In: a directory that holds, for each language, two folders:

- `miracl-corpus-v1.0-<language>` with `docs-*.jsonl.gz` (`docid`, `title`, `text`),
- `miracl-v1.0-<language>` with `topics/topics.miracl-v1.0-<language>-<split>.tsv` (question id, text) and
  `qrels/qrels.miracl-v1.0-<language>-<split>.tsv` (TREC).

Out: retrieval records; the query splits are those with qrels (`train`, `dev`). The questions of different languages are
different ones although their ids may coincide, so a question's key is "<language>-<id>". Passages are written as they
are read; only judgements are in memory.

Reference: Zhang et al., MIRACL, TACL 2023, arXiv 2210.09984.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files

SPLITS = ("train", "dev")


@dataclasses.dataclass(kw_only=True)
class MiraclConfig(base.SourceConfig):
    """Settings: `source`, the directory; `languages` by code, all that are there where None."""

    source: str | Path | None = None
    languages: Sequence[str] | None = None

    @override
    def validate(self) -> None:
        source = self.source = base.existing_path(self.source, "source")
        there = {match[1] for path in source.iterdir() if (match := re.fullmatch(r"miracl-v1\.0-(\w+)", path.name))}
        there = {language for language in there if any(_corpus(source, language))}
        if not there or set(self.languages or ()) - there:
            raise FileNotFoundError(
                f"source={str(source)!r}: looked for the folders miracl-v1.0-<language> and "
                f"miracl-corpus-v1.0-<language>/docs-*.jsonl.gz of {', '.join(self.languages or ('any language',))}; "
                f"both are there for {', '.join(sorted(there)) or 'no language'}."
            )
        self.languages = tuple(sorted(set(self.languages or there)))

    @override
    def label(self) -> str:
        return "-".join(self.languages or ())


class Miracl(base.Source):
    """See the module's docstring."""

    name = "miracl"
    config_class = MiraclConfig
    features = staticmethod(schema.retrieval_features)
    description = "Wikipedia passages and native speakers' questions in 18 languages."
    homepage = "https://project-miracl.github.io"

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        source, languages = self.builder_config.source, self.builder_config.languages
        splits = [split for split in SPLITS if any(_query_files(source, lang, split)[1].exists() for lang in languages)]
        if not splits:
            raise FileNotFoundError(
                f"source={str(source)!r} has no {_query_files(source, languages[0], 'dev')[1].name}."
            )
        return {
            schema.CORPUS_SPLIT: _passages(source, languages),
            **{split: _queries(source, languages, split) for split in splits},
        }


def _passages(source: Path, languages: Iterable[str]) -> Iterator[dict[str, Any]]:
    for language in languages:
        for file in _corpus(source, language):
            for number, record in files.json_lines(file):
                key = files.field(record, "docid", file, number)
                yield schema.retrieval_record(key, language, record.get("text") or "", title=record.get("title") or "")


def _queries(source: Path, languages: Iterable[str], split: str) -> Iterator[dict[str, Any]]:
    for language in languages:
        topics, judgements = _query_files(source, language, split)
        if not judgements.exists():
            continue
        qrels: dict[str, dict[str, int]] = collections.defaultdict(dict)
        for number, (query, _, passage, grade) in files.table(judgements, columns=4, separator=None):
            qrels[query][f"{language}:{passage}"] = files.integer(grade, judgements, number)
        for _, (query, text) in files.table(topics, columns=2):
            if query in qrels:
                yield schema.retrieval_record(f"{language}-{query}", language, text, relevant=qrels[query])


def _corpus(source: Path, language: str) -> list[Path]:
    return sorted((source / f"miracl-corpus-v1.0-{language}").glob("docs-*.jsonl.gz"))


def _query_files(source: Path, language: str, split: str) -> tuple[Path, Path]:
    folder, name = source / f"miracl-v1.0-{language}", f"miracl-v1.0-{language}-{split}.tsv"
    return folder / f"topics/topics.{name}", folder / f"qrels/qrels.{name}"
