"""Corpus poisoning as part of a run of attacks: options come in, a `Poisoning` goes out.

Passages are optimised on the queries of one language, in its own script, and tested in every language, on questions
that no passage was optimised on, in whatever language.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxretr.attack import record
from jaxretr.attack.language.alignment import WITHOUT_BLANKS
from jaxretr.attack.options import SCHEDULES, AttackOptions
from jaxretr.attack.robustness import TOP
from jaxretr.attack.token import Transfer, Vocabulary, disjoint_split, transfer_matrix
from jaxretr.attack.victim import Victim
from jaxretr.eval.results import Results, SettingResult, mean
from jaxretr.files import AnyPath

POISONED = f"poisoned@{TOP}"
"""1 where a poisoned passage is among the first 10 of a held-out query; NaN for queries that it was optimised on."""


@dataclass(frozen=True)
class Poisoning:
    """The poisoned passages of every language.

    Attributes:
      attack: name of the schedule.
      transfer: who was hit.
    """

    attack: str
    transfer: Transfer

    @property
    def record(self) -> record.Transfer:
        """As reports show it."""
        found = self.transfer
        return record.Transfer(
            attack=self.attack,
            k=found.k,
            optimised_on=found.languages,
            tested_on=found.languages,
            success=record.as_tuples(found.matrix),
            queries=tuple(len(found.query_ids[language]) for language in found.languages),
            passages=tuple(tuple(text for (text,) in found.passages[x].texts) for x in found.languages),
            forward_passes=tuple(float(found.passages[x].forward_passes.mean()) for x in found.languages),
        )


def poison_all(output_dir: AnyPath, victim: Victim, options: AttackOptions, attack: str) -> Poisoning:
    """Poisons the corpus once for each query language; searches are kept below `output_dir` and gone on with."""
    vocabulary = Vocabulary.of(victim.encoder)
    languages = dict.fromkeys(task.query_language for task in victim.tasks)
    # Where no blanks part the words, few pieces begin one.
    masks = {x: vocabulary.in_language(x, word_initial=x not in WITHOUT_BLANKS) for x in languages}
    found = transfer_matrix(
        victim,
        disjoint_split(victim.collection, options.optimise, options.seed),
        masks,
        clusters=options.passages,
        k=TOP,
        slots=options.slots,
        schedule=SCHEDULES[attack],
        forward_passes=options.poison_passes,
        seed=options.seed,
        resume=output_dir / "poison" / attack,
    )
    return Poisoning(attack, found)


def with_poisoning(results: Results, poison: Sequence[Poisoning]) -> Results:
    """The results with "{attack}:{language} poisoned@10" for each language that passages were optimised on."""
    for one in poison:
        found = one.transfer
        hits = {
            (x, id): float(hit)
            for x in found.languages
            for y in found.languages
            for id, hit in zip(found.query_ids[y], found.hits[x, y], strict=True)
        }
        settings = {}
        for name, setting in results.settings.items():
            tasks = []
            for task in setting.tasks:
                values = {
                    f"{one.attack}:{x} {POISONED}": np.array([hits.get((x, id), np.nan) for id in task.query_ids])
                    for x in found.languages
                }
                tasks.append(
                    dataclasses.replace(
                        task,
                        measures=task.measures | {measure: mean(value) for measure, value in values.items()},
                        per_query=task.per_query | values,
                    )
                )
            settings[name] = SettingResult(tuple(tasks))
        results = dataclasses.replace(results, settings=settings)
    return results
