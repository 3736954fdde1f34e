"""From options to trials: which attack with which budget runs on which tasks, in what order.

In: a `Victim` and `AttackOptions`. Out: `Plan`s, each of which attacks one task when it is called.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from jaxretr.attack.embedding.method import EmbeddingAttack, Scale, measure_scale
from jaxretr.attack.embedding.passages import AttackedPassages, attack_passages, chosen_passages
from jaxretr.attack.embedding.queries import attack_language_bias, attack_queries
from jaxretr.attack.language import DirectionAttacks, code_mixing, language_directions, language_switch
from jaxretr.attack.options import GRADIENT, SCHEDULES, SUITE, SUITE_AIMS, AttackOptions
from jaxretr.attack.record import Family, Unit
from jaxretr.attack.text import text_attack
from jaxretr.attack.victim import Attacked, Victim
from jaxretr.eval.settings import Task
from jaxretr.perturb.text import PERTURBATIONS

Run = Callable[[Task, Attacked | AttackedPassages | None], Attacked | AttackedPassages]
"""(task, what the next smaller budget left, if there is one) -> what this budget leaves."""


@dataclass(frozen=True)
class Plan:
    """One attack with one budget, to be run on every task.

    Attributes:
      attack, budget, reference, facts: see `jaxretr.attack.robustness.Trial`.
      family, unit: see `jaxretr.attack.record.TrialRecord`.
      run: attacks a task.
    """

    attack: str
    family: Family
    budget: float | None
    unit: Unit
    reference: bool
    run: Run
    facts: dict[str, float] = field(default_factory=dict)


def plans(victim: Victim, options: AttackOptions) -> Iterator[Plan]:
    """All trials on queries and passages in the order they run; budgets of an attack ascend. Poisoning is not one."""
    scale = attacked_scale(victim, options)
    for attack in options.named:
        if attack in GRADIENT and scale is not None:
            yield from _gradient_plans(victim, options, attack, scale)
        elif attack in PERTURBATIONS:
            run = partial(
                text_attack,
                victim,
                perturb=PERTURBATIONS[attack],
                search=options.search,
                edits=options.edits,
                budget=options.texts,
                seed=options.seed,
            )
            yield Plan(attack, "text", float(options.edits), "edits", True, _alone(run))
        elif attack == "language_switch":
            yield Plan(attack, "language", None, "", True, _alone(partial(language_switch, victim)))
        elif attack == "code_mixing":
            words = 3 * options.edits
            run = partial(code_mixing, victim, words=words, budget=options.texts, seed=options.seed)
            yield Plan(attack, "language", float(words), "words", True, _alone(run))
        elif attack == "language_direction":
            yield from _direction_plans(victim, options)
    if options.attacks == (SUITE,):
        for aim, attack in SUITE_AIMS.items():
            if aim != "language" or victim.tasks[0].setting == "multi":
                aimed = dataclasses.replace(options, aim=aim, attacks=(attack,), rho=(options.reference_rho,))
                yield from plans(victim, aimed)


def attacked_scale(victim: Victim, options: AttackOptions) -> Scale | None:
    """The scale of the checkpoint over the texts that gradient attacks perturb; None where there are none.

    Over the queries of all tasks, or over the attacked passages.
    """
    if not set(options.named) & set(GRADIENT):
        return None
    if options.aim in ("demote", "promote"):
        texts = {
            passage.full_text: None
            for task in victim.tasks
            for passage in victim.collection.take_passages(
                victim.pool.order[task.passages][chosen_passages(victim, task, options.aim)].tolist()
            )
        }
        ids = victim.encoder.passage_tokenization(list(texts))
    else:
        positions = np.unique(np.concatenate([task.queries for task in victim.tasks]))
        ids = victim.encoder.query_tokenization([victim.collection.queries[i].text for i in positions])
    return measure_scale(victim.encoder, ids, options.layer)


def poisonings(options: AttackOptions) -> list[str]:
    """The schedules of corpus poisoning that are named."""
    return [name for name in options.named if name in SCHEDULES]


def _gradient_plans(victim: Victim, options: AttackOptions, attack: str, scale: Scale) -> Iterator[Plan]:
    method = options.method(attack)
    name = attack if options.aim == "query" else f"{options.aim}_{attack}"
    for rho in options.budgets(attack):
        yield Plan(
            name,
            "passage" if options.aim in ("demote", "promote") else "embedding",
            rho,
            "rho",
            rho == options.reference_rho and attack != "random" and options.aim == "query",
            _gradient_run(victim, options, method, rho, scale),
            {"epsilon": rho * scale.row_norm, "epsilon_over_nearest_row": rho * scale.row_norm / scale.nearest_row},
        )


def _gradient_run(victim: Victim, options: AttackOptions, method: EmbeddingAttack, rho: float, scale: Scale) -> Run:
    match options.aim:
        case "query":
            run = partial(attack_queries, victim, attack=method, rho=rho, scale=scale, seed=options.seed)
            return lambda task, smaller: run(
                task, loss=options.query_loss, smaller=smaller if isinstance(smaller, Attacked) else None
            )
        case "language":
            return _alone(partial(attack_language_bias, victim, attack=method, rho=rho, scale=scale, seed=options.seed))
    return _alone(
        partial(attack_passages, victim, attack=method, goal=options.aim, rho=rho, scale=scale, seed=options.seed)
    )


def _direction_plans(victim: Victim, options: AttackOptions) -> Iterator[Plan]:
    for position, kind in enumerate(DirectionAttacks._fields):
        for radius in options.budgets("language_direction"):
            yield Plan(
                f"{kind}_direction",
                "language",
                radius,
                "radius",
                False,  # it moves the pooled vector, which no input does by itself
                _alone(partial(_direction, victim, position=position, radius=radius, seed=options.seed)),
            )


def _direction(victim: Victim, task: Task, *, position: int, radius: float, seed: int) -> Attacked:
    return language_directions(victim, task, [radius], seed=seed)[position][0]


def _alone(run: Callable[[Task], Attacked | AttackedPassages]) -> Run:
    """An attack that does not look at what a smaller budget left."""
    return lambda task, _: run(task)
