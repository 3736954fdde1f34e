"""Parallel passages of a test collection: translations of one passage, whose ids differ in the language alone.

A pool of all languages holds every parallel passage several times. Two remedies need to know the parallel passages:

- `distinct_answers` numbers the passages so that parallel passages share a number. A measure can then count distinct
  answers instead of passages.
- `mixed_pool` keeps one language of each parallel passage, so that the pool holds no copies.

Both check that equal keys mark translations. In some collections (sentences of XQuAD-R, all of MLQA-R, MIRACL), a key
numbers the passages of one language, and equal keys in two languages mean nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jaxretr.fingerprint import text_checksum
from jaxretr.types import RetrievalSet


def distinct_answers(collection: RetrievalSet) -> Int[np.ndarray, " passages"]:
    """Return the number of each passage's answer; parallel passages have the same number.

    Raises:
      ValueError: the collection has no parallel passages, or the judgements contradict its keys.
    """
    remedy = "count passages (counting='passages'), or load a collection with parallel passages"
    _languages_by_key(collection, "counting distinct answers", remedy)
    _, answers = np.unique([_key(id) for id in collection.passage_ids], return_inverse=True)
    return answers


def mixed_pool(collection: RetrievalSet, seed: int) -> RetrievalSet:
    """Return the collection with each parallel passage in one language; queries stay in all languages.

    The other copies and their judgements are dropped. The language of a passage depends only on the seed, the key of
    the passage and the languages that the passage exists in. Each of these languages is equally likely.

    Args:
      collection: queries, passages and judgements.
      seed: seed of the draw. It becomes part of the collection's name.

    Raises:
      ValueError: the collection has no parallel passages, or the judgements contradict its keys.
    """
    remedy = "use the full pool (--pool full), or load a collection with parallel passages"
    languages = _languages_by_key(collection, "a mixed pool", remedy)
    drawn = {key: _draw(seed, key, sorted(available)) for key, available in languages.items()}
    ids = collection.passage_ids
    kept = [i for i, id in enumerate(ids) if id == f"{drawn[_key(id)]}:{_key(id)}"]
    kept_ids = {ids[i] for i in kept}
    return dataclasses.replace(
        collection,
        name=f"{collection.name} in a mixed pool of seed {seed}",
        passages=collection.select_passages(kept),
        qrels={
            question: {id: grade for id, grade in grades.items() if id in kept_ids}
            for question, grades in collection.qrels.items()
        },
    )


def _draw(seed: int, key: str, languages: Sequence[str]) -> str:
    return languages[text_checksum(str(seed), key) % len(languages)]


def _languages_by_key(collection: RetrievalSet, purpose: str, remedy: str) -> dict[str, list[str]]:
    """Return the languages of each passage key, after the checks that `distinct_answers` describes."""
    languages: dict[str, list[str]] = {}
    for id in collection.passage_ids:
        language, _, key = id.partition(":")
        languages.setdefault(key, []).append(language)
    if all(len(available) < 2 for available in languages.values()):
        found = ", ".join(sorted(set(collection.passage_languages)))
        raise ValueError(
            f"{collection.name}: no key occurs in two languages among its {len(languages):,} passages in {found}; "
            f"{purpose} needs parallel passages, whose ids differ in the language alone: {remedy}"
        )
    _check_judgements(collection, languages, purpose, remedy)
    return languages


def _check_judgements(
    collection: RetrievalSet, languages: Mapping[str, Sequence[str]], purpose: str, remedy: str
) -> None:
    """Check that every translation of a relevant passage is relevant."""
    for question, grades in collection.qrels.items():
        relevant = {id for id, grade in grades.items() if grade > 0}
        for id in sorted(relevant):
            key = _key(id)
            copies = {f"{language}:{key}" for language in languages.get(key, ())}
            if contradicting := sorted(copies - relevant):
                raise ValueError(
                    f"{collection.name}: the passage {id} answers the question {question!r}, but {contradicting[0]} "
                    f"does not, so equal keys do not mark translations in this collection; {purpose} needs parallel "
                    f"passages: {remedy}, such as xquad-r with candidates 'paragraph'"
                )


def _key(id: str) -> str:
    return id.partition(":")[2]
