"""Queries to optimize on and queries to test on, disjoint by meaning.

Input: a test collection. Output: positions of queries. Translations of one question stay on one side. So do questions
with a common relevant passage: a passage optimized on one of them would be tested on its sibling.
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
      collection: its judgements tell which questions share a relevant passage, in any language.
      fraction: share of the questions to optimize on. Whole groups of connected questions are added until it is
        reached.
      seed: seed of the draw.

    Raises:
      ValueError: `fraction` is not between 0 and 1, or one side is left without any question.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected a share between 0 and 1 of the questions to optimise on")
    groups = _groups(collection)
    wanted = round(fraction * sum(map(len, groups)))
    chosen: set[str] = set()
    for i in np.random.default_rng(seed).permutation(len(groups)):
        if len(chosen) < wanted:
            chosen |= groups[i]
    side = np.array([query.key in chosen for query in collection.queries], bool)
    if side.all() or not side.any():
        raise ValueError(
            f"{collection.name}: a fraction of {fraction} leaves one side without questions; {len(collection.queries)} "
            f"queries make {len(groups)} groups that share no question and no relevant passage"
        )
    return Split(np.flatnonzero(side), np.flatnonzero(~side))


def check_disjoint(optimise: Iterable[Query], test: Iterable[Query]) -> None:
    """Check that no question is on both sides, in any language.

    Raises:
      ValueError: a question is on both sides; the message names it.
    """
    if both := {query.key for query in optimise} & {query.key for query in test}:
        raise ValueError(
            f"question {min(both)!r} is both optimised on and tested on ({len(both)} such questions), if in another "
            "language; divide the queries with disjoint_split"
        )


def _groups(collection: RetrievalSet) -> list[set[str]]:
    """Return the keys of questions connected by relevant passages, in the order of the queries."""
    groups: dict[str, set[str]] = {query.key: {query.key} for query in collection.queries}
    answered: dict[str, str] = {}  # passage key -> the first question with this relevant passage
    for key in groups:
        for passage, grade in collection.qrels.get(key, {}).items():
            if grade > 0:
                one, other = groups[key], groups[answered.setdefault(passage.partition(":")[2], key)]
                if one is not other:
                    one |= other
                    groups.update(dict.fromkeys(other, one))
    return list({id(group): group for group in groups.values()}.values())
