"""The queries that a retriever answers worst.

Input: results with values per query, the collection, and the top passages. Output: the hardest queries with their hits.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxretr.eval.measures import DEPTH
from jaxretr.eval.results import TaskResult
from jaxretr.types import Passage, Query, RetrievalSet, ScoredPassage


@dataclass(frozen=True)
class Hit:
    """A retrieved passage and its score."""

    passage: Passage
    score: float
    relevant: bool


@dataclass(frozen=True)
class HardQuery:
    """A query, and the passages retrieved for it.

    Attributes:
      query: the query.
      average_precision: average precision, in [0, 1].
      hits: the first passages, best first.
      relevant: number of relevant passages in the corpus.
      answer: a relevant passage, in the query's language if there is one.
      first_relevant: the best rank of a relevant passage, from 1; None if it is below `depth`.
      depth: number of ranks that were searched for a relevant passage.
    """

    query: Query
    average_precision: float
    hits: tuple[Hit, ...]
    relevant: int
    answer: Passage
    first_relevant: int | None
    depth: int


def hardest(
    tasks: Sequence[TaskResult], collection: RetrievalSet, top: Mapping[str, Sequence[ScoredPassage]], count: int
) -> list[HardQuery]:
    """Return the queries with the lowest average precision below 1, spread over languages.

    The languages take turns, starting with the worst one; each turn selects one query. A question is selected at most
    once, in one of its languages.

    Args:
      tasks: tasks of one setting; tasks without average precision per query are skipped.
      collection: the evaluated collection.
      top: id of a query -> its first passages, best first.
      count: maximum number of queries.

    Returns:
      The queries in ascending order of average precision.

    Raises:
      ValueError: `top` lacks a selected query, or names a passage that the collection lacks.
    """
    selected = _choose(tasks, count)
    ids = [task.query_ids[at] for task, at in selected]
    if missing := [id for id in ids if id not in top]:
        raise ValueError(f"no top passages for the query {missing[0]!r}; give the top passages of every query")
    queries = {query.id: query for query in collection.queries if query.id in ids}
    answers = [_answers(collection, queries[id], task) for id, (task, _) in zip(ids, selected, strict=True)]
    wanted = [[hit.passage_id for hit in top[id]] for id in ids]
    passages = _read(
        collection,
        {id for top_ids in wanted for id in top_ids} | {answer_ids[0] for answer_ids in answers},
    )

    hard_queries = []
    for (task, at), id, relevant in zip(selected, ids, answers, strict=True):
        hits = tuple(Hit(passages[hit.passage_id], hit.score, hit.passage_id in relevant) for hit in top[id])
        first = next((rank for rank, hit in enumerate(hits, 1) if hit.relevant), None)
        if first is None and "RR" in task.per_query:
            reciprocal = task.per_query["RR"][at]
            first = round(1 / reciprocal) if reciprocal else None
        hard_queries.append(
            HardQuery(
                query=queries[id],
                average_precision=float(task.per_query["AP"][at]),
                hits=hits,
                relevant=len(relevant),
                answer=passages[relevant[0]],
                first_relevant=first,
                depth=min(DEPTH, task.passages) if "RR" in task.per_query else len(hits),
            )
        )
    return sorted(hard_queries, key=lambda query: (query.average_precision, query.query.id))


def _choose(tasks: Sequence[TaskResult], count: int) -> list[tuple[TaskResult, int]]:
    """Return the task of each selected query, and the query's position in that task."""
    with_values = sorted((task for task in tasks if "AP" in task.per_query), key=lambda task: task.measures["AP"])
    waiting = deque((task, iter(np.argsort(task.per_query["AP"], kind="stable").tolist())) for task in with_values)
    selected: list[tuple[TaskResult, int]] = []
    keys: set[str] = set()
    while waiting and len(selected) < count:
        task, order = waiting.popleft()
        for at in order:
            key = task.query_ids[at].partition(":")[2]
            if task.per_query["AP"][at] < 1 and key not in keys:
                keys.add(key)
                selected.append((task, at))
                waiting.append((task, order))
                break
    return selected


def _answers(collection: RetrievalSet, query: Query, task: TaskResult) -> list[str]:
    """Return the ids of the relevant passages in the task's corpus, passages in the query's language first."""
    judged = [(id.partition(":")[0], id) for id, grade in collection.qrels[query.key].items() if grade > 0]
    in_corpus = [
        (language != query.language, id) for language, id in judged if task.corpus_language in (None, language)
    ]
    return [id for _, id in sorted(in_corpus)]


def _read(collection: RetrievalSet, ids: Iterable[str]) -> dict[str, Passage]:
    wanted = set(ids)
    at = {id: i for i, id in enumerate(collection.passage_ids) if id in wanted}
    if missing := sorted(wanted - at.keys()):
        raise ValueError(
            f"{collection.name} has no passage {missing[0]!r}, which is among the top passages; "
            "give the top passages and the collection of one evaluation"
        )
    return dict(zip(at, collection.take_passages(at.values()), strict=True))
