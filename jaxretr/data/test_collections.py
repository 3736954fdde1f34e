"""Load test collections by the names that users type.

Input: a name such as "xquad-r", the directory of the published files, and restrictions. Output: a `RetrievalSet`. The
files are prepared once (`jaxretr.data.sources`) below a cache directory. Changed files are prepared again.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from jaxretr.data import sources
from jaxretr.data.collection import load_collection
from jaxretr.data.sources import base, lareqa
from jaxretr.files import AnyPath
from jaxretr.types import RetrievalSet


@dataclasses.dataclass(frozen=True)
class _Spec:
    """How to load one test collection.

    Attributes:
      source: name in `sources.BUILDERS`.
      split: default split of the queries.
      layout: what `data_dir` must be; empty if the files can be downloaded.
      user_files: whether users choose the files, so that the name of the collection includes the name of the files.
    """

    source: str
    split: str = "test"
    layout: str = ""
    user_files: bool = False


TEST_COLLECTIONS = {
    "xquad-r": _Spec("lareqa"),
    "mlqa-r": _Spec("lareqa"),
    "beir": _Spec("beir", layout="a directory or zip in BEIR layout", user_files=True),
    "parallel-beir": _Spec(
        "parallel_beir", layout="a directory with a BEIR directory or zip for each language", user_files=True
    ),
    "miracl": _Spec("miracl", split="dev", layout="the directory that holds miracl-v1.0-* and miracl-corpus-v1.0-*"),
    "mrtydi": _Spec("mrtydi", layout="the directory that holds mrtydi-v1.1-*"),
    "libreoffice_help": _Spec("libreoffice_help"),
    "pairs": _Spec("pairs", layout="a file or directory of training pairs", user_files=True),
    "mmarco": _Spec("mmarco", split="validation", layout="the directory that holds collections/ and queries/"),
}


def load_test_collection(
    dataset: str,
    data_dir: str | AnyPath | None,
    *,
    cache_dir: str | AnyPath,
    candidates: str | None = None,
    languages: Sequence[str] | None = None,
    split: str | None = None,
    max_queries: int | None = None,
    seed: int = 0,
) -> RetrievalSet:
    """Load a test collection; prepare its files if necessary.

    The name of the collection says what it consists of, identically on every machine, so figures are comparable if the
    collections have equal names. The name consists of the dataset, the name of the user's files if there are any, and
    in parentheses the candidates or the split, the languages (omitted for all languages of XQuAD-R or MLQA-R) and the
    number of drawn questions.

    Args:
      dataset: a name in `TEST_COLLECTIONS`.
      data_dir: directory or zip of the published files; None downloads them, if the dataset can be downloaded.
      cache_dir: directory for downloads and prepared data.
      candidates: the unit of retrieval in XQuAD-R and MLQA-R: one of `lareqa.CANDIDATES`.
      languages: languages of queries and passages; None for all. A single language is also taken as the language of
        texts that do not name theirs (beir, pairs), which is English by default.
      split: split of the queries; None for the default of the dataset.
      max_queries: number of questions to draw; None for all.
      seed: seed of the draw of questions.

    Raises:
      ValueError: the dataset, split, language or kind of candidates is unknown; or as in `load_collection`.
      FileNotFoundError: the files do not exist, or have the wrong layout.
    """
    spec = _lookup(dataset)
    values: dict[str, Any] = {}
    if data_dir is not None:
        values["source"] = base.existing_path(data_dir, "data_dir")
    elif spec.layout:
        raise ValueError(f"{dataset} cannot be downloaded; set data_dir to {spec.layout}.")
    if spec.source == "lareqa":
        values |= {"collection": dataset} | ({"candidates": candidates} if candidates else {})
    elif candidates:
        raise ValueError(f"candidates={candidates!r} applies only to xquad-r and mlqa-r; leave it out.")
    if languages:
        values |= _language_settings(dataset, spec.source, languages)
    builder = sources.prepare(spec.source, data_dir=cache_dir, **values)
    split = split or spec.split
    collection = load_collection(builder, split, languages=languages, max_queries=max_queries, seed=seed)

    name = f"{dataset} {values['source'].name.removesuffix('.zip')}" if spec.user_files else dataset
    details = [builder.builder_config.candidates if spec.source == "lareqa" else split]
    if collection.languages != lareqa.LANGUAGES.get(dataset):
        details.append(" ".join(collection.languages))
    if len(collection.qrels) == max_queries:
        details.append(f"{max_queries:,} questions of seed {seed}")
    return dataclasses.replace(collection, name=f"{name} ({', '.join(details)})")


def _lookup(dataset: str) -> _Spec:
    if dataset not in TEST_COLLECTIONS:
        near = difflib.get_close_matches(dataset.lower(), TEST_COLLECTIONS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? Choose from" if near else "choose from"
        raise ValueError(f"Unknown dataset {dataset!r}: {hint} {', '.join(TEST_COLLECTIONS)}.")
    return TEST_COLLECTIONS[dataset]


def _language_settings(dataset: str, source: str, languages: Sequence[str]) -> dict[str, Any]:
    """Return the settings that tell a source which languages to prepare; loading removes the others."""
    settings = sources.settings(source)
    if "languages" in settings:
        return {"languages": tuple(languages)}
    if "language" in settings and len(languages) == 1:
        return {"language": languages[0]}
    if dataset == "beir":
        raise ValueError(f"beir is in one language, not in {', '.join(languages)}; use parallel-beir for several.")
    return {}
