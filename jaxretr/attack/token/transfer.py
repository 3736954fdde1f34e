"""Corpus poisoning across languages: passages optimized on queries in one language, tested in every language.

Input: a victim and `PoisonedQueries`. Output: a `Poisoning`: for every pair of languages, the held-out queries that
have a poisoned passage in their top k.

ASR@k, the attack success rate, is the share of held-out queries with a poisoned passage in the top k.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64

from jaxretr.attack.language.alignment import WITHOUT_BLANKS
from jaxretr.attack.token.decoding import Triggers
from jaxretr.attack.token.engine import Engine
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.poisoned_queries import PoisonedQueries
from jaxretr.attack.token.poisoning import SLOTS, cluster_means, poison
from jaxretr.attack.token.precision import default_finalists
from jaxretr.attack.token.schedules import HOTFLIP, Schedule
from jaxretr.attack.token.vocabulary import Vocabulary
from jaxretr.attack.victim import Victim
from jaxretr.files import AnyPath
from jaxretr.tracking import say

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
      iterations: iterations of the search of each row; () in a file of an earlier version.
    """

    attack: str
    k: int
    optimised_on: tuple[str, ...]
    tested_on: tuple[str, ...]
    success: tuple[tuple[float, ...], ...]
    queries: tuple[int, ...]
    passages: tuple[tuple[str, ...], ...]
    forward_passes: tuple[float, ...]
    iterations: tuple[int, ...] = ()


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
            iterations=tuple(len(self.passages[x].searched_values) - 1 for x in self.languages),
        )


def poison_corpus(
    victim: Victim,
    queries: PoisonedQueries,
    masks: Mapping[str, Bool[np.ndarray, " vocab"]],
    *,
    attack: str = "hotflip",
    clusters: int,
    text: str = "",
    slots: int = SLOTS,
    schedule: Schedule = HOTFLIP,
    forward_passes: int | None = None,
    seed: int,
    resume: AnyPath | None = None,
) -> Poisoning:
    """Poison the corpus once per language, and test every poisoned corpus in all languages.

    Args:
      victim: the attacked model and collection.
      queries: queries of this victim to optimize on and to test on.
      masks: language -> rows of the embedding table that its passages may use. Equal masks compare languages of
        queries; masks by script compare languages of passages as well.
      attack: name of the schedule in results.
      clusters: poisoned passages per language.
      text, slots, schedule, forward_passes, seed: see `poison`.
      resume: directory of unfinished searches, one file per language.

    Raises:
      ValueError: a mask is missing; see also `poison`.
    """
    languages = queries.languages
    for language in languages:
        if language not in masks:
            raise ValueError(f"there is no mask for the language {language!r}, only for {', '.join(masks)}")
    passages, hits = {}, {}
    for x in languages:
        passages[x] = poison(
            victim.encoder,
            cluster_means(queries.optimise[x].embeddings, clusters, seed),
            masks[x],
            text=text,
            slots=slots,
            schedule=schedule,
            forward_passes=forward_passes,
            seed=seed,
            resume=resume / f"{x}.npz" if resume else None,
        )
        for y in languages:
            hits[x, y] = queries.test[y].hits(passages[x].embeddings[:, 0])
    ids = {y: queries.test[y].ids for y in languages}
    return Poisoning(attack, languages, queries.k, ids, hits, passages)


def poison_with(
    output_dir: AnyPath,
    victim: Victim,
    queries: PoisonedQueries,
    options: "AttackOptions",
    attack: str,
    schedule: Schedule,
) -> Poisoning:
    """Poison the corpus according to the options of a run; unfinished searches are kept below `output_dir` and resumed.

    The trigger of a language uses its own script.
    """
    vocabulary = Vocabulary.of(victim.encoder)
    # In a language without blanks between words, few pieces begin a word.
    masks = {x: vocabulary.in_language(x, word_initial=x not in WITHOUT_BLANKS) for x in queries.languages}
    if options.poison_passes is not None:
        engine = Engine(victim.encoder.functions, Similarity(), schedule, default_finalists())
        allowed = int(masks[queries.languages[0]].sum())
        iterations = engine.iterations(options.poison_passes, options.trigger_length, allowed)
        if iterations < schedule.fewest:
            say(
                f"{attack}: {options.poison_passes:,} forward passes are {iterations} iterations; below "
                f"{schedule.fewest}, a low success does not show that the model is robust. Without --poison_passes, "
                f"the search runs {schedule.iterations} iterations"
            )
    return poison_corpus(
        victim,
        queries,
        masks,
        attack=attack,
        clusters=options.passages,
        text=options.poison_text,
        slots=options.trigger_length,
        schedule=schedule,
        forward_passes=options.poison_passes,
        seed=options.seed,
        resume=output_dir / "poison" / attack,
    )
