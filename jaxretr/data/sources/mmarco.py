"""`mmarco`: MS MARCO's training questions machine-translated into 13 languages, in the published layout.

Input: a directory with `collections/<language>_collection.tsv` (passage id, text),
`queries/train/<language>_queries.train.tsv` (question id, text) and either `triples.train.ids.small.tsv` (question,
positive, negative) or `qrels.train.tsv` (TREC). Languages are spelled out, as in `arabic_collection.tsv`. Output:
training pairs in the splits `train` and `validation` (one relevant passage in a thousand, with all its questions). Ids
are MS MARCO's, so translations are aligned. A question keeps its first positive as its passage and its first
`num_negatives` negatives.

Memory: 8 bytes per passage of one language at a time (71 MB), and the ids of the judgements (about 100 bytes times
(2 + `num_negatives`) per question, 0.3 GB for the full set with one negative). Texts stay on disk.

Reference: Bonifacio et al., mMARCO, arXiv 2108.13897.
"""

import codecs
import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, override

import numpy as np
import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files

LANGUAGES = {
    "ar": "arabic", "de": "german", "en": "english", "es": "spanish", "fr": "french", "hi": "hindi", "id": "indonesian",
    "it": "italian", "ja": "japanese", "nl": "dutch", "pt": "portuguese", "ru": "russian", "vi": "vietnamese",
    "zh": "chinese",
}  # fmt: skip
_MAX_IDS = 100_000_000  # over ten times the passages of MS MARCO; the offset of each takes 8 bytes of memory
TRIPLES, QRELS = "triples.train.ids.small.tsv", "qrels.train.tsv"


@dataclasses.dataclass(kw_only=True)
class MmarcoConfig(base.SourceConfig):
    """Settings: `source`, the directory; `languages`, language codes; `num_negatives`, hard negatives per question."""

    source: str | Path | None = None
    languages: Sequence[str] = tuple(LANGUAGES)
    num_negatives: int = 1

    @override
    def validate(self) -> None:
        source = self.source = base.existing_path(self.source, "source")
        if unknown := sorted(set(self.languages) - set(LANGUAGES)):
            raise ValueError(
                f"languages={list(self.languages)}: {unknown} not available; choose from {list(LANGUAGES)}."
            )
        self.languages = tuple(sorted(set(self.languages)))
        needed = [path for language in self.languages for path in _paths(source, language)]
        missing = [str(path.relative_to(source)) for path in needed if not path.exists()]
        if not (source / TRIPLES).exists() and not (source / QRELS).exists():
            missing.append(f"{TRIPLES} or {QRELS}")
        if missing:
            shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise FileNotFoundError(f"source={str(source)!r} lacks {shown}; found {base.listing(source)}.")
        if self.num_negatives < 0:
            raise ValueError(f"num_negatives={self.num_negatives} must not be negative.")

    @override
    def label(self) -> str:
        return "-".join(self.languages)


class Mmarco(base.Source):
    """The builder of `mmarco`; see the module docstring."""

    name = "mmarco"
    config_class = MmarcoConfig
    features = staticmethod(schema.pair_features)
    description = "MS MARCO's training questions and passages in 14 languages."
    homepage = "https://github.com/unicamp-dl/mMARCO"

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        config = self.builder_config
        if (config.source / TRIPLES).exists():
            judged = read_triples(config.source / TRIPLES, config.num_negatives)
        else:
            judged = read_qrels(config.source / QRELS)
        if not judged:
            raise ValueError(f"source={str(config.source)!r} has no judgement in {TRIPLES} or {QRELS}.")
        splits: dict[str, dict[int, list[int]]] = {"train": {}, "validation": {}}
        for question, passages in judged.items():
            splits[split_of(passages[0])][question] = passages
        return {split: self._records(part) for split, part in splits.items() if part}

    def _records(self, judged: Mapping[int, list[int]]) -> Iterator[dict[str, Any]]:
        config = self.builder_config
        for language in config.languages:
            collection, queries = _paths(config.source, language)
            yield from _language(language, collection, queries, judged)


def split_of(passage: int) -> str:
    """Return the split of all questions that a passage answers; one passage in a thousand is held out."""
    return "train" if zlib.crc32(str(passage).encode()) % 1000 else "validation"


def read_triples(file: Path, num_negatives: int) -> dict[int, list[int]]:
    """Return passage ids per question id: its first positive, then up to `num_negatives` negatives."""
    judged: dict[int, list[int]] = {}
    for number, row in files.table(file, columns=3):
        query, positive, negative = (files.integer(value, file, number) for value in row)
        passages = judged.setdefault(query, [positive])
        if len(passages) <= num_negatives and negative not in passages:
            passages.append(negative)
    return judged


def read_qrels(file: Path) -> dict[int, list[int]]:
    """Return for each question id a list with its first relevant passage id, from TREC qrels."""
    judged: dict[int, list[int]] = {}
    for number, (query, _, passage, grade) in files.table(file, columns=4, separator=None):
        if files.integer(grade, file, number) > 0:
            judged.setdefault(files.integer(query, file, number), [files.integer(passage, file, number)])
    return judged


def _language(
    language: str, collection: Path, queries: Path, judged: Mapping[int, list[int]]
) -> Iterator[dict[str, Any]]:
    files.check_fetched(collection)
    offsets = _line_offsets(collection)
    with collection.open("rb") as file:
        for number, (key, query) in files.table(queries, columns=2):
            passages = judged.get(files.integer(key, queries, number))
            if passages is not None:
                passage, *negatives = (_passage(file, offsets, identifier) for identifier in passages)
                yield schema.pair_record(key, str(passages[0]), language, query, passage, negatives)


def _line_offsets(collection: Path) -> np.ndarray:
    """Return the byte offset of each passage's line in the file, by passage id; -1 for ids without a line.

    The array is int64 and has at least (largest id + 1) elements.
    """
    offsets = np.full(1 << 20, -1, np.int64)
    position = 0
    with collection.open("rb") as file:
        for number, line in enumerate(file, start=1):
            key = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if key.strip():
                name, tab, _ = key.partition(b"\t")
                identifier = files.integer(name.decode(errors="replace"), collection, number)
                if not tab or not 0 <= identifier < _MAX_IDS:
                    raise ValueError(
                        f"{collection}, line {number}: expected a passage id below {_MAX_IDS:,}, a tab and a text, "
                        f"found {line[:60].decode(errors='replace')!r}."
                    )
                if identifier >= len(offsets):
                    offsets = np.concatenate([offsets, np.full(max(len(offsets), identifier), -1, np.int64)])
                offsets[identifier] = position
            position += len(line)
    return offsets


def _passage(collection: BinaryIO, offsets: np.ndarray, identifier: int) -> str:
    if not 0 <= identifier < len(offsets) or offsets[identifier] < 0:
        raise ValueError(f"The judgements name passage {identifier}, which {collection.name} lacks.")
    collection.seek(offsets[identifier])
    line = collection.readline()
    try:
        return line.decode("utf-8").rstrip("\r\n").partition("\t")[2]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{collection.name}: passage {identifier} is not UTF-8 ({error.reason}); convert the file."
        ) from error


def _paths(source: Path, language: str) -> tuple[Path, Path]:
    name = LANGUAGES[language]
    return source / f"collections/{name}_collection.tsv", source / f"queries/train/{name}_queries.train.tsv"
