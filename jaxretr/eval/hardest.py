"""The queries that a retriever answers worst: results with values per query and the top passages come in."""

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
    """A query, and what was retrieved for it.

    Attributes:
      query: the query.
      average_precision: in [0, 1].
      hits: the first passages, best first.
      relevant: number of relevant passages in the corpus.
      answer: one of them, in the query's language if there is one.
      first_relevant: the best rank of a relevant passage, from 1; None if it is below `depth`.
      depth: how many ranks were looked at.
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
    """The queries of lowest average precision below 1, spread over languages.

    Each language gives one in turn, the worst language first, and a question comes once whatever its languages.

    Args:
      tasks: of one setting; none is chosen from those that lack average precision per query.
      collection: what was evaluated on.
      top: id of a query -> its first passages, best first.
      count: at most so many are chosen.

    Returns:
      The queries by ascending average precision.

    Raises:
      ValueError: `top` lacks a query, or the collection a passage of `top`.
    """
    chosen = _choose(tasks, count)
    ids = [task.query_ids[at] for task, at in chosen]
    if missing := [id for id in ids if id not in top]:
        raise ValueError(f"there are no top passages of the query {missing[0]!r}; give those of every query")
    queries = {query.id: query for query in collection.queries if query.id in ids}
    answers = [_answers(collection, queries[id], task) for id, (task, _) in zip(ids, chosen, strict=True)]
    wanted = [[hit.passage_id for hit in top[id]] for id in ids]
    passages = _read(collection, {id for some in wanted for id in some} | {some[0] for some in answers})

    found = []
    for (task, at), id, relevant in zip(chosen, ids, answers, strict=True):
        hits = tuple(Hit(passages[hit.passage_id], hit.score, hit.passage_id in relevant) for hit in top[id])
        first = next((rank for rank, hit in enumerate(hits, 1) if hit.relevant), None)
        if first is None and "RR" in task.per_query:
            reciprocal = task.per_query["RR"][at]
            first = round(1 / reciprocal) if reciprocal else None
        found.append(
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
    return sorted(found, key=lambda query: (query.average_precision, query.query.id))


def _choose(tasks: Sequence[TaskResult], count: int) -> list[tuple[TaskResult, int]]:
    """Tasks and positions of queries in them."""
    with_values = sorted((task for task in tasks if "AP" in task.per_query), key=lambda task: task.measures["AP"])
    waiting = deque((task, iter(np.argsort(task.per_query["AP"], kind="stable").tolist())) for task in with_values)
    chosen: list[tuple[TaskResult, int]] = []
    keys: set[str] = set()
    while waiting and len(chosen) < count:
        task, order = waiting.popleft()
        for at in order:
            key = task.query_ids[at].partition(":")[2]
            if task.per_query["AP"][at] < 1 and key not in keys:
                keys.add(key)
                chosen.append((task, at))
                waiting.append((task, order))
                break
    return chosen


def _answers(collection: RetrievalSet, query: Query, task: TaskResult) -> list[str]:
    """Ids of the passages of the task's corpus that are relevant, those in the query's language first."""
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
            f"{collection.name} has no passage {missing[0]!r}, which is among the top ones; "
            "give the top passages and the collection of one evaluation"
        )
    return dict(zip(at, collection.take_passages(at.values()), strict=True))
