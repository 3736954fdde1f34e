"""Find data files by the split, language and shard in their names.

Input: a file or folder. Output: the files of each split, each with the language that its path names. A path consists of
these parts, in this order; the first parts may be names of folders:

| part | examples |
|---|---|
| split | `train`, `validation` (also `valid`, `val`, `dev`), `test` |
| language | `de`, `pt-BR`, `zh_Hant`, `eng_Latn` |
| shard | `00000-of-00002`, `00000-of-00001-1a2b3c4d5e6f`, `0000`, `part-3` |

So `train-de.jsonl`, `train.de.jsonl.gz`, `de/train-00000-of-00002.parquet`, `data/train-de-00000-of-00002.parquet` and
`train/de.jsonl` are files of the split `train`. Any other part of a name is an error.
"""

import re
from pathlib import Path
from typing import NamedTuple

from jaxretr.data.sources import files

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
EXPECTED = (
    "<split>.jsonl, <split>-<language>.jsonl, <language>/<split>-00000-of-00002.parquet and the like, with a split "
    "train, validation (dev) or test, and a language tag such as de or pt-BR"
)
_SPLITS = {"train": "train", "test": "test", **dict.fromkeys(("validation", "valid", "val", "dev"), "validation")}
_NEUTRAL_FOLDERS = {"data", "default"}  # folder names that dataset hubs use

_LANGUAGE = r"[a-z]{2,3}(?:[-_][A-Z][a-z]{3})?(?:[-_](?:[A-Za-z]{2}|\d{3}))?"
_SHARD = r"(?:(?:part|shard)[-_.]?)?\d+(?:[-_]of[-_]\d+)?(?:[-_][0-9a-f]{8,})?"
_NAME = re.compile(
    rf"(?:(?P<split>{'|'.join(_SPLITS)})(?:[-_.](?!$)|$))?(?:(?P<language>{_LANGUAGE})(?:[-_.](?!$)|$))?(?:{_SHARD})?"
)


class DataFile(NamedTuple):
    """A data file and what its path says about it.

    Attributes:
      path: the file.
      name: path below the source, without the suffix; unique within a source.
      language: the language that the path names, if any.
    """

    path: Path
    name: str
    language: str | None


def locate(source: Path) -> dict[str, list[DataFile]]:
    """Return the files of each split below a folder, sorted by path.

    A single file whose name does not begin with a split is the train split.

    Raises:
      ValueError: a path does not follow the patterns, two names differ only in the suffix, or there is no file.
    """
    if source.is_file() and source.name.endswith(SUFFIXES):
        name = _stem(source.name)
        if not re.match(rf"(?:{'|'.join(_SPLITS)})(?:[-_.]|$)", name):
            return {"train": [DataFile(source, name, None)]}
        paths = [source]
        root = source.parent
    else:
        paths = _data_files(source) if source.is_dir() else []
        root = source
    splits: dict[str, list[DataFile]] = {}
    names: dict[str, Path] = {}
    for path in paths:
        name = _stem(path.relative_to(root).as_posix())
        if name in names:
            raise ValueError(
                f"{path} and {names[name].name} differ only in the suffix; remove one or, if both hold data, name them "
                f"{Path(name).name}-0 and {Path(name).name}-1."
            )
        names[name] = path
        split, language = _split_and_language(path, name)
        splits.setdefault(split, []).append(DataFile(path, name, language))
    if not splits:
        raise ValueError(f"source={str(source)!r}: looked for files ending in {', '.join(SUFFIXES)}, found none.")
    return splits


def _data_files(folder: Path) -> list[Path]:
    paths: list[Path] = []
    for entry in files.visible(folder):
        if entry.is_dir():
            paths += _data_files(entry)
        elif entry.name.endswith(SUFFIXES):
            paths.append(entry)
    return paths


def _stem(name: str) -> str:
    return name.removesuffix(".gz").rpartition(".")[0]


def _split_and_language(path: Path, name: str) -> tuple[str, str | None]:
    """Return the split and language of a file.

    Raises:
      ValueError: the path does not name exactly one split, names two languages, or has an unknown part.
    """
    *folders, last = name.split("/")
    splits, languages = [], []
    for part in [folder for folder in folders if folder not in _NEUTRAL_FOLDERS] + [last]:
        match = _NAME.fullmatch(part)
        if not match:
            raise ValueError(
                f"{path}: name the file train, validation or test, optionally with -<language>: {part!r} is neither a "
                f"split, nor a language tag, nor a shard. Expected {EXPECTED}; or give a single file or another folder."
            )
        splits += [match["split"]] if match["split"] else []
        languages += [match["language"]] if match["language"] else []
    if len({_SPLITS[split] for split in splits}) != 1 or len(set(languages)) > 1:
        raise ValueError(
            f"{path}: name the file train, validation or test, optionally with -<language>: the path names the splits "
            f"{', '.join(splits) or 'none'} and the languages {', '.join(languages) or 'none'}. Expected {EXPECTED}."
        )
    return _SPLITS[splits[0]], languages[0] if languages else None
