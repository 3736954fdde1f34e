"""The three settings of multilingual retrieval, and the retrieval tasks of each setting in a test collection.

| setting | queries | corpus | tasks |
|---|---|---|---|
| `mono` | one language | the same language | one per language |
| `cross` | one language | another language | one per ordered pair of languages |
| `multi` | one language | the pool of all languages | one per query language |

The figure of a setting is the mean over its tasks, so that every language has the same weight (Elmahdy et al., 2024,
arXiv:2408.10536; LAReQA, arXiv:2004.05484).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from jaxretr.fingerprint import text_checksum
from jaxretr.types import RetrievalSet

Setting = Literal["mono", "cross", "multi"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


@dataclass(frozen=True, slots=True)
class Pool:
    """The passages of all languages in descending order of id; the corpus of every task is a slice of them.

    A search that keeps equal scores in this order ranks as trec_eval does: by score, then by document id, both
    descending. An id is "{language}:{key}", so the passages of a language are contiguous.

    Attributes:
      order: positions of the passages in the collection.
      languages: languages of the passages, in the order of their slices.
      slices: the slice of each language's passages.
    """

    order: Int[np.ndarray, " passages"]
    languages: tuple[str, ...]
    slices: Mapping[str, slice]

    @classmethod
    def of(cls, collection: RetrievalSet) -> "Pool":
        """Return the pool of the passages of `collection`.

        Raises:
          ValueError: an id occurs twice, or a language tag contains a colon, which separates language and key in an id.
        """
        ids = collection.passage_ids
        order = sorted(range(len(ids)), key=ids.__getitem__, reverse=True)
        for at, next_at in pairwise(order):
            if ids[at] == ids[next_at]:
                raise ValueError(_twice(collection, "passage", ids[at]))
        sizes = Counter(collection.passage_languages)
        if broken := [language for language in sizes if ":" in language]:
            raise ValueError(
                f"{collection.name}: the language {broken[0]!r} has a colon, which ends the language in a passage id; "
                "use a tag such as pt-BR"
            )
        languages = tuple(sorted(sizes, key="{}:".format, reverse=True))
        ends = np.cumsum([sizes[language] for language in languages]).tolist()
        slices = {language: slice(end - sizes[language], end) for language, end in zip(languages, ends, strict=True)}
        return cls(np.array(order, np.int64), languages, slices)

    def slice_of(self, language: str | None) -> slice:
        """Return the slice of the passages of `language`, or of all languages if it is None."""
        return slice(0, len(self.order)) if language is None else self.slices[language]

    def language_numbers(self) -> Int[np.ndarray, " passages"]:
        """Return, for each passage of the pool, the index of its language in `languages`."""
        return np.repeat(np.arange(len(self.languages)), [s.stop - s.start for s in self.slices.values()])


@dataclass(frozen=True, slots=True)
class Task:
    """Queries of one language, one corpus to answer them from, and the judgements that concern both.

    Attributes:
      setting: the setting of the task.
      query_language: language of every query.
      corpus_language: language of every passage; None is the pool of all languages.
      queries: positions in the collection's queries; each query has a relevant passage in this corpus.
      passages: the corpus, as a slice of the pool.
      judged_query: for each judgement, its query's position in `queries`.
      judged_passage: for each judgement, its passage's position in `passages`, counted from the start of the slice.
      grade: for each judgement, the relevance; 0 means judged and irrelevant.
      dropped: number of queries of this language left out because nothing in this corpus is relevant to them.
    """

    setting: Setting
    query_language: str
    corpus_language: str | None
    queries: Int[np.ndarray, " queries"]
    passages: slice
    judged_query: Int[np.ndarray, " judged"]
    judged_passage: Int[np.ndarray, " judged"]
    grade: Int[np.ndarray, " judged"]
    dropped: int

    @property
    def num_passages(self) -> int:
        """Size of the corpus."""
        return self.passages.stop - self.passages.start

    def restricted(self, rows: Iterable[int]) -> "Task":
        """Return the task with these of its queries only, given as positions in `queries`, ascending."""
        kept = np.array(list(rows), np.int64)
        position = np.full(len(self.queries), -1)
        position[kept] = np.arange(len(kept))
        judged = position[self.judged_query] >= 0
        return replace(
            self,
            queries=self.queries[kept],
            judged_query=position[self.judged_query[judged]],
            judged_passage=self.judged_passage[judged],
            grade=self.grade[judged],
        )


def make_tasks(collection: RetrievalSet, pool: Pool, settings: Sequence[Setting] = SETTINGS) -> list[Task]:
    """Return all tasks of `settings` over `collection`, ordered by setting, then by language tags.

    If none of a language's queries has a relevant passage in a corpus, the two make no task.

    Args:
      collection: queries, passages and judgements.
      pool: the pool of the collection's passages.
      settings: which of `mono`, `cross` and `multi`.

    Raises:
      ValueError: a setting is unknown, or the collection's languages do not allow it; two queries have the same id; the
        collection lacks a judged passage; or no question has a relevant passage in a setting.
    """
    _check(collection, pool, settings)
    by_language: dict[str, list[int]] = {}
    for i, query in enumerate(collection.queries):
        by_language.setdefault(query.language, []).append(i)
    position = _positions(collection, pool)
    corpora = {
        language: _judgements(collection, position, pool.slice_of(language)) for language in (None, *pool.slices)
    }

    tasks: list[Task] = []
    for setting in dict.fromkeys(settings):
        before = len(tasks)
        for query_language, corpus_language in _pairs(setting, by_language, pool):
            candidates, known = by_language[query_language], corpora[corpus_language]
            queries = [i for i in candidates if collection.queries[i].key in known]
            judged = [
                (at, passage, grade)
                for at, i in enumerate(queries)
                for passage, grade in known[collection.queries[i].key]
            ]
            judged_query, judged_passage, grade = np.array(judged, np.int64).reshape(-1, 3).T
            if queries:
                tasks.append(
                    Task(
                        setting=setting,
                        query_language=query_language,
                        corpus_language=corpus_language,
                        queries=np.array(queries, np.int64),
                        passages=pool.slice_of(corpus_language),
                        judged_query=judged_query,
                        judged_passage=judged_passage,
                        grade=grade,
                        dropped=len(candidates) - len(queries),
                    )
                )
        if len(tasks) == before:
            raise ValueError(
                f"{collection.name}: no question has a relevant passage in the setting {setting!r}; "
                "check that questions and judgements share their keys, or leave this setting out"
            )
    return tasks


def drawn_pairs(tasks: Sequence[Task], collection: RetrievalSet, seed: int) -> list[Task]:
    """Return the tasks with each query in only one of them, so that each query searches one corpus.

    If there are many languages, attacking all pairs costs many times as much and adds little information. The corpus of
    a query depends only on the seed, the id of the query and the corpora that answer it. Each of these corpora is
    equally likely.

    Args:
      tasks: tasks of the setting `cross`.
      collection: the collection of the tasks.
      seed: seed of the draw.
    """
    corpora: dict[int, list[str]] = {}
    for task in tasks:
        for query in task.queries.tolist():
            corpora.setdefault(query, []).append(task.corpus_language or "")
    drawn = {
        query: sorted(languages)[text_checksum(str(seed), collection.queries[query].id) % len(languages)]
        for query, languages in corpora.items()
    }
    restricted = []
    unanswered = Counter(query.language for i, query in enumerate(collection.queries) if i not in corpora)
    for task in tasks:
        rows = [row for row, query in enumerate(task.queries.tolist()) if drawn[query] == task.corpus_language]
        if rows:  # the first task of a language counts the queries that no corpus answers
            dropped = unanswered.pop(task.query_language, 0)
            restricted.append(replace(task.restricted(rows), dropped=dropped))
    return restricted


def _positions(collection: RetrievalSet, pool: Pool) -> dict[str, int]:
    """Return the position of each judged passage in the pool."""
    judged = {id for grades in collection.qrels.values() for id in grades}
    ids = collection.passage_ids
    position = {ids[i]: at for at, i in enumerate(pool.order.tolist()) if ids[i] in judged}
    for key, grades in collection.qrels.items():
        for id in grades:
            if id not in position:
                raise ValueError(
                    f"{collection.name}: a judgement of question {key!r} names the passage {id!r}, which the "
                    "collection lacks; add the passage or drop the judgement"
                )
    return position


def _judgements(
    collection: RetrievalSet, position: Mapping[str, int], corpus: slice
) -> dict[str, list[tuple[int, int]]]:
    """Return, for each question with a relevant passage in the corpus, the judged passages there: position and
    grade."""
    judged = {}
    for key, grades in collection.qrels.items():
        known = [
            (position[id] - corpus.start, grade)
            for id, grade in grades.items()
            if corpus.start <= position[id] < corpus.stop
        ]
        if any(grade > 0 for _, grade in known):
            judged[key] = known
    return judged


def _pairs(setting: Setting, query_languages: Iterable[str], pool: Pool) -> list[tuple[str, str | None]]:
    """Return the query language and corpus language of each task of a setting."""
    in_queries, in_passages = sorted(query_languages), sorted(pool.languages)
    pairs: dict[Setting, list[tuple[str, str | None]]] = {
        "mono": [(language, language) for language in in_queries if language in pool.slices],
        "cross": [(a, b) for a in in_queries for b in in_passages if a != b],
        "multi": [(language, None) for language in in_queries] if len(in_passages) > 1 else [],
    }
    return pairs[setting]


def _check(collection: RetrievalSet, pool: Pool, settings: Sequence[Setting]) -> None:
    query_languages = {query.language for query in collection.queries}
    if not settings:
        raise ValueError(f"no settings given; choose from {', '.join(SETTINGS)}")
    for setting in settings:
        if setting not in SETTINGS:
            raise ValueError(f"unknown setting {setting!r}; the settings are {', '.join(SETTINGS)}")
        if not _pairs(setting, query_languages, pool):
            languages = ", ".join(sorted(query_languages | set(pool.languages))) or "no texts"
            raise ValueError(
                f"{collection.name} has no languages for the setting {setting!r}, only {languages}; "
                "leave this setting out, or add the missing languages"
            )
    if repeated := [id for id, count in Counter(query.id for query in collection.queries).items() if count > 1]:
        raise ValueError(_twice(collection, "query", repeated[0]))


def _twice(collection: RetrievalSet, kind: str, id: str) -> str:
    return f"{collection.name}: two {kind} texts have the id {id!r}; give each text its own key"
