"""Prepared data as a test collection in memory.

In: a prepared builder (`jaxretr.data.sources`) of either kind of records, and a split. Out: a `RetrievalSet`.
"""

import random
from collections.abc import Collection, Iterable, Sequence

import tensorflow_datasets as tfds

from jaxretr.data import schema
from jaxretr.types import Passage, Query, RetrievalSet


def load_collection(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    languages: Sequence[str] | None = None,
    max_queries: int | None = None,
    parallel_only: bool = False,
    seed: int = 0,
) -> RetrievalSet:
    """Reads the queries of `split`, all passages they are searched in, and the judgements.

    Of training pairs, the passages are those of the split itself, once per language, and a query's answer is its
    passage in every language that has it. Queries that have no relevant passage in the chosen languages are left out.
    Passages without text stay where a published collection has them; its measures count them.

    Args:
      languages: those of queries and passages; all where None.
      max_queries: so many question keys, drawn by `seed`, are kept with all their translations; all where None.
      parallel_only: keep only the questions that are asked in every one of `languages`.

    Raises:
      ValueError: a split or language that the data lacks, an empty query, judgements that name unknown passages, or one
        id for two texts.
    """
    read = _read_pairs if "passage" in builder.info.features else _read_collection
    queries, passages, qrels = read(builder, split)

    present = sorted({query.language for query in queries} & {passage.language for passage in passages})
    languages = list(languages or present)
    if missing := sorted(set(languages) - set(present)):
        raise ValueError(f"{builder.name}/{split} has no language {', '.join(missing)}; it has {', '.join(present)}.")
    queries = [query for query in queries if query.language in languages]
    passages = [passage for passage in passages if passage.language in languages]
    qrels = {
        key: {passage: grade for passage, grade in grades.items() if passage.partition(":")[0] in languages}
        for key, grades in qrels.items()
    }
    _check(queries, passages, qrels)

    keys = {query.key for query in queries if any(grade > 0 for grade in qrels[query.key].values())}
    if parallel_only:
        asked = {(query.key, query.language) for query in queries}
        keys = {key for key in keys if all((key, language) in asked for language in languages)}
    if max_queries is not None:
        keys = set(random.Random(seed).sample(sorted(keys), min(max_queries, len(keys))))
    return RetrievalSet(
        name=f"{builder.name}/{split}",
        queries=tuple(query for query in queries if query.key in keys),
        passages=tuple(passages),
        qrels={key: qrels[key] for key in sorted(keys)},
    )


_Parts = tuple[list[Query], list[Passage], dict[str, dict[str, int]]]


def _read_pairs(builder: tfds.core.DatasetBuilder, split: str) -> _Parts:
    queries: list[Query] = []
    passages: dict[tuple[str, str], Passage] = {}
    answers: dict[str, str] = {}
    for record in schema.scan(builder, split):
        key, language, answer = record["query_id"], record["language"], record["passage_id"]
        queries.append(Query(key, language, record["query"]))
        passage = passages.setdefault((answer, language), Passage(answer, language, record["passage"]))
        if passage.text != record["passage"]:
            raise ValueError(f"passage_id {answer!r} stands for two texts in language {language!r}.")
        if answers.setdefault(key, answer) != answer:
            raise ValueError(
                f"query_id {key!r} has the passages {answers[key]!r} and {answer!r}; translations share one."
            )
    languages = {language for _, language in passages}
    qrels = {
        key: {passages[answer, language].id: 1 for language in sorted(languages) if (answer, language) in passages}
        for key, answer in answers.items()
    }
    return queries, list(passages.values()), qrels


def _read_collection(builder: tfds.core.DatasetBuilder, split: str) -> _Parts:
    queries: list[Query] = []
    qrels: dict[str, dict[str, int]] = {}
    for record in schema.scan(builder, split):
        queries.append(Query(record["key"], record["language"], record["text"]))
        judged = zip(record["relevant_ids"], record["relevances"], strict=True)
        qrels.setdefault(record["key"], {}).update(judged)
    passages = [
        Passage(record["key"], record["language"], record["text"], record["title"])
        for record in schema.scan(builder, schema.CORPUS_SPLIT)
    ]
    return queries, passages, qrels


def _check(queries: Iterable[Query], passages: Iterable[Passage], qrels: dict[str, dict[str, int]]) -> None:
    if empty := [query.id for query in queries if not query.text.strip()]:
        raise ValueError(f"Queries without text: {_some(empty)}.")
    known = {passage.id for passage in passages}
    unknown = {passage for grades in qrels.values() for passage in grades} - known
    if unknown:
        raise ValueError(f"The judgements name passages that the corpus lacks: {_some(unknown)}.")


def _some(ids: Collection[str]) -> str:
    return f"{', '.join(sorted(ids)[:5])}{', ...' if len(ids) > 5 else ''} ({len(ids)})"
