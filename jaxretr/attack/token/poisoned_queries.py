"""The queries that poison aims at: which to optimize on, which to test on, and the scores that poison must exceed.

Input: a victim in the setting `multi` or `mono`, and queries divided by meaning. Output: `PoisonedQueries`.

No new ranking is needed to measure poison: the best poisoned passage is in the top k of a query if and only if it
scores higher than the k-th clean passage, for any number of poisoned passages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32

from jaxretr.attack.token.split import Split, check_disjoint
from jaxretr.attack.victim import TOP, Victim
from jaxretr.retrieval.hubness import kth_scores


@dataclass(frozen=True)
class Side:
    """Queries of one language on one side of a split.

    Attributes:
      ids: ids of the queries.
      embeddings: clean embeddings.
      thresholds: score of each query's k-th clean passage.
    """

    ids: tuple[str, ...]
    embeddings: Float32[np.ndarray, "queries dim"] = field(repr=False)
    thresholds: Float32[np.ndarray, " queries"] = field(repr=False)

    def hits(self, adversarial: Float32[np.ndarray, "adversarial dim"]) -> Bool[np.ndarray, " queries"]:
        """Return which queries have one of the adversarial passages in their top k; see `reaches_top`."""
        return reaches_top(self.embeddings, adversarial, self.thresholds)


@dataclass(frozen=True)
class PoisonedQueries:
    """Queries that poison is optimized on and tested on, by language.

    Attributes:
      k: ranks that a poisoned passage must reach.
      optimise: language -> queries to optimize on.
      test: language -> held-out queries, in the same order of languages.
    """

    k: int
    optimise: Mapping[str, Side]
    test: Mapping[str, Side]

    @classmethod
    def of(cls, victim: Victim, split: Split, languages: Sequence[str] = (), k: int = TOP) -> "PoisonedQueries":
        """Return the queries of both sides of a split, with their thresholds.

        Args:
          victim: in the setting `multi` or `mono`.
          split: queries to optimize on and queries to test on, see `disjoint_split`.
          languages: languages to compare; () for all languages of the victim's tasks.
          k: the k of ASR@k.

        Raises:
          ValueError: the victim is in the setting `cross`, both sides share a question, or a language has no query on
            one side.
        """
        if any(task.setting == "cross" for task in victim.tasks):
            raise ValueError("setting 'cross' has several corpora per query; measure transfer in 'multi' or 'mono'")
        queries = victim.collection.queries
        check_disjoint((queries[i] for i in split.optimise), (queries[i] for i in split.test))
        tasks = {task.query_language: task for task in victim.tasks}
        sides: tuple[dict[str, Side], dict[str, Side]] = {}, {}
        for language in languages or tasks:
            if language not in tasks:
                raise ValueError(f"there are no queries in the language {language!r}, only for {', '.join(tasks)}")
            for side, positions in zip(sides, split, strict=True):
                rows = np.intersect1d(tasks[language].queries, positions)
                if not len(rows):
                    raise ValueError(
                        f"one side of the split has no query in {language!r}; use another seed or fraction"
                    )
                embeddings = victim.queries[rows]
                limits = kth_scores(embeddings, victim.corpus(tasks[language]), k)
                side[language] = Side(tuple(queries[i].id for i in rows), embeddings, limits)
        return cls(k, *sides)

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.test)


def reaches_top(
    queries: Float32[np.ndarray, "queries dim"],
    adversarial: Float32[np.ndarray, "adversarial dim"],
    thresholds: Float32[np.ndarray, " queries"],
) -> Bool[np.ndarray, " queries"]:
    """Return which queries have an adversarial passage in their top k after all adversarial passages join the corpus.

    An adversarial passage with exactly the score of the k-th clean passage ranks behind it, as if it were appended to
    the corpus.

    Args:
      queries: embeddings of queries.
      adversarial: embeddings of the adversarial passages, computed from their strings.
      thresholds: `kth_scores` of the queries in the corpus of clean passages.
    """
    return kth_scores(queries, adversarial, 1) > thresholds
