"""Combine the texts and judgements of each language into the retrieval records of a test collection.

Input: a `LanguageSource` per language. Output: the records of every split (`jaxretr.data.schema`). They are generated
while they are written, so no corpus is in memory. If an id in the judgements has no text, writing ends with an error.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jaxretr.data import schema
from jaxretr.data.sources import files
from jaxretr.data.sources.files import File

Qrels = dict[str, dict[str, int]]
"""Query key -> passage key -> grade."""


class SplitQueries(NamedTuple):
    """The queries of one language and split.

    Attributes:
      file: file of the queries, for error messages.
      texts: line number, key and text of each query, judged or not.
      qrels: judgements of the passages in this language.
    """

    file: File
    texts: Iterable[tuple[int, str, str]]
    qrels: Qrels


class LanguageSource(NamedTuple):
    """One language of a test collection.

    Attributes:
      corpus: file or folder of the passages, for error messages.
      texts: key, title and text of each passage.
      queries: queries of each split.
    """

    corpus: File
    texts: Iterable[tuple[str, str, str]]
    queries: Mapping[str, SplitQueries]


def records(parts: Mapping[str, LanguageSource]) -> dict[str, Iterable[dict[str, Any]]]:
    """Return the records of each split of a collection, given its languages.

    Queries with the same key in several languages are translations of one question. The judgements of a question are
    the union over all languages. Queries without judgements in any language are left out.

    Raises:
      ValueError: while the records are iterated: a judged passage or query is missing, or a judged query is empty.
    """
    splits: dict[str, Iterable[dict[str, Any]]] = {
        schema.CORPUS_SPLIT: itertools.chain(*(_passages(*part) for part in parts.items()))
    }
    for split in sorted({split for part in parts.values() for split in part.queries}):
        queries_of_language = {
            language: part.queries[split] for language, part in parts.items() if split in part.queries
        }
        relevant: Qrels = {}
        for language, (_, _, qrels) in queries_of_language.items():
            for query, grades in qrels.items():
                judged = {f"{language}:{passage}": grade for passage, grade in grades.items()}
                relevant.setdefault(query, {}).update(judged)
        splits[split] = itertools.chain(*(_queries(*item, relevant) for item in queries_of_language.items()))
    return splits


def _passages(language: str, part: LanguageSource) -> Iterator[dict[str, Any]]:
    judged = (grades for queries in part.queries.values() for grades in queries.qrels.values())
    unseen = {passage for grades in judged for passage in grades}
    for key, title, text in part.texts:
        unseen.discard(key)
        yield schema.retrieval_record(key, language, text, title=title)
    _check_all_seen(unseen, "passages", part.corpus)


def _queries(language: str, queries: SplitQueries, relevant: Qrels) -> Iterator[dict[str, Any]]:
    unseen = set(queries.qrels)
    for number, key, text in queries.texts:
        if key in relevant:
            unseen.discard(key)
            if not text.strip():
                raise ValueError(
                    f"{queries.file}, line {number}: the judged query {key!r} has no text; add the text, or "
                    "remove the judgements."
                )
            yield schema.retrieval_record(key, language, text, relevant=relevant[key])
    _check_all_seen(unseen, "queries", queries.file)


def _check_all_seen(unseen: Collection[str], what: str, file: File) -> None:
    if unseen:
        examples = ", ".join(sorted(unseen)[:5])
        raise ValueError(
            f"{len(unseen)} {what} in the judgements are not in {file}, such as {examples}; check that the files "
            "belong together, add the missing texts, or remove the judgements."
        )


def queries_from_trec_files(language: str, topics: File, judgements: File) -> SplitQueries:
    """Return the queries of a language from TREC files. Equal ids in two languages are different questions.

    The key of a question is "<language>-<id>".

    Args:
      language: language of the queries.
      topics: file with question id and text, separated by a tab.
      judgements: TREC qrels file: question id, an ignored column, passage id, grade.
    """
    qrels: Qrels = {}
    for number, (query, _, passage, grade) in files.table(judgements, columns=4, separator=None):
        add_judgement(qrels, f"{language}-{query}", passage, grade, judgements, number)
    texts = ((number, f"{language}-{query}", text) for number, (query, text) in files.table(topics, columns=2))
    return SplitQueries(topics, texts, qrels)


def add_judgement(qrels: Qrels, query: str, passage: str, grade: str, file: File, number: int) -> None:
    """Add a judgement.

    Raises:
      ValueError: the grade is not an int32, or differs from an earlier grade of the same query and passage; the message
        names the file and the line.
    """
    value = files.integer(grade, file, number)
    if abs(value) >= 2**31:
        raise ValueError(
            f"{file}, line {number}: the grade {grade} does not fit into 32 bits; expected a small integer."
        )
    if qrels.setdefault(query, {}).setdefault(passage, value) != value:
        raise ValueError(
            f"{file}, line {number}: query {query!r} and passage {passage!r} have a different grade on an earlier line."
        )
