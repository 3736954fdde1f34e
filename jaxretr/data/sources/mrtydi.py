"""`mrtydi`: Mr. TyDi, monolingual retrieval in 11 languages, in the published layout.

Input: a directory that holds one unpacked folder `mrtydi-v1.1-<language>` per language, with the language spelled out,
as in `mrtydi-v1.1-arabic`. The folder has `collection/docs.jsonl.gz` (`id`, `contents`: title, empty line, text),
`topic.<split>.tsv` (question id, text) and `qrels.<split>.txt` (TREC). Output: retrieval records. The query splits are
the splits with qrels. As in `miracl`, the same id in two languages means two questions, so a question's key is
"<language>-<id>".

Reference: Zhang et al., Mr. TyDi, arXiv 2108.08787.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files, judged

LANGUAGES = {
    "ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ja": "japanese",
    "ko": "korean", "ru": "russian", "sw": "swahili", "te": "telugu", "th": "thai",
}  # fmt: skip
SPLITS = ("train", "dev", "test")


@dataclasses.dataclass(kw_only=True)
class MrTydiConfig(base.SourceConfig):
    """Settings: `source`, the directory; `languages`, language codes (None for all in the directory)."""

    source: str | Path | None = None
    languages: Sequence[str] | None = None

    @override
    def validate(self) -> None:
        source = self.source = base.existing_path(self.source, "source")
        available = {language for language in LANGUAGES if _corpus(source, language).exists()}
        if not available or set(self.languages or ()) - available:
            raise FileNotFoundError(
                f"source={str(source)!r}: looked for mrtydi-v1.1-<language>/collection/docs.jsonl.gz of "
                f"{', '.join(self.languages or ('any language',))} (among {', '.join(LANGUAGES)}); it exists for "
                f"{', '.join(sorted(available)) or 'no language'}. Found {base.listing(source)}."
            )
        self.languages = tuple(sorted(set(self.languages or available)))

    @override
    def label(self) -> str:
        return "-".join(self.languages or ())


class MrTydi(base.Source):
    """The builder of `mrtydi`; see the module docstring."""

    name = "mrtydi"
    config_class = MrTydiConfig
    features = staticmethod(schema.retrieval_features)
    description = "Wikipedia passages and native speakers' questions in 11 languages."
    homepage = "https://github.com/castorini/mr.tydi"

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        source = self.builder_config.source
        parts = {language: _part(source, language) for language in self.builder_config.languages}
        if not any(part.queries for part in parts.values()):
            raise FileNotFoundError(
                f"source={str(source)!r} has no judgements: looked for mrtydi-v1.1-<language>/qrels.<split>.txt."
            )
        return judged.records(parts)


def _part(source: Path, language: str) -> judged.LanguageSource:
    corpus = _corpus(source, language)
    folder = corpus.parent.parent
    queries = {
        split: judged.queries_from_trec_files(language, folder / f"topic.{split}.tsv", folder / f"qrels.{split}.txt")
        for split in SPLITS
        if (folder / f"qrels.{split}.txt").exists()
    }
    return judged.LanguageSource(corpus, _passage_texts(corpus), queries)


def _passage_texts(file: Path) -> Iterator[tuple[str, str, str]]:
    for number, record in files.json_lines(file):
        contents = files.text(record, "contents", file, number)
        title, parted, text = contents.partition("\n\n")
        yield files.field(record, "id", file, number), title if parted else "", text if parted else contents


def _corpus(source: Path, language: str) -> Path:
    return source / f"mrtydi-v1.1-{LANGUAGES[language]}/collection/docs.jsonl.gz"
