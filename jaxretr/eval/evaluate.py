"""The evaluation of a retriever: a test collection and two encoding functions come in, `Results` go out.

Every text is encoded once, whatever the settings; the search is exact. Only the functions know the model, so a
baseline from another library or a perturbed encoder is evaluated in the same way.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Int

from jaxretr.eval.bias import OWN_LANGUAGE_SHARE, RANK_DISTANCE, own_language_share, rank_distance
from jaxretr.eval.measures import parse, per_query
from jaxretr.eval.results import Results, SettingResult, TaskResult, mean
from jaxretr.eval.settings import SETTINGS, Setting, Task, make_tasks
from jaxretr.retrieval.exact import ranks, search
from jaxretr.types import RetrievalSet

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts -> embeddings, float32 of shape [texts, dim]; L2-normalised where the score is to be the cosine."""

MEASURES = ("AP", "R@1", "R@10", "nDCG@10", "RR")


def evaluate(
    collection: RetrievalSet,
    encode_query: Encode,
    encode_document: Encode,
    *,
    settings: Sequence[Setting] = SETTINGS,
    measures: Sequence[str] = MEASURES,
) -> Results:
    """Measures retrieval in each setting, and language bias where `multi` is among them.

    Args:
      collection: queries, passages and judgements.
      encode_query: encodes the queries' texts; called once with all of them.
      encode_document: encodes the passages' full texts; called once with all of them.
      settings: which of `mono`, `cross` and `multi`.
      measures: names as ir_measures spells them.

    Raises:
      ValueError: the collection does not allow a setting (see `make_tasks`), a measure is unknown, or an encoder
        returned the wrong number of embeddings or values that are not finite.
    """
    parsed = parse(measures)
    tasks = make_tasks(collection, settings)
    queries = _encode("encode_query", encode_query, [q.text for q in collection.queries])
    passages = _encode("encode_document", encode_document, [p.full_text for p in collection.passages])

    found = [ranks(queries[t.queries], passages[t.passages], t.judged_query, t.judged_passage) for t in tasks]
    # All tasks in one call: rankings that look alike in several tasks are then measured once.
    sizes = np.array([len(t.queries) for t in tasks])
    offsets = np.cumsum(sizes) - sizes
    values = per_query(
        parsed,
        np.concatenate([t.judged_query + offset for t, offset in zip(tasks, offsets, strict=True)]),
        np.concatenate(found),
        np.concatenate([t.grade for t in tasks]),
        np.repeat([len(t.passages) for t in tasks], sizes),
    )

    results: dict[Setting, list[TaskResult]] = {setting: [] for setting in settings}
    for task, rank, offset in zip(tasks, found, offsets, strict=True):
        of_task = {name: value[offset : offset + len(task.queries)] for name, value in values.items()}
        if task.setting == "multi":
            of_task |= _bias(collection, task, rank, queries, passages)
        results[task.setting].append(
            TaskResult(
                query_language=task.query_language,
                corpus_language=task.corpus_language,
                queries=len(task.queries),
                dropped=task.dropped,
                passages=len(task.passages),
                measures={name: mean(value) for name, value in of_task.items()},
                query_ids=tuple(collection.queries[i].id for i in task.queries),
                per_query=of_task,
            )
        )
    return Results(collection.name, {setting: SettingResult(tuple(done)) for setting, done in results.items()})


def _bias(
    collection: RetrievalSet,
    task: Task,
    rank: Int[np.ndarray, " judged"],
    queries: Float32[np.ndarray, "all_queries dim"],
    passages: Float32[np.ndarray, "passages dim"],
) -> dict[str, np.ndarray]:
    _, top = search(queries[task.queries], passages[task.passages], min(10, len(task.passages)))
    own = np.array([collection.passages[i].language == task.query_language for i in task.passages])
    return {
        RANK_DISTANCE: rank_distance(task.judged_query, rank, task.grade, len(task.queries)),
        OWN_LANGUAGE_SHARE: own_language_share(own[top]),
    }


def _encode(name: str, encode: Encode, texts: Sequence[str]) -> np.ndarray:
    embeddings = np.asarray(encode(texts), np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(texts):
        raise ValueError(f"{name} returned shape {embeddings.shape}; expected [{len(texts)}, dim], a row for each text")
    broken = np.flatnonzero(~np.isfinite(embeddings).all(1))
    if len(broken):
        raise ValueError(
            f"{name} returned values that are not finite for {len(broken)} texts, the first {texts[broken[0]][:80]!r}; "
            "check the model's weights and its compute dtype"
        )
    return embeddings
