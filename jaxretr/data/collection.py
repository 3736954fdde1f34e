"""Load prepared data as a test collection.

Input: a prepared builder (`jaxretr.data.sources`) of training pairs or retrieval records, and a split. Output: a
`RetrievalSet`. Queries and judgements are in memory, and so are the passages of training pairs. The passages of a
corpus stay on disk.
"""

import random
from collections.abc import Collection, Mapping, Sequence

import tensorflow_datasets as tfds

from jaxretr.data import pair_collection, schema, stored_passages
from jaxretr.data.sources import files
from jaxretr.data.stored_passages import StoredPassages
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
    """Load the queries and judgements of `split`, and all passages that they are searched in.

    For training pairs, the corpus is the passages of the split, each once per language. A query is answered by its
    passages in every language that has them. Records become one question or one passage by their ids or, without ids,
    by equal texts (`jaxretr.data.pair_collection`).

    Queries without a relevant passage in the selected languages, such as queries with grades of 0 only, are kept:
    `make_tasks` leaves them out of every task and counts them as dropped.

    Passages without title and text are kept, because published collections have such passages and published measures
    count them (Cranfield has two, one of them relevant). A line on stderr says how many there are. If only such
    passages answer a question, this is an error.

    Args:
      builder: a prepared builder.
      split: the split of the queries.
      languages: languages of queries and passages; None for all.
      max_queries: number of questions to keep, with all their translations, drawn from the questions with a relevant
        passage; None keeps all questions.
      parallel_only: keep only questions that exist in every one of `languages`.
      seed: seed of the draw of questions.

    Raises:
      ValueError: the data lacks the split or a language, a query is empty, only passages without text answer a
        question, the judgements name unknown passages, or one id has two texts.
    """
    splits = [name for name in builder.info.splits if name != schema.CORPUS_SPLIT]
    if split not in splits:
        raise ValueError(f"{builder.name} has no split {split!r}; it has {', '.join(splits) or 'none'}.")
    if max_queries is not None and max_queries < 1:
        raise ValueError(f"max_queries={max_queries} must be positive, or None for all.")
    everything = _read_pairs(builder, split) if "passage" in builder.info.features else _read_corpus(builder, split)

    available = everything.languages
    languages = list(languages or available)
    if missing := sorted(set(languages) - set(available)):
        raise ValueError(f"{everything.name} has no language {', '.join(missing)}; it has {', '.join(available)}.")
    queries = [query for query in everything.queries if query.language in languages]
    passages = _select(everything.passages, languages)
    qrels = {
        key: {passage: grade for passage, grade in grades.items() if passage.partition(":")[0] in languages}
        for key, grades in everything.qrels.items()
    }
    _check(RetrievalSet(everything.name, tuple(queries), passages, qrels))

    keys = {query.key for query in queries}
    if parallel_only:
        existing = {(query.key, query.language) for query in queries}
        keys = {key for key in keys if all((key, language) in existing for language in languages)}
    if max_queries is not None:
        answered = answered_questions({key: qrels[key] for key in keys})
        if max_queries < len(answered):
            keys = draw_questions(answered, max_queries, seed)
    return RetrievalSet(
        name=everything.name,
        queries=tuple(query for query in queries if query.key in keys),
        passages=passages,
        qrels={key: qrels[key] for key in sorted(keys)},
    )


def answered_questions(qrels: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the keys of the questions with a relevant passage, sorted."""
    return sorted(key for key, grades in qrels.items() if any(grade > 0 for grade in grades.values()))


def draw_questions(answered: Sequence[str], count: int, seed: int) -> set[str]:
    """Return the keys of the `count` questions that `load_collection(max_queries=count, seed=seed)` keeps."""
    return set(random.Random(seed).sample(answered, count))


def _read_pairs(builder: tfds.core.DatasetBuilder, split: str) -> RetrievalSet:
    return pair_collection.collect(f"{builder.name}/{split}", schema.scan(builder, split))


def _read_corpus(builder: tfds.core.DatasetBuilder, split: str) -> RetrievalSet:
    queries: list[Query] = []
    qrels: dict[str, dict[str, int]] = {}
    for record in schema.scan(builder, split):
        queries.append(Query(record["key"], record["language"], record["text"]))
        judged = zip(record["relevant_ids"], record["relevances"], strict=True)
        qrels.setdefault(record["key"], {}).update(judged)
    return RetrievalSet(f"{builder.name}/{split}", tuple(queries), stored_passages.load(builder), qrels)


def _select(passages: Sequence[Passage], languages: Collection[str]) -> Sequence[Passage]:
    if isinstance(passages, StoredPassages):
        return passages.select(languages)
    return tuple(passage for passage in passages if passage.language in languages)


def _check(collection: RetrievalSet) -> None:
    if empty := [query.id for query in collection.queries if not query.text.strip()]:
        raise ValueError(f"Queries without text: {_first_ids(empty)}. Add the texts, or remove the queries.")
    judged = {passage for grades in collection.qrels.values() for passage in grades}
    if unknown := judged.difference(collection.passage_ids):
        raise ValueError(
            f"The judgements name passages that are not in the corpus: {_first_ids(unknown)}. "
            "Add the passages, or remove the judgements."
        )
    _check_blank(collection)


def _check_blank(collection: RetrievalSet) -> None:
    passages = collection.passages
    if isinstance(passages, StoredPassages):
        blank = set(passages.blank)
    else:
        blank = {passage.id for passage in passages if not passage.full_text.strip()}
    if not blank:
        return
    relevant = {
        key: {passage for passage, grade in grades.items() if grade > 0} for key, grades in collection.qrels.items()
    }
    if unanswerable := [key for key, answers in relevant.items() if answers and answers <= blank]:
        raise ValueError(
            f"{collection.name}: only passages without text answer the questions {_first_ids(unanswerable)}. "
            "Give the passages their texts, or remove the questions from the judgements."
        )
    judged = len(blank & set().union(*relevant.values()))
    files.CONSOLE.print(
        f"{collection.name}: {len(blank):,} of {len(passages):,} passages have no text ({judged:,} of them judged "
        "relevant); they stay in the corpus, because published measures count them.",
        highlight=False,
        soft_wrap=True,
    )


def _first_ids(ids: Collection[str]) -> str:
    return f"{', '.join(sorted(ids)[:5])}{', ...' if len(ids) > 5 else ''} ({len(ids)})"
