"""The three settings of multilingual retrieval: a test collection comes in, the retrieval tasks of each setting go out.

| setting | queries | corpus | tasks |
|---|---|---|---|
| `mono` | one language | the same language | one per language |
| `cross` | one language | another language | one per ordered pair of languages |
| `multi` | one language | the pool of all languages | one per query language |

A setting's figure is the mean over its tasks, so that every language counts alike (Elmahdy et al., 2024,
arXiv:2408.10536; LAReQA, arXiv:2004.05484).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from jaxretr.types import RetrievalSet

Setting = Literal["mono", "cross", "multi"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


@dataclass(frozen=True, slots=True)
class Task:
    """Queries of one language to be answered from one corpus, with what is known to be relevant there.

    Attributes:
      setting: the setting it belongs to.
      query_language: language of every query.
      corpus_language: language of every passage; None stands for the pool of all languages.
      queries: positions in the collection's queries; each has a relevant passage in this corpus.
      passages: positions in the collection's passages, by descending passage id: a search that leaves equal scores in
        the order of the passages then ranks as trec_eval does (score descending, then document id descending).
      judged_query: for each judgement, its query's position in `queries`.
      judged_passage: for each judgement, its passage's position in `passages`.
      grade: for each judgement, the relevance; 0 is judged and irrelevant.
      dropped: queries of this language left out because nothing in this corpus is relevant to them.
    """

    setting: Setting
    query_language: str
    corpus_language: str | None
    queries: Int[np.ndarray, " queries"]
    passages: Int[np.ndarray, " passages"]
    judged_query: Int[np.ndarray, " judged"]
    judged_passage: Int[np.ndarray, " judged"]
    grade: Int[np.ndarray, " judged"]
    dropped: int


def make_tasks(collection: RetrievalSet, settings: Sequence[Setting] = SETTINGS) -> list[Task]:
    """All tasks of `settings` over `collection`, in the order of the settings, then of the languages' tags.

    A pair of languages none of whose queries can be answered makes no task.

    Raises:
      ValueError: an unknown setting; a setting that the collection's languages do not allow; an id that occurs twice;
        a judgement about a passage that the collection lacks; no question that can be answered.
    """
    _check(collection, settings)
    by_language: dict[str, list[int]] = {}
    for i, query in enumerate(collection.queries):
        by_language.setdefault(query.language, []).append(i)
    corpora: dict[str | None, _Corpus] = {}
    for corpus_language in {None, *(p.language for p in collection.passages)}:
        corpora[corpus_language] = _Corpus(collection, corpus_language)

    tasks: list[Task] = []
    for setting in dict.fromkeys(settings):
        before = len(tasks)
        for query_language, corpus_language in _pairs(setting, collection):
            candidates, corpus = by_language[query_language], corpora[corpus_language]
            task = _make_task(collection, setting, query_language, candidates, corpus)
            if len(task.queries):
                tasks.append(task)
        if len(tasks) == before:
            raise ValueError(
                f"{collection.name}: no question has a relevant passage in the setting {setting!r}; "
                "check that questions and judgements share their keys, or leave this setting out"
            )
    return tasks


class _Corpus:
    """The passages of one language, or of all, in trec_eval's order, and their judgements by question."""

    def __init__(self, collection: RetrievalSet, language: str | None):
        self.language = language
        members = [i for i, p in enumerate(collection.passages) if language in (None, p.language)]
        members.sort(key=lambda i: collection.passages[i].id, reverse=True)
        self.passages = np.array(members, np.int64)
        position = {collection.passages[i].id: at for at, i in enumerate(members)}
        self.judgements = {
            key: [(position[id], grade) for id, grade in judged.items() if id in position]
            for key, judged in collection.qrels.items()
        }


def _make_task(
    collection: RetrievalSet, setting: Setting, query_language: str, candidates: Sequence[int], corpus: _Corpus
) -> Task:
    queries: list[int] = []
    judged: list[tuple[int, int, int]] = []
    for i in candidates:
        known = corpus.judgements.get(collection.queries[i].key, [])
        if any(grade > 0 for _, grade in known):
            judged.extend((len(queries), position, grade) for position, grade in known)
            queries.append(i)
    judged_query, judged_passage, grade = np.array(judged, np.int64).reshape(-1, 3).T
    return Task(
        setting=setting,
        query_language=query_language,
        corpus_language=corpus.language,
        queries=np.array(queries, np.int64),
        passages=corpus.passages,
        judged_query=judged_query,
        judged_passage=judged_passage,
        grade=grade,
        dropped=len(candidates) - len(queries),
    )


def _pairs(setting: Setting, collection: RetrievalSet) -> list[tuple[str, str | None]]:
    """Query language and corpus language of each task of a setting."""
    query_languages = sorted({q.language for q in collection.queries})
    corpus_languages = sorted({p.language for p in collection.passages})
    pairs: dict[Setting, list[tuple[str, str | None]]] = {
        "mono": [(language, language) for language in collection.languages],
        "cross": [(a, b) for a in query_languages for b in corpus_languages if a != b],
        "multi": [(language, None) for language in query_languages] if len(corpus_languages) > 1 else [],
    }
    return pairs[setting]


def _check(collection: RetrievalSet, settings: Sequence[Setting]) -> None:
    name = collection.name
    if not settings:
        raise ValueError(f"no settings given; choose from {', '.join(SETTINGS)}")
    for setting in settings:
        if setting not in SETTINGS:
            raise ValueError(f"unknown setting {setting!r}; the settings are {', '.join(SETTINGS)}")
        if not _pairs(setting, collection):
            languages = sorted({q.language for q in collection.queries} | {p.language for p in collection.passages})
            raise ValueError(
                f"{name} has no languages for the setting {setting!r}, only {', '.join(languages) or 'no texts'}; "
                "leave this setting out, or add the missing languages"
            )
    passage_ids = _unique(name, "passage", (p.id for p in collection.passages))
    _unique(name, "query", (q.id for q in collection.queries))
    for key, judged in collection.qrels.items():
        for id in judged:
            if id not in passage_ids:
                raise ValueError(
                    f"{name}: a judgement of question {key!r} names the passage {id!r}, which the collection lacks; "
                    "add the passage or drop the judgement"
                )


def _unique(name: str, kind: str, ids: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise ValueError(f"{name}: two {kind} texts have the id {id!r}; give each its own key")
        seen.add(id)
    return seen
