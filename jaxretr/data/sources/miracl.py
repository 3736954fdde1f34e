"""`miracl`: monolingual retrieval in 18 languages, in the published layout.

Input: a directory that holds two folders per language:

- `miracl-corpus-v1.0-<language>` with `docs-*.jsonl.gz` (`docid`, `title`, `text`),
- `miracl-v1.0-<language>` with `topics/topics.miracl-v1.0-<language>-<split>.tsv` (question id, text) and
  `qrels/qrels.miracl-v1.0-<language>-<split>.tsv` (TREC).

Output: retrieval records. The query splits are the splits with qrels (`train`, `dev`). Questions of different languages
differ even if their ids are equal, so a question's key is "<language>-<id>". Passages are written as they are read;
only judgements are in memory.

Reference: Zhang et al., MIRACL, TACL 2023, arXiv 2210.09984.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files, judged

SPLITS = ("train", "dev")


@dataclasses.dataclass(kw_only=True)
class MiraclConfig(base.SourceConfig):
    """Settings: `source`, the directory; `languages`, language codes (None for all in the directory)."""

    source: str | Path | None = None
    languages: Sequence[str] | None = None

    @override
    def validate(self) -> None:
        source = self.source = base.existing_path(self.source, "source")
        available = {match[1] for path in source.glob("*") if (match := re.fullmatch(r"miracl-v1\.0-(\w+)", path.name))}
        available = {language for language in available if any(_corpus(source, language))}
        if not available or set(self.languages or ()) - available:
            raise FileNotFoundError(
                f"source={str(source)!r}: looked for the folders miracl-v1.0-<language> and "
                f"miracl-corpus-v1.0-<language>/docs-*.jsonl.gz of {', '.join(self.languages or ('any language',))}; "
                f"both exist for {', '.join(sorted(available)) or 'no language'}. Found {base.listing(source)}."
            )
        self.languages = tuple(sorted(set(self.languages or available)))

    @override
    def label(self) -> str:
        return "-".join(self.languages or ())


class Miracl(base.Source):
    """The builder of `miracl`; see the module docstring."""

    name = "miracl"
    config_class = MiraclConfig
    features = staticmethod(schema.retrieval_features)
    description = "Wikipedia passages and native speakers' questions in 18 languages."
    homepage = "https://project-miracl.github.io"

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        source = self.builder_config.source
        parts = {language: _part(source, language) for language in self.builder_config.languages}
        if not any(part.queries for part in parts.values()):
            looked_for = " or ".join(_query_files(source, "<language>", split)[1].name for split in SPLITS)
            raise FileNotFoundError(f"source={str(source)!r} has no judgements: looked for qrels/{looked_for}.")
        return judged.records(parts)


def _part(source: Path, language: str) -> judged.LanguageSource:
    pairs = {split: _query_files(source, language, split) for split in SPLITS}
    queries = {
        split: judged.queries_from_trec_files(language, topics, qrels)
        for split, (topics, qrels) in pairs.items()
        if qrels.exists()
    }
    return judged.LanguageSource(_corpus_folder(source, language), _passage_texts(source, language), queries)


def _passage_texts(source: Path, language: str) -> Iterator[tuple[str, str, str]]:
    for file in _corpus(source, language):
        for number, record in files.json_lines(file):
            title = files.text(record, "title", file, number) if "title" in record else ""
            yield files.field(record, "docid", file, number), title, files.text(record, "text", file, number)


def _corpus(source: Path, language: str) -> list[Path]:
    return sorted(_corpus_folder(source, language).glob("docs-*.jsonl.gz"))


def _corpus_folder(source: Path, language: str) -> Path:
    return source / f"miracl-corpus-v1.0-{language}"


def _query_files(source: Path, language: str, split: str) -> tuple[Path, Path]:
    folder, name = source / f"miracl-v1.0-{language}", f"miracl-v1.0-{language}-{split}.tsv"
    return folder / f"topics/topics.{name}", folder / f"qrels/qrels.{name}"
