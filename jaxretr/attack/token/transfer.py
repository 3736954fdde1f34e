"""Corpus poisoning across languages: passages optimized on queries in one language, tested in every language.

Input: a victim in the setting `multi` or `mono`, and queries divided by meaning. Output: a `Poisoning`: for every pair
of languages, the held-out queries that have a poisoned passage in their top k.

ASR@k, the attack success rate, is the share of held-out queries with a poisoned passage in the top k. No new ranking is
needed: the best poisoned passage is in the top k if and only if it scores higher than the k-th clean passage, for any
number of poisoned passages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Float64

from jaxretr.attack.language.alignment import WITHOUT_BLANKS
from jaxretr.attack.token.decoding import Triggers
from jaxretr.attack.token.poisoning import SLOTS, cluster_means, poison
from jaxretr.attack.token.schedules import HOTFLIP, Schedule
from jaxretr.attack.token.split import Split, check_disjoint, disjoint_split
from jaxretr.attack.token.vocabulary import Vocabulary
from jaxretr.attack.victim import TOP, Victim
from jaxretr.files import AnyPath
from jaxretr.retrieval.embeddings import Rows
from jaxretr.retrieval.exact import search
from jaxretr.retrieval.scores import scores_at

if TYPE_CHECKING:
    from jaxretr.attack.options import AttackOptions


@dataclass(frozen=True)
class Transfer:
    """The success of poisoned passages of every language on queries in every language, as stored in `attacks.json`.

    Attributes:
      attack: name of the search schedule.
      k: ranks that a poisoned passage must reach.
      optimised_on: languages of the queries that passages were optimized on; the rows.
      tested_on: languages of the held-out queries; the columns.
      success: share of held-out queries with a poisoned passage in the top k.
      queries: number of held-out queries per column.
      passages: the poisoned passages of each row, as strings.
      forward_passes: mean cost per passage of each row.
    """

    attack: str
    k: int
    optimised_on: tuple[str, ...]
    tested_on: tuple[str, ...]
    success: tuple[tuple[float, ...], ...]
    queries: tuple[int, ...]
    passages: tuple[tuple[str, ...], ...]
    forward_passes: tuple[float, ...]


@dataclass(frozen=True)
class Poisoning:
    """The poisoned passages of every language, and the queries they hit.

    Attributes:
      attack: name of the search schedule.
      languages: languages of rows and columns.
      k: the k of ASR@k.
      query_ids: ids of the held-out queries of each language, in the order of the hits.
      hits: (language optimized on, language tested on) -> which held-out queries were hit.
      passages: the passages optimized on each language.
    """

    attack: str
    languages: tuple[str, ...]
    k: int
    query_ids: Mapping[str, tuple[str, ...]] = field(repr=False)
    hits: Mapping[tuple[str, str], Bool[np.ndarray, " queries"]] = field(repr=False)
    passages: Mapping[str, Triggers] = field(repr=False)

    @property
    def matrix(self) -> Float64[np.ndarray, "optimised tested"]:
        """ASR@k: one row per language optimized on, one column per language tested on."""
        return np.array([[self.hits[x, y].mean() for y in self.languages] for x in self.languages])

    @property
    def transfer(self) -> Transfer:
        """The summary for `attacks.json`."""
        return Transfer(
            attack=self.attack,
            k=self.k,
            optimised_on=self.languages,
            tested_on=self.languages,
            success=tuple(tuple(row) for row in self.matrix.tolist()),
            queries=tuple(len(self.query_ids[language]) for language in self.languages),
            passages=tuple(tuple(text for (text,) in self.passages[x].texts) for x in self.languages),
            forward_passes=tuple(float(self.passages[x].forward_passes.mean()) for x in self.languages),
        )


def poison_corpus(
    victim: Victim,
    split: Split,
    masks: Mapping[str, Bool[np.ndarray, " vocab"]],
    *,
    attack: str = "hotflip",
    languages: Sequence[str] = (),
    clusters: int,
    k: int = TOP,
    slots: int = SLOTS,
    schedule: Schedule = HOTFLIP,
    forward_passes: int,
    seed: int,
    resume: AnyPath | None = None,
) -> Poisoning:
    """Poison the corpus once per language, and test every poisoned corpus in all languages.

    Args:
      victim: in the setting `multi` or `mono`.
      split: queries to optimize on and queries to test on, see `disjoint_split`.
      masks: language -> rows of the embedding table that its passages may use. Equal masks compare languages of
        queries; masks by script compare languages of passages as well.
      attack: name of the schedule in results.
      languages: languages to compare; () for all languages of the victim's tasks.
      clusters: poisoned passages per language.
      k: the k of ASR@k.
      slots, schedule, forward_passes, seed: see `poison`.
      resume: directory of unfinished searches, one file per language.

    Raises:
      ValueError: the victim is in the setting `cross`, both sides of the split share a question, a language has no
        query on one side, or a mask is missing.
    """
    if any(task.setting == "cross" for task in victim.tasks):
        raise ValueError("setting 'cross' has several corpora per query; measure transfer in 'multi' or 'mono'")
    queries = victim.collection.queries
    check_disjoint((queries[i] for i in split.optimise), (queries[i] for i in split.test))
    tasks = {task.query_language: task for task in victim.tasks}
    languages = tuple(languages or tasks)
    optimise, test = {}, {}
    for language in languages:
        if language not in tasks or language not in masks:
            what, known = ("queries", tasks) if language not in tasks else ("mask", masks)
            raise ValueError(f"there is no {what} for the language {language!r}, only for {', '.join(known)}")
        optimise[language], test[language] = (np.intersect1d(tasks[language].queries, side) for side in split)
        if not len(optimise[language]) or not len(test[language]):
            raise ValueError(f"one side of the split has no query in {language!r}; use another seed or fraction")
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
    ids = {y: tuple(queries[i].id for i in test[y]) for y in languages}
    return Poisoning(attack, languages, k, ids, hits, passages)


def poison_with(
    output_dir: AnyPath, victim: Victim, options: "AttackOptions", attack: str, schedule: Schedule
) -> Poisoning:
    """Poison the corpus according to the options of a run; unfinished searches are kept below `output_dir` and resumed.

    The passages of a language use its own script. They are tested on questions that no passage was optimized on, in any
    language.
    """
    vocabulary = Vocabulary.of(victim.encoder)
    languages = dict.fromkeys(task.query_language for task in victim.tasks)
    # In a language without blanks between words, few pieces begin a word.
    masks = {x: vocabulary.in_language(x, word_initial=x not in WITHOUT_BLANKS) for x in languages}
    return poison_corpus(
        victim,
        disjoint_split(victim.collection, options.optimise, options.seed),
        masks,
        attack=attack,
        clusters=options.passages,
        slots=options.slots,
        schedule=schedule,
        forward_passes=options.poison_passes,
        seed=options.seed,
        resume=output_dir / "poison" / attack,
    )


def thresholds(queries: Float32[np.ndarray, "queries dim"], passages: Rows, k: int) -> Float32[np.ndarray, " queries"]:
    """Return the score of each query's k-th passage in the clean corpus.

    Raises:
      ValueError: the corpus has fewer than `k` passages.
    """
    return _scores_at_rank(queries, passages, k)


def reaches_top(
    queries: Float32[np.ndarray, "queries dim"],
    adversarial: Float32[np.ndarray, "adversarial dim"],
    thresholds: Float32[np.ndarray, " queries"],
) -> Bool[np.ndarray, " queries"]:
    """Return which queries have an adversarial passage in their top k after all adversarial passages join the corpus.

    An adversarial passage with exactly the score of the k-th clean passage ranks behind it, as if it were appended to
    the corpus.

    Args:
      queries: embeddings of held-out queries.
      adversarial: embeddings of the adversarial passages, computed from their strings.
      thresholds: see the function `thresholds`.
    """
    return _scores_at_rank(queries, adversarial, 1) > thresholds


def _scores_at_rank(
    queries: Float32[np.ndarray, "queries dim"], passages: Rows, rank: int
) -> Float32[np.ndarray, " queries"]:
    """Return, per query, the score of the passage at a rank, comparable with the scores of other searches."""
    _, positions = search(queries, passages, rank)
    return scores_at(queries, passages, np.arange(len(queries)), positions[:, -1])
