"""Training pairs as a test collection: which records are of one question, and which are of one passage.

In: the records of a held-out split (`jaxretr.data.schema`). Out: a `RetrievalSet` in which every question is one query
per language with all its answers, and every passage is there once per language.

- Records with one question id are one question. Without an id, records with one text in one language are.
- Records with one passage id are one passage, and so are its translations. Without an id, records with one text in one
  language are.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxretr.types import Passage, Query, RetrievalSet


def collect(name: str, records: Iterable[Mapping[str, Any]]) -> RetrievalSet:
    """The collection of all records.

    Args:
      name: of the collection.
      records: training pairs, in memory at once; those without `question_id` and `docid` have an id of either kind in
        `query_id` and `passage_id`.

    Raises:
      ValueError: a passage id that stands for two texts, or a question whose translations share no passage.
    """
    records = list(records)
    passages = _Passages(records)
    keys = _question_keys(records)
    queries: dict[tuple[str, str], Query] = {}
    answers: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # key -> language -> ids
    for record, key, id in zip(records, keys, passages.ids, strict=True):
        language = record["language"]
        queries.setdefault((key, language), Query(key, language, record["query"]))
        answers[key][language].append(id)
    return RetrievalSet(
        name,
        tuple(queries.values()),
        tuple(Passage(key, language, text) for (key, language), text in passages.texts.items()),
        {key: dict.fromkeys(passages.answering(key, of_language), 1) for key, of_language in answers.items()},
    )


def _question_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The key of each record's question."""
    named: dict[tuple[str, str], str] = {}  # language and text -> key
    given = [_given(record, "question_id", "query_id") for record in records]
    for record, id in sorted(zip(records, given, strict=True), key=lambda pair: not pair[1]):  # those with ids first
        named.setdefault((record["language"], record["query"]), id or record["query_id"])
    return [id or named[record["language"], record["query"]] for record, id in zip(records, given, strict=True)]


class _Passages:
    """The passages of some records, and which of them are translations of each other.

    Attributes:
      ids: the passage id of each record.
      texts: the text of each passage by key and language.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        given = [_given(record, "docid", "passage_id") for record in records]
        self._given = set(given) - {""}
        self.ids = [id or self._free(record["passage_id"]) for record, id in zip(records, given, strict=True)]
        self.texts: dict[tuple[str, str], str] = {}
        self._same: dict[str, str] = {}  # passage id -> another id of the same passage
        named: dict[tuple[str, str], str] = {}  # language and text -> key
        for record, id in sorted(zip(records, self.ids, strict=True), key=lambda pair: pair[1] not in self._given):
            language, text = record["language"], record["passage"]
            key = id if id in self._given else named.get((language, text), id)
            if self.texts.setdefault((key, language), text) != text:
                raise ValueError(
                    f"passage_id {key!r} stands for two texts in language {language!r}; give each passage its own id."
                )
            named.setdefault((language, text), key)
            for one in (id, key):
                self._same.setdefault(one, one)
            self._same[self._root(id)] = self._root(key)
        self._translations: dict[str, list[str]] = defaultdict(list)
        for key, language in sorted(self.texts, key=lambda place: place[1]):
            self._translations[self._root(key)].append(f"{language}:{key}")

    def answering(self, question: str, ids: Mapping[str, Sequence[str]]) -> list[str]:
        """All passages that answer a question, from the ids that answer it in each language it is asked in."""
        (first, known), *others = ids.items()
        for language, found in others:
            shared = set(map(self._root, known)) & set(map(self._root, found))
            if not shared and self._given.issuperset([*known, *found]):
                raise ValueError(
                    f"query_id {question!r} has the passages {known[0]!r} and {found[0]!r}; translations share one. If "
                    f"{first!r} and {language!r} ask different questions, give each its own id; if not, give the "
                    "passage and its translation one passage_id."
                )
        roots = dict.fromkeys(self._root(id) for found in ids.values() for id in found)
        return [passage for root in roots for passage in self._translations[root]]

    def _free(self, id: str) -> str:
        """An id for a passage without one, which must not be that of another passage."""
        while id in self._given:
            id += "'"
        return id

    def _root(self, id: str) -> str:
        while self._same[id] != id:
            self._same[id] = id = self._same[self._same[id]]
        return id


def _given(record: Mapping[str, Any], name: str, otherwise: str) -> str:
    """The id that the source gives; empty if it gives none."""
    return record[name] if name in record else record[otherwise]
