"""Queries to optimize on and queries to test on, disjoint by meaning.

Input: a test collection. Output: positions of queries. Translations of one question stay on one side. So do questions
with a common relevant passage: otherwise, a passage optimized on one question would be tested on a related question.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxretr.types import Query, RetrievalSet


class Split(NamedTuple):
    """Positions in the collection's queries, ascending, of all languages."""

    optimise: Int[np.ndarray, " optimise"]
    test: Int[np.ndarray, " test"]


def disjoint_split(collection: RetrievalSet, fraction: float, seed: int) -> Split:
    """Divide the questions at random.

    Args:
      collection: collection whose judgements tell which questions share a relevant passage, in any language.
      fraction: share of the questions to optimize on. Whole groups of connected questions are added until this share is
        reached.
      seed: seed of the draw.

    Raises:
      ValueError: `fraction` is not between 0 and 1, or one side is left without any question.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; expected a share of the questions between 0 and 1, exclusive")
    groups = _groups(collection)
    target_size = round(fraction * sum(map(len, groups)))
    selected: set[str] = set()
    for i in np.random.default_rng(seed).permutation(len(groups)):
        if len(selected) < target_size:
            selected |= groups[i]
    is_selected = np.array([query.key in selected for query in collection.queries], bool)
    if is_selected.all() or not is_selected.any():
        raise ValueError(
            f"{collection.name}: a fraction of {fraction} leaves one side without questions; the "
            f"{len(collection.queries)} queries form only {len(groups)} groups without a common question or relevant "
            "passage; change the fraction, or use a larger collection"
        )
    return Split(np.flatnonzero(is_selected), np.flatnonzero(~is_selected))


def check_disjoint(optimise: Iterable[Query], test: Iterable[Query]) -> None:
    """Check that no question is on both sides, in any language.

    Raises:
      ValueError: a question is on both sides; the message names it.
    """
    if shared := {query.key for query in optimise} & {query.key for query in test}:
        raise ValueError(
            f"question {min(shared)!r} is on both sides, possibly in different languages ({len(shared)} such "
            "questions); divide the queries with disjoint_split"
        )


def _groups(collection: RetrievalSet) -> list[set[str]]:
    """Return the keys of questions connected by relevant passages, in the order of the queries."""
    groups: dict[str, set[str]] = {query.key: {query.key} for query in collection.queries}
    answered: dict[str, str] = {}  # passage key -> the first question with this relevant passage
    for key in groups:
        for passage, grade in collection.qrels.get(key, {}).items():
            if grade > 0:
                group, other = groups[key], groups[answered.setdefault(passage.partition(":")[2], key)]
                if group is not other:
                    group |= other
                    groups.update(dict.fromkeys(other, group))
    return list({id(group): group for group in groups.values()}.values())
