"""Cross-lingual transfer of corpus poisoning: passages optimised on queries in one language, tested in every language.

In: a victim in the setting `multi` or `mono`, and queries divided by meaning. Out: for every pair of languages, which
held-out queries have an adversarial passage among their first k, in the pool of all languages or in their own corpus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64

from jaxretr.attack.token.poisoning import SLOTS, cluster_means, poison
from jaxretr.attack.token.schedules import HOTFLIP, Schedule
from jaxretr.attack.token.split import Split, check_disjoint
from jaxretr.attack.token.strings import Triggers
from jaxretr.attack.token.success import reaches_top, thresholds
from jaxretr.attack.victim import Victim
from jaxretr.files import AnyPath


@dataclass(frozen=True)
class Transfer:
    """What poisoned passages of every language do to every language.

    Attributes:
      languages: of rows and columns.
      k: of ASR@k.
      query_ids: the held-out queries of each language, in the order of the hits.
      hits: (language optimised on, language tested in) -> which held-out queries were hit; to be paired by id, within
        a language, or by key, between languages.
      passages: what was optimised on each language.
    """

    languages: tuple[str, ...]
    k: int
    query_ids: Mapping[str, tuple[str, ...]] = field(repr=False)
    hits: Mapping[tuple[str, str], Bool[np.ndarray, " queries"]] = field(repr=False)
    passages: Mapping[str, Triggers] = field(repr=False)

    @property
    def matrix(self) -> Float64[np.ndarray, "optimised tested"]:
        """ASR@k; one row for each language optimised on, one column for each tested in."""
        return np.array([[self.hits[x, y].mean() for y in self.languages] for x in self.languages])


def transfer_matrix(
    victim: Victim,
    split: Split,
    masks: Mapping[str, Bool[np.ndarray, " vocab"]],
    *,
    languages: Sequence[str] = (),
    clusters: int,
    k: int = 10,
    slots: int = SLOTS,
    schedule: Schedule = HOTFLIP,
    forward_passes: int,
    seed: int,
    resume: AnyPath | None = None,
) -> Transfer:
    """Poisons the corpus once for each language, and tests each time in all of them.

    Args:
      victim: in the setting `multi` or `mono`.
      split: which queries to optimise on and which to test on, see `disjoint_split`.
      masks: language -> rows of the embedding table that its passages may use; equal masks compare languages of
        queries, masks by script compare languages of passages too.
      languages: to compare; none for all of the victim's tasks.
      clusters: adversarial passages of each language.
      k: of ASR@k.
      slots, schedule, forward_passes, seed: see `poison`.
      resume: a directory that holds the searches so far, a file for each language.

    Raises:
      ValueError: the victim is in the setting `cross`, the two sides of the split share a question, a language has no
        query on one side, or a mask is missing.
    """
    if any(task.setting == "cross" for task in victim.tasks):
        raise ValueError("in the setting 'cross' a query has several corpora; measure transfer in 'multi' or 'mono'")
    asked = victim.collection.queries
    check_disjoint((asked[i] for i in split.optimise), (asked[i] for i in split.test))
    tasks = {task.query_language: task for task in victim.tasks}
    languages = tuple(languages or tasks)
    optimise, test = {}, {}
    for language in languages:
        if language not in tasks or language not in masks:
            what, known = ("queries", tasks) if language not in tasks else ("mask", masks)
            raise ValueError(f"no {what} for the language {language!r}, only for {', '.join(known)}")
        optimise[language], test[language] = (np.intersect1d(tasks[language].queries, side) for side in split)
        if not len(optimise[language]) or not len(test[language]):
            raise ValueError(f"one side of the split has no query in {language!r}; divide the questions another way")
    limits = {y: thresholds(victim.queries[test[y]], victim.corpus(tasks[y]), k) for y in languages}
    passages, hits = {}, {}
    for x in languages:
        targets = cluster_means(victim.queries[optimise[x]], clusters, seed)
        passages[x] = poison(
            victim.encoder,
            targets,
            masks[x],
            slots=slots,
            schedule=schedule,
            forward_passes=forward_passes,
            seed=seed,
            resume=resume / f"{x}.npz" if resume else None,
        )
        for y in languages:
            hits[x, y] = reaches_top(victim.queries[test[y]], passages[x].embeddings[:, 0], limits[y])
    ids = {y: tuple(asked[i].id for i in test[y]) for y in languages}
    return Transfer(languages, k, ids, hits, passages)
