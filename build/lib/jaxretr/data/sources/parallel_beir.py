"""`parallel_beir`: translations of one test collection, a BEIR directory or zip per language.

Input: a directory with one entry per language, named by its tag: `en/`, `de.zip`, ... Each entry is in BEIR layout
(`beir`). Equal query ids are translations. Passage ids may be shared or not, because the qrels of a language judge its
own corpus: if the qrels of en name p7 and the qrels of de name p9, both `en:p7` and `de:p9` answer the question.
Output: retrieval records. The query splits are the union of the splits of all languages' qrels files.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, beir, files, judged


@dataclasses.dataclass(kw_only=True)
class ParallelBeirConfig(base.SourceConfig):
    """Settings: `source`, the directory; `languages`, language tags (None for all in the directory)."""

    source: str | Path | None = None
    languages: Sequence[str] | None = None

    @override
    def validate(self) -> None:
        source = self.source = base.existing_path(self.source, "source")
        available = find(source)
        if missing := sorted(set(self.languages or ()) - set(available)):
            raise FileNotFoundError(
                f"source={str(source)!r} has no language {', '.join(missing)}; it has {', '.join(available)}."
            )
        self.languages = tuple(sorted(set(self.languages or available)))

    @override
    def label(self) -> str:
        return f"{Path(self.source or '').name}-{'-'.join(self.languages or ())}"


class ParallelBeir(base.Source):
    """The builder of `parallel_beir`; see the module docstring."""

    name = "parallel_beir"
    config_class = ParallelBeirConfig
    features = staticmethod(schema.retrieval_features)
    description = "A test collection in several languages, each in BEIR layout."

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        places = find(self.builder_config.source)
        return judged.records({language: beir.part(places[language]) for language in self.builder_config.languages})


def find(source: Path) -> dict[str, Path]:
    """Return the directory or zip of each language, by tag.

    Raises:
      FileNotFoundError: there is no directory or zip.
      ValueError: the name of a directory or zip is not a language tag, or two have the same language.
    """
    entries = files.visible(source) if source.is_dir() else []
    places = [entry for entry in entries if entry.is_dir() or entry.suffix == ".zip"]
    if not places:
        raise FileNotFoundError(
            f"source={str(source)!r}: looked for a directory or zip for each language, such as en/ or de.zip; "
            f"found {base.listing(source)}."
        )
    languages: dict[str, Path] = {}
    for place in places:
        language = place.name.removesuffix(".zip")
        if not base.LANGUAGE.fullmatch(language):
            raise ValueError(
                f"{place}: expected the tag of a language as its name, such as de or zh-CN. For a collection in one "
                "language use the dataset beir."
            )
        if language in languages:
            raise ValueError(f"{place} and {languages[language].name} are both named {language!r}; remove one of them.")
        languages[language] = place
    return languages
