"""`lareqa`: XQuAD-R and MLQA-R, answer retrieval from a pool of several languages.

Input: a directory of `<language>.json` files (SQuAD layout with `sentences` and `sentence_breaks`), given or
downloaded. Output: retrieval records with the query split `test`. XQuAD-R is for evaluation only: do not train or
select models on it.

Candidates are all sentences of all paragraphs, not deduplicated: 13,014 in XQuAD-R, 20,534 in MLQA-R. The sentence with
start <= answer_start < end is relevant, in every language that has the question's id. A candidate's key is its position
in the file of its language. Equal keys in two languages are not translations; only the judgements align languages.

Reference: Roy et al., LAReQA, arXiv 2004.05484.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, override

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.data.sources import base, files

REPOSITORY = "https://raw.githubusercontent.com/google-research-datasets/lareqa"
COMMIT = "354d67d1cd066854cdfbf5ad0e6105528976141d"  # the last commit that has both collections
LANGUAGES = {
    "xquad-r": ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"),
    "mlqa-r": ("ar", "de", "en", "es", "hi", "vi", "zh"),
}
CANDIDATES = ("sentence", "sentence+context", "paragraph")


@dataclasses.dataclass(kw_only=True)
class LareqaConfig(base.SourceConfig):
    """Settings.

    Attributes:
      source: directory of the JSON files; None downloads them.
      collection: collection to download: "xquad-r" or "mlqa-r".
      candidates: "sentence"; "sentence+context", the sentence followed by its paragraph (as XTREME-R does); or
        "paragraph", the whole paragraph.
    """

    source: str | Path | None = None
    collection: str = "xquad-r"
    candidates: str = "sentence"

    @override
    def validate(self) -> None:
        if self.candidates not in CANDIDATES:
            raise ValueError(f"candidates={self.candidates!r} must be one of {CANDIDATES}.")
        if self.collection not in LANGUAGES:
            raise ValueError(f"collection={self.collection!r} must be one of {tuple(LANGUAGES)}.")
        self.source = base.existing_path(self.source, "source") if self.source else None

    @override
    def label(self) -> str:
        return f"{Path(self.source).name if self.source else self.collection}-{self.candidates.replace('+', '_')}"


class Lareqa(base.Source):
    """The builder of `lareqa`; see the module docstring."""

    name = "lareqa"
    config_class = LareqaConfig
    features = staticmethod(schema.retrieval_features)
    description = "XQuAD-R or MLQA-R: questions and the sentences that answer them, in parallel languages."
    homepage = "https://github.com/google-research-datasets/lareqa"

    @override
    def records(self, downloads: tfds.download.DownloadManager) -> dict[str, Iterable[dict[str, Any]]]:
        config = self.builder_config
        paths = find(config.source) if config.source else _download(config.collection, downloads)
        passages: list[dict[str, Any]] = []
        questions: list[tuple[str, str, str]] = []
        relevant: dict[str, dict[str, int]] = collections.defaultdict(dict)
        for language, path in paths.items():
            for key, text, answered in candidates(path, config.candidates):
                passages.append(schema.retrieval_record(key, language, text))
                for question, question_text in answered.items():
                    relevant[question][f"{language}:{key}"] = 1
                    questions.append((question, language, question_text))
        queries = {
            (key, language): schema.retrieval_record(key, language, text, relevant=relevant[key])
            for key, language, text in questions
        }
        return {schema.CORPUS_SPLIT: passages, "test": queries.values()}


def find(source: Path) -> dict[str, Path]:
    """Return the file of each language.

    Raises:
      FileNotFoundError: there is no `<language>.json`, or the name of a JSON file is not a language tag.
    """
    entries = files.visible(source) if source.is_dir() else []
    paths = {path.stem: path for path in entries if path.suffix == ".json"}
    if not paths or not all(base.LANGUAGE.fullmatch(language) for language in paths):
        raise FileNotFoundError(
            f"source={str(source)!r}: looked for a directory of JSON files named <language>.json, such as de.json; "
            f"found {base.listing(source)}."
        )
    return paths


def candidates(path: Path, kind: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield the candidates of one language: key, text, and the questions (id -> text) that each answers.

    Raises:
      ValueError: the file has another layout, or an answer is outside all sentences.
    """
    try:
        paragraphs = [
            (f"{article}.{place}", paragraph)
            for article, content in enumerate(files.json_file(path)["data"])
            for place, paragraph in enumerate(content["paragraphs"])
        ]
        for key, paragraph in paragraphs:
            context = _string(paragraph, "context")
            spans = [(0, len(context))] if kind == "paragraph" else paragraph["sentence_breaks"]
            questions_of_span: list[dict[str, str]] = [{} for _ in spans]
            for question in paragraph["qas"]:
                id, text = _string(question, "id"), _string(question, "question")
                for answer in question["answers"]:
                    place = _span_with(answer["answer_start"], spans)
                    if place is None:
                        raise LookupError(f"the answer to question {id} is outside all sentences")
                    questions_of_span[place][id] = text
            for place, span in enumerate(spans):
                text = context[span[0] : span[1]]
                if kind == "sentence+context":
                    text = f"{text} {context}"
                yield (key if kind == "paragraph" else f"{key}.{place}"), text, questions_of_span[place]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        why = str(error) if type(error) is LookupError else repr(error)
        raise ValueError(
            f"{path} is not in LAReQA's layout (SQuAD's data/paragraphs/qas with sentence_breaks): {why}."
        ) from error


def _string(content: dict[str, Any], name: str) -> str:
    if not isinstance(content[name], str):
        raise TypeError(f"{name} is {content[name]!r}, expected a string")
    return content[name]


def _span_with(position: int, spans: Sequence[Sequence[int]]) -> int | None:
    return next((place for place, span in enumerate(spans) if span[0] <= position < span[1]), None)


def _download(collection: str, downloads: tfds.download.DownloadManager) -> dict[str, Path]:
    urls = {language: f"{REPOSITORY}/{COMMIT}/{collection}/{language}.json" for language in LANGUAGES[collection]}
    try:
        return {language: Path(path) for language, path in downloads.download(urls).items()}
    except Exception as error:
        raise RuntimeError(
            f"{collection} could not be downloaded ({error}). On another machine, download the folder {collection} of "
            f"{Lareqa.homepage} at commit {COMMIT[:7]}, copy it here, and give it as source."
        ) from error
