"""The evaluation of a retriever: a test collection and two encoding functions come in, `Results` go out.

Every text is encoded once, whatever the settings; the search is exact. Only the functions know the model, so a
baseline from another library or a perturbed encoder is evaluated in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload, override

import numpy as np
from ir_measures import Measure
from jaxtyping import Float32, Int, Int32
from rich.progress import track

from jaxretr import parallel
from jaxretr.eval import bias
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

_TOP = 10  # ranks in which the languages of passages are counted
_SHARD = 4096  # passages that an interruption costs at most


@dataclass(frozen=True, slots=True)
class Ranking:
    """The first passages for every query of a task.

    Attributes:
      task: whose queries they answer.
      scores: their inner products, best first.
      passages: their positions in the collection's passages; equal scores are in trec_eval's order.
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
    """Measures retrieval in each setting, and language bias where `multi` is among them.

    Args:
      collection: queries, passages and judgements.
      encode_query: encodes the queries' texts; called once with all of them.
      encode_document: encodes the passages' full texts.
      settings: which of `mono`, `cross` and `multi`.
      measures: names as ir_measures spells them.
      embeddings_dir: where the passages' embeddings are kept, so that the corpus may be larger than memory and an
        interrupted evaluation goes on; in memory where None.
      fingerprint: names the model that makes them; those of another model in `embeddings_dir` are made anew.
      calibrate: take the mean embedding of a language off its passages (`jaxretr.retrieval.calibration`); changes
        `multi` alone.
      on_ranking: called with the top of each task's ranking, one task after the other.
      depths: how many passages `on_ranking` gets, by setting; it is not called for tasks of other settings.

    Raises:
      ValueError: the collection does not allow a setting (see `make_tasks`), a measure is unknown, or an encoder
        returned the wrong number of embeddings, another width or values that are not finite.
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

    found: list[Int32[np.ndarray, " judged"]] = []
    tops: dict[int, Int32[np.ndarray, "queries k"]] = {}
    quiet = not (parallel.is_main_process() and console.is_terminal)
    for number, task in enumerate(track(tasks, "rank", console=console, transient=True, disable=quiet)):
        asked, corpus = queries[task.queries], _Slice(passages, task.passages)
        found.append(ranks(asked, corpus, task.judged_query, task.judged_passage))
        depth = depths.get(task.setting, 0) if on_ranking and depths else 0
        if k := min(max(depth, _TOP if task.setting == "multi" else 0), len(corpus)):
            scores, top = search(asked, corpus, k)
            tops[number] = top[:, :_TOP]
            if on_ranking and depth:
                on_ranking(Ranking(task, scores[:, :depth], pool.order[task.passages][top[:, :depth]]))

    results: dict[Setting, list[TaskResult]] = {setting: [] for setting in settings}
    for number, (task, rank, of_task) in enumerate(zip(tasks, found, measure_tasks(parsed, tasks, found), strict=True)):
        biased, mix = measure_bias(pool, task, rank, tops[number]) if task.setting == "multi" else ({}, {})
        of_task |= biased
        results[task.setting].append(
            TaskResult(
                query_language=task.query_language,
                corpus_language=task.corpus_language,
                queries=len(task.queries),
                dropped=task.dropped,
                passages=task.num_passages,
                measures={name: mean(value) for name, value in of_task.items()},
                query_ids=tuple(collection.queries[i].id for i in task.queries),
                per_query=of_task,
                language_mix=mix,
            )
        )
    return Results(
        collection.name,
        {setting: SettingResult(tuple(done)) for setting, done in results.items()},
        content=collection.fingerprint,
    )


def measure_tasks(
    measures: Sequence[Measure], tasks: Sequence[Task], ranks: Sequence[Int[np.ndarray, " _"]]
) -> list[dict[str, np.ndarray]]:
    """Each task's values per query, from the ranks of its judged passages.

    All tasks in one call: rankings that look alike in several are measured once.
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
    """The measures of language bias per query, and the mean share of each language in the top."""
    language = pool.language_numbers()
    judged = task.judged_query, rank, task.grade
    shares = bias.language_shares(language[top], len(pool.languages))
    of_language = dict(zip(pool.languages, shares.T, strict=True))
    queries = len(task.queries)
    return {
        bias.RANK_DISTANCE: bias.rank_distance(*judged, queries),
        bias.MAX_RANK: bias.max_rank(*judged, queries),
        bias.MAX_RANK_NORM: bias.max_rank_norm(*judged, queries, task.num_passages),
        bias.OWN_LANGUAGE_SHARE: of_language.get(task.query_language, np.full(queries, np.nan)),
        bias.PEER: bias.peer(*judged, language[task.judged_passage], queries),
    }, {name: float(of_language[name].mean()) for name in sorted(of_language)}


class _Texts(Sequence[str]):
    """What the encoder reads of the passages, in the pool's order; a slice is read together."""

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
    """Consecutive rows of embeddings that may be on disk; none is read before it is asked for."""

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
