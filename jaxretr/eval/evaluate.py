"""Evaluate a retriever on a test collection.

Input: a collection and two encoding functions. Output: `Results`. Each text is encoded once for all settings, and the
search is exact. Only the two functions depend on the model, so a baseline from another library or a perturbed encoder
is evaluated in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload, override

import numpy as np
from ir_measures import Measure
from jaxtyping import Float32, Float64, Int, Int32
from rich.progress import track

from jaxretr import parallel
from jaxretr.eval.bias import BIAS_MEASURES, BIAS_SETTING, PooledRanking, language_shares
from jaxretr.eval.measures import parse, per_query
from jaxretr.eval.results import Results, SettingResult, TaskResult, mean
from jaxretr.eval.settings import SETTINGS, Pool, Setting, Task, make_tasks
from jaxretr.files import AnyPath
from jaxretr.retrieval.calibration import Calibrated
from jaxretr.retrieval.embeddings import Encode, Rows, check_embeddings, embed
from jaxretr.retrieval.exact import ranks, search
from jaxretr.tracking import console
from jaxretr.types import RetrievalSet

MEASURES = ("AP", "R@1", "R@10", "nDCG@10", "RR")

_TOP = 10  # ranks over which the languages of passages are counted
_SHARD = 4096  # passages per shard: an interruption loses at most one shard of embeddings


@dataclass(frozen=True, slots=True)
class Ranking:
    """The first passages for every query of a task.

    Attributes:
      task: the task.
      scores: inner products of the passages with the query, in descending order.
      passages: positions of the passages in the collection; equal scores are ordered as in trec_eval.
    """

    task: Task
    scores: Float32[np.ndarray, "queries k"]
    passages: Int[np.ndarray, "queries k"]


def evaluate(
    collection: RetrievalSet,
    encode_query: Encode,
    encode_document: Encode,
    *,
    settings: Sequence[Setting] = SETTINGS,
    measures: Sequence[str] = MEASURES,
    embeddings_dir: AnyPath | None = None,
    fingerprint: str = "",
    calibrate: bool = False,
    on_ranking: Callable[[Ranking], None] | None = None,
    depths: Mapping[Setting, int] | None = None,
) -> Results:
    """Measure retrieval in each setting, and language bias if `multi` is one of the settings.

    Args:
      collection: queries, passages and judgements.
      encode_query: encodes the texts of queries; called once with all of them.
      encode_document: encodes the full texts of passages.
      settings: which of `mono`, `cross` and `multi`.
      measures: names as in ir_measures.
      embeddings_dir: directory for the embeddings of the passages. With it, the corpus may be larger than memory, and
        an interrupted evaluation can resume. None keeps the embeddings in memory.
      fingerprint: identifies the model; embeddings of another model in `embeddings_dir` are computed again.
      calibrate: subtract the mean embedding of each language from its passages (`jaxretr.retrieval.calibration`). Only
        the results of `multi` change.
      on_ranking: called with the top of each task's ranking, one task after the other.
      depths: number of passages that `on_ranking` receives, by setting. It is not called for tasks of other settings.

    Raises:
      ValueError: the collection does not allow a setting (see `make_tasks`); a measure is unknown; or an encoding
        function returned the wrong number of embeddings, embeddings of different widths, or values that are not finite.
    """
    parsed = parse(measures)
    pool = Pool.of(collection)
    tasks = make_tasks(collection, pool, settings)
    query_texts, texts = [query.text for query in collection.queries], _Texts(collection, pool)
    queries = check_embeddings(encode_query(query_texts), query_texts, "encode_query")
    passages: Rows
    if embeddings_dir is None:
        in_memory = texts[:]
        passages = check_embeddings(encode_document(in_memory), in_memory, "encode_document")
    else:
        passages = embed(texts, encode_document, embeddings_dir, fingerprint=fingerprint, shard_size=_SHARD)

    if calibrate:
        passages = Calibrated(passages, pool.language_numbers())

    ranks_of_tasks: list[Int32[np.ndarray, " judged"]] = []
    tops: dict[int, Int32[np.ndarray, "queries k"]] = {}
    quiet = not (parallel.is_main_process() and console.is_terminal)
    for number, task in enumerate(track(tasks, "rank", console=console, transient=True, disable=quiet)):
        task_queries, corpus = queries[task.queries], _Slice(passages, task.passages)
        ranks_of_tasks.append(ranks(task_queries, corpus, task.judged_query, task.judged_passage))
        depth = depths.get(task.setting, 0) if on_ranking and depths else 0
        if k := min(max(depth, _TOP if task.setting == BIAS_SETTING else 0), len(corpus)):
            scores, top = search(task_queries, corpus, k)
            tops[number] = top[:, :_TOP]
            if on_ranking and depth:
                on_ranking(Ranking(task, scores[:, :depth], pool.order[task.passages][top[:, :depth]]))

    results: dict[Setting, list[TaskResult]] = {setting: [] for setting in settings}
    for number, (task, rank, values) in enumerate(
        zip(tasks, ranks_of_tasks, measure_tasks(parsed, tasks, ranks_of_tasks), strict=True)
    ):
        bias_values, mix = measure_bias(pool, task, rank, tops[number]) if task.setting == BIAS_SETTING else ({}, {})
        values |= bias_values
        results[task.setting].append(task_result(collection, task, values, mix))
    return Results(
        collection.name,
        {setting: SettingResult(tuple(task_results)) for setting, task_results in results.items()},
        content=collection.fingerprint,
    )


def task_result(
    collection: RetrievalSet, task: Task, values: dict[str, Float64[np.ndarray, " queries"]], mix: dict[str, float]
) -> TaskResult:
    """Return the result of a task, with the means of its measures.

    Args:
      collection: the collection that the task indexes.
      task: the queries and the corpus.
      values: value of each measure for each query; NaN if undefined.
      mix: share of each passage language in the top 10; empty outside the multilingual setting.
    """
    return TaskResult(
        query_language=task.query_language,
        corpus_language=task.corpus_language,
        queries=len(task.queries),
        dropped=task.dropped,
        passages=task.num_passages,
        measures={name: mean(value) for name, value in values.items()},
        query_ids=tuple(collection.queries[i].id for i in task.queries),
        per_query=values,
        language_mix=mix,
    )


def measure_tasks(
    measures: Sequence[Measure], tasks: Sequence[Task], ranks: Sequence[Int[np.ndarray, " _"]]
) -> list[dict[str, np.ndarray]]:
    """Return each task's values per query, computed from the ranks of its judged passages.

    Pass all tasks in one call: rankings that occur in several tasks are then measured once.
    """
    sizes = np.array([len(task.queries) for task in tasks])
    starts = np.cumsum(sizes) - sizes
    values = per_query(
        measures,
        np.concatenate([task.judged_query + start for task, start in zip(tasks, starts, strict=True)]),
        np.concatenate(ranks),
        np.concatenate([task.grade for task in tasks]),
        np.repeat([task.num_passages for task in tasks], sizes),
    )
    split = {name: np.split(value, starts[1:]) for name, value in values.items()}
    return [{name: parts[i] for name, parts in split.items()} for i in range(len(tasks))]


def measure_bias(
    pool: Pool, task: Task, rank: Int[np.ndarray, " judged"], top: Int[np.ndarray, "queries k"]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the measures of language bias per query, and the mean share of each language in the top ranks."""
    language, query_language = pool.language_numbers(), task.query_language
    ranking = PooledRanking(
        query=task.judged_query,
        rank=rank,
        grade=task.grade,
        language=language[task.judged_passage],
        top=language[top],
        query_language=pool.languages.index(query_language) if query_language in pool.languages else None,
        num_passages=task.num_passages,
    )
    shares = language_shares(ranking.top, len(pool.languages))
    mix = {name: float(share.mean()) for name, share in sorted(zip(pool.languages, shares.T, strict=True))}
    return {name: measure.values(ranking) for name, measure in BIAS_MEASURES.items()}, mix


class _Texts(Sequence[str]):
    """The full texts of the passages in the order of the pool; a slice is read in one call."""

    def __init__(self, collection: RetrievalSet, pool: Pool):
        self._collection, self._order = collection, pool.order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    @override
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [passage.full_text for passage in self._collection.take_passages(self._order[index].tolist())]
        return self._collection.take_passages([int(self._order[index])])[0].full_text


class _Slice:
    """Consecutive rows of embeddings that may be on disk; rows are read only when they are indexed."""

    def __init__(self, rows: Rows, where: slice):
        self._rows, self._where = rows, where

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._rows.shape[1]

    def __len__(self) -> int:
        return self._where.stop - self._where.start

    def __getitem__(self, index: slice) -> np.ndarray:
        start, stop, _ = index.indices(len(self))
        return self._rows[self._where.start + start : self._where.start + stop]
