"""Turn training pairs into a test collection: decide which records are one question and which are one passage.

Input: the records of a held-out split (`jaxretr.data.schema`). Output: a `RetrievalSet` with one query per question and
language, all its answers, and each passage once per language.

- Records with the same question id are one question. A record without an id joins records with its text and language.
- Records with the same passage id are one passage and its translations. A record without an id joins records with its
  text and language.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxretr.types import Passage, Query, RetrievalSet


def collect(name: str, records: Iterable[Mapping[str, Any]]) -> RetrievalSet:
    """Return the test collection of all records.

    Args:
      name: name of the collection.
      records: training pairs, all held in memory. If a record lacks the fields `question_id` and `docid`, its
        `query_id` and `passage_id` are the ids.

    Raises:
      ValueError: one passage id stands for two texts, or the translations of a question share no passage.
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
        {key: dict.fromkeys(passages.answering(key, ids_by_language), 1) for key, ids_by_language in answers.items()},
    )


def _question_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the key of each record's question."""
    named: dict[tuple[str, str], str] = {}  # language and text -> key
    given = [_given(record, "question_id", "query_id") for record in records]
    for record, id in sorted(zip(records, given, strict=True), key=lambda pair: not pair[1]):  # records with ids first
        named.setdefault((record["language"], record["query"]), id or record["query_id"])
    return [id or named[record["language"], record["query"]] for record, id in zip(records, given, strict=True)]


class _Passages:
    """The passages of some records, and which of them are translations of each other.

    Attributes:
      ids: passage id of each record.
      texts: text of each passage, by key and language.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        given = [_given(record, "docid", "passage_id") for record in records]
        self._given = set(given) - {""}
        self.ids = [id or self._unused_id(record["passage_id"]) for record, id in zip(records, given, strict=True)]
        self.texts: dict[tuple[str, str], str] = {}
        self._parent: dict[str, str] = {}  # union-find: passage id -> another id of the same passage
        named: dict[tuple[str, str], str] = {}  # language and text -> key
        for record, id in sorted(zip(records, self.ids, strict=True), key=lambda pair: pair[1] not in self._given):
            language, text = record["language"], record["passage"]
            key = id if id in self._given else named.get((language, text), id)
            if self.texts.setdefault((key, language), text) != text:
                raise ValueError(
                    f"passage_id {key!r} stands for two texts in language {language!r}; give each passage its own id."
                )
            named.setdefault((language, text), key)
            for member in (id, key):
                self._parent.setdefault(member, member)
            self._parent[self._root(id)] = self._root(key)
        self._translations: dict[str, list[str]] = defaultdict(list)
        for key, language in sorted(self.texts, key=lambda place: place[1]):
            self._translations[self._root(key)].append(f"{language}:{key}")

    def answering(self, question: str, ids: Mapping[str, Sequence[str]]) -> list[str]:
        """Return all passages that answer a question, given the ids of its answers in each language."""
        (first, first_ids), *others = ids.items()
        for language, other_ids in others:
            shared = set(map(self._root, first_ids)) & set(map(self._root, other_ids))
            if not shared and self._given.issuperset([*first_ids, *other_ids]):
                raise ValueError(
                    f"query_id {question!r} has the passages {first_ids[0]!r} and {other_ids[0]!r}, but translations "
                    f"must share one. If {first!r} and {language!r} ask different questions, give each its own id; "
                    "otherwise give the passage and its translation one passage_id."
                )
        roots = dict.fromkeys(self._root(id) for ids_of_language in ids.values() for id in ids_of_language)
        return [passage for root in roots for passage in self._translations[root]]

    def _unused_id(self, id: str) -> str:
        """Return an id for a passage without one that no other passage has."""
        while id in self._given:
            id += "'"
        return id

    def _root(self, id: str) -> str:
        while self._parent[id] != id:
            self._parent[id] = id = self._parent[self._parent[id]]
        return id


def _given(record: Mapping[str, Any], name: str, otherwise: str) -> str:
    """Return the id that the source gives, or an empty string."""
    return record[name] if name in record else record[otherwise]
