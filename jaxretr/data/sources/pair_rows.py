"""Read training pairs in the column layouts of other tools.

Input: a row of JSON lines or parquet. Output: a `PairRow`.

| layout | question | answers | hard negatives |
|---|---|---|---|
| sentence-transformers | `query` or `anchor` | `passage` or `positive` | `negative_1` ... `negative_n` or `negative` |
| FlagEmbedding | `query` | `pos` | `neg` |
| Tevatron | `query` | `positive_passages` | `negative_passages` |
| others | | `positives` | `negatives`, `hard_negatives` |

Every column of answers or negatives holds a passage or a list of passages. A passage is a string or
`{"docid", "title", "text"}`; only the text is required. A row may mix the layouts: its answers come
from its first column in the order of `POSITIVES`, and its negatives come from all columns of negatives.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxretr.data.sources import base, files

QUERIES = ("query", "anchor")
POSITIVES = ("positive_passages", "pos", "positives", "passage", "positive")
NEGATIVES = ("negative_passages", "neg", "negatives", "negative", "hard_negatives", "hard_negative")
NUMBERED_NEGATIVE = re.compile(r"(?:hard_)?neg(?:ative)?_?(\d+)")
QUESTION_IDS = ("query_id", "qid", "id")
PASSAGE_IDS = ("passage_id", "docid", "doc_id")
LANGUAGES = ("language", "lang")

_KNOWN = {*QUERIES, *POSITIVES, *NEGATIVES, *QUESTION_IDS, *PASSAGE_IDS, *LANGUAGES}
_IDS_IN_PASSAGES = ("docid", "doc_id", "passage_id", "_id", "id")


class PairRow(NamedTuple):
    """One row of training data.

    Attributes:
      query: text of the question.
      answers: id (None if the row gives none) and text of each passage that answers the question.
      negatives: texts of the hard negatives.
      question_id: id of the question, if the row gives one.
      passage_id: id of the first answer, if the row gives one in a column.
      language: language of the row, if the row gives one.
      unread: columns, and members of passages, that were not read.
    """

    query: str
    answers: list[tuple[str | None, str]]
    negatives: list[str]
    question_id: str | None
    passage_id: str | None
    language: str | None
    unread: set[str]


def is_known(column: str) -> bool:
    """Return whether `read` uses a column of this name."""
    return column in _KNOWN or NUMBERED_NEGATIVE.fullmatch(column) is not None


def read(row: Mapping[str, Any], file: Path, number: int) -> PairRow:
    """Read a row, from which null values have been left out.

    Raises:
      ValueError: a column is missing or has the wrong type, or a passage is empty; the message names file and line.
    """
    where = f"{file}, line {number}"
    query = _first(row, QUERIES) or QUERIES[-1]
    positive = _first(row, POSITIVES) or POSITIVES[-1]
    question_id, passage_id, language = (_first(row, names) for names in (QUESTION_IDS, PASSAGE_IDS, LANGUAGES))
    numbered = [match for match in map(NUMBERED_NEGATIVE.fullmatch, row) if match]
    negatives = [name for name in NEGATIVES if name in row]
    negatives += [match[0] for match in sorted(numbered, key=lambda match: int(match[1]))]

    text = files.field(row, query, file, number)
    if positive not in row:
        files.field(row, positive, file, number)
    unread = set(row) - {query, positive, question_id, passage_id, language, *negatives}
    answers = _passages(row, positive, where, unread)
    if not answers:
        raise ValueError(f"{where}: the question has no answer; add a passage, or remove the row.")
    return PairRow(
        text,
        answers,
        [text for name in negatives for _, text in _passages(row, name, where, set())],
        _id(row, question_id, where) if question_id else None,
        _id(row, passage_id, where) if passage_id else None,
        _language(row[language], language, where) if language else None,
        unread,
    )


def check_language(tag: Any, name: str) -> str:
    """Return `tag` if it is a language tag. Raises ValueError, which begins with `name`, if it is not."""
    if not isinstance(tag, str) or not base.LANGUAGE.fullmatch(tag.replace("_", "-")):
        raise ValueError(f"{name} must be a language tag such as de, zh-CN or sr-Latn, found {tag!r}.")
    return tag


def _language(tag: Any, column: str, where: str) -> str:
    return check_language(tag, f"{where}: field {column!r}")


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _id(record: Mapping[str, Any], name: str, where: str) -> str:
    """Return an id as a string. A column of integers with gaps holds floats, so 7.0 is the id 7."""
    value = record[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise ValueError(f"{where}: the id {name!r} must be a string that is not empty, found {value!r}.")
    return str(value)


def _passages(row: Mapping[str, Any], name: str, where: str, unread: set[str]) -> list[tuple[str | None, str]]:
    """Return the ids and texts of the passages in a column; add members that are not read to `unread`."""
    value = row[name]
    if isinstance(value, str | Mapping):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(
            f"{where}: field {name!r} must be a passage or a list of passages (strings or {{docid, title, text}}), "
            f"found {value!r}."
        )
    return [_passage(passage, name, where, unread) for passage in value]


def _passage(passage: Any, column: str, where: str, unread: set[str]) -> tuple[str | None, str]:
    key, text = None, passage
    if isinstance(passage, Mapping):
        given = {name: value for name, value in passage.items() if value is not None}
        title, text = given.get("title", ""), given.get("text")
        if not isinstance(title, str) or not isinstance(text, str):
            raise ValueError(
                f"{where}: a passage in {column!r} must have a text and may have a title, both strings, found "
                f"{_short(passage)}."
            )
        name = _first(given, _IDS_IN_PASSAGES)
        key = _id(given, name, where) if name else None
        unread |= {f"{column}.{member}" for member in given if member not in ("title", "text", name)}
        text = f"{title} {text}".strip()
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: expected a passage that is not empty, found {text!r}.")
    return key, text


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"
