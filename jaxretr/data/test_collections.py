"""The test collections by the names that users type.

In: a name such as "xquad-r", the directory of the published files and what to restrict them to. Out: a `RetrievalSet`.
The files are prepared once (`jaxretr.data.sources`) below a cache directory; changed files are prepared anew.
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
class _Known:
    """Attributes:

    source: name in `sources.BUILDERS`.
    split: which queries are asked where none are named.
    layout: what the data directory holds, where it must be given.
    own: whether the files are the user's choice, so that their name belongs to the collection's.
    """

    source: str
    split: str = "test"
    layout: str = ""
    own: bool = False


TEST_COLLECTIONS = {
    "xquad-r": _Known("lareqa"),
    "mlqa-r": _Known("lareqa"),
    "beir": _Known("beir", layout="a directory or zip in BEIR layout", own=True),
    "parallel-beir": _Known(
        "parallel_beir", layout="a directory with a BEIR directory or zip for each language", own=True
    ),
    "miracl": _Known("miracl", split="dev", layout="the directory of miracl-v1.0-* and miracl-corpus-v1.0-*"),
    "mrtydi": _Known("mrtydi", layout="the directory of mrtydi-v1.1-*"),
    "libreoffice_help": _Known("libreoffice_help"),
    "pairs": _Known("pairs", layout="a file or directory of training pairs", own=True),
    "mmarco": _Known("mmarco", split="validation", layout="the directory of collections/ and queries/"),
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
    """A test collection, prepared where it is not yet.

    Its name says what it consists of, and that in the same way on every machine, so figures measured on collections of
    equal names compare: the data set and its directory's name, and in parentheses the candidates, the split, the
    languages (unless they are all that the published collection has) and how many questions were drawn.

    Args:
      dataset: a name in `TEST_COLLECTIONS`.
      data_dir: the published files; downloaded where None, if the data set can be.
      cache_dir: what is downloaded and prepared goes below it.
      candidates: what LAReQA's sets (xquad-r, mlqa-r) retrieve: one of `lareqa.CANDIDATES`.
      languages: those of queries and passages, all where None. A single one is also taken as the language of texts that
        do not say theirs (beir, pairs), which else is English.
      split: whose queries are asked.
      max_queries, seed: so many questions, drawn by the seed, are asked; all where None.

    Raises:
      ValueError: an unknown data set, split, language or kind of candidates, and what `load_collection` refuses.
      FileNotFoundError: files that are not there, or in another layout.
    """
    known = _lookup(dataset)
    values: dict[str, Any] = {}
    if data_dir is not None:
        values["source"] = base.existing_path(data_dir, "data_dir")
    elif known.layout:
        raise ValueError(f"{dataset} is not downloaded; give data_dir, {known.layout}.")
    if known.source == "lareqa":
        values |= {"collection": dataset} | ({"candidates": candidates} if candidates else {})
    elif candidates:
        raise ValueError(f"candidates={candidates!r} is a choice of xquad-r and mlqa-r alone; leave it out.")
    if languages:
        values |= _language_settings(dataset, known.source, languages)
    builder = sources.prepare(known.source, data_dir=cache_dir, **values)
    split = split or known.split
    found = load_collection(builder, split, languages=languages, max_queries=max_queries, seed=seed)

    name = f"{dataset} {values['source'].name.removesuffix('.zip')}" if known.own else dataset
    details = [builder.builder_config.candidates if known.source == "lareqa" else split]
    if found.languages != lareqa.LANGUAGES.get(dataset):
        details.append(" ".join(found.languages))
    if len(found.qrels) == max_queries:
        details.append(f"{max_queries:,} questions of seed {seed}")
    return dataclasses.replace(found, name=f"{name} ({', '.join(details)})")


def _lookup(dataset: str) -> _Known:
    if dataset not in TEST_COLLECTIONS:
        near = difflib.get_close_matches(dataset.lower(), TEST_COLLECTIONS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise ValueError(f"Unknown data set {dataset!r}: {hint} are {', '.join(TEST_COLLECTIONS)}.")
    return TEST_COLLECTIONS[dataset]


def _language_settings(dataset: str, source: str, languages: Sequence[str]) -> dict[str, Any]:
    """What tells a source which languages to prepare; the others are left out when the collection is loaded."""
    settings = sources.settings(source)
    if "languages" in settings:
        return {"languages": tuple(languages)}
    if "language" in settings and len(languages) == 1:
        return {"language": languages[0]}
    if dataset == "beir":
        raise ValueError(f"beir is in one language, not in {', '.join(languages)}; see parallel-beir for several.")
    return {}
