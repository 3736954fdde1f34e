"""Every attack by name: what it changes, what its budgets mean, and how it runs.

To add a gradient attack, write one file in `jaxretr/attack/gradient` with the search and its cost (an `Algorithm`), and
add one line to `ATTACKS`. To add an edit of texts, add one entry to `jaxretr.perturb.text.PERTURBATIONS`.

Input: a `Victim` and `AttackOptions`. Output: for every trial of a run, in the order of the run, the planned `Trial`
and the function that runs it on one task.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxretr.attack.gradient.apgd import APGD
from jaxretr.attack.gradient.attack import GradientAttack, Scale, measure_scale
from jaxretr.attack.gradient.black_box import BLACK_BOX, RANDOM
from jaxretr.attack.gradient.minimum_norm import CORE, FMN
from jaxretr.attack.gradient.passages import attack_passages, attacked_passages
from jaxretr.attack.gradient.pgd import FGM, PGD
from jaxretr.attack.gradient.queries import attack_language_bias, attack_queries
from jaxretr.attack.gradient.space import Algorithm
from jaxretr.attack.gradient.targeted import FROM_LANGUAGE, TARGETED
from jaxretr.attack.language import code_mixing, language_directions, language_switch
from jaxretr.attack.language.directions import DIRECTIONS, Direction
from jaxretr.attack.result import AttackResult, Family, Trial
from jaxretr.attack.text.attack import text_attack, together
from jaxretr.attack.text.prompts import prompt_attack
from jaxretr.attack.token.ceiling import CEILING
from jaxretr.attack.token.schedules import AGGD, GASLITE, GCG, HOTFLIP, Schedule
from jaxretr.attack.victim import Victim
from jaxretr.eval.settings import Task
from jaxretr.perturb.balls import Norm
from jaxretr.perturb.text import (
    PERTURBATIONS,
    Perturb,
    cases,
    homoglyphs,
    invisible,
    typos,
    without_diacritics,
    wrong_diacritics,
)
from jaxretr.tracking import say

if TYPE_CHECKING:
    from jaxretr.attack.options import AttackOptions

COMBINED = (typos, homoglyphs, invisible, cases, without_diacritics, wrong_diacritics)
"""Kinds of edits that the attack `combined` chooses from at each edit."""
_PER_KIND = 32  # texts of each kind that `combined` draws from per text

Run = Callable[[Sequence[Task], Sequence[AttackResult] | None], Sequence[AttackResult]]
"""(tasks, their results of the same attack at the next smaller budget or None) -> their results at this budget."""


class Context(NamedTuple):
    """The inputs that all attacks of a run share.

    Attributes:
      victim: model and collection.
      options: the settings of the run.
      scale: length scale of the checkpoint; None if no gradient attack runs.
    """

    victim: Victim
    options: "AttackOptions"
    scale: Scale | None


class Attack(NamedTuple):
    """A registered attack.

    Attributes:
      family: what the attack changes.
      plan: (name, context) -> the attack's trials, by ascending budget. Corpus poisoning has no trials: it attacks the
        corpus once, not the queries of each task.
      algorithm: the search of a gradient attack, else None.
      schedule: the search schedule of corpus poisoning, else None.
    """

    family: Family
    plan: Callable[[str, Context], Iterator[tuple[Trial, Run]]]
    algorithm: Algorithm | None = None
    schedule: Schedule | None = None


def gradient(algorithm: Algorithm, norm: Norm | None = None, loss: str | None = None) -> Attack:
    """Return a gradient attack; `norm` and `loss` override those of the options."""
    return Attack("embedding", partial(_gradient_trials, norm=norm, loss=loss), algorithm)


def text(perturb: Perturb) -> Attack:
    """Return a black-box search over one kind of edit."""
    return Attack("text", partial(_text_trials, perturb=perturb))


def poisoning(schedule: Schedule | None) -> Attack:
    """Return corpus poisoning by one search schedule, see `jaxretr.attack.token.transfer`.

    Without a schedule, only the ceiling is measured, see `jaxretr.attack.token.ceiling`.
    """
    return Attack("token", lambda name, context: iter(()), schedule=schedule)


def _gradient_trials(
    name: str, context: Context, *, norm: Norm | None, loss: str | None
) -> Iterator[tuple[Trial, Run]]:
    victim, options, scale = context
    attack = options.gradient_attack(name)
    if norm:
        attack = dataclasses.replace(attack, norm=norm)
    if loss or attack.algorithm.minimal:
        options = dataclasses.replace(options, loss=loss or "margin")
    if scale is None:
        raise AssertionError("a gradient attack has no scale")
    if attack.algorithm.uses_directions and name not in options.attacks:
        languages = {query.language for query in victim.collection.queries}
        if len(languages) == 1:  # a member of the union, not asked for by name
            say(f"the union leaves {name} out: all queries are in {languages.pop()}")
            return
    for rho in options.budgets(name):
        epsilon = rho * scale.row_norm
        trial = Trial(
            attack=name if options.aim == "query" else f"{options.aim}_{name}",
            family="passage" if options.aim in ("demote", "promote") else "embedding",
            budget=rho,
            unit="rho",
            reference=rho == options.reference_rho and name != "random" and options.aim == "query",
            facts={"epsilon": epsilon, "epsilon_over_nearest_row": epsilon / scale.nearest_row},
        )
        yield trial, _gradient_run(victim, options, attack, rho, scale)


def _gradient_run(victim: Victim, options: "AttackOptions", attack: GradientAttack, rho: float, scale: Scale) -> Run:
    seed = options.seed
    match options.aim:
        case "query":
            run = partial(attack_queries, victim, attack=attack, scale=scale, loss=options.query_loss, seed=seed)
            if attack.algorithm.minimal:  # one search serves all budgets
                return lambda tasks, before: (
                    [dataclasses.replace(result, deltas=()) for result in before]
                    if before
                    else run(tasks, rho=options.largest_rho)
                )
            return lambda tasks, _: run(tasks, rho=rho)
        case "language":
            return _independent(partial(attack_language_bias, victim, attack=attack, rho=rho, scale=scale, seed=seed))
    return _independent(
        partial(attack_passages, victim, attack=attack, goal=options.aim, rho=rho, scale=scale, seed=seed)
    )


def _text_trials(name: str, context: Context, *, perturb: Perturb) -> Iterator[tuple[Trial, Run]]:
    victim, options, _ = context
    for edits in range(1, options.edits + 1):
        run = partial(
            text_attack,
            victim,
            perturb=perturb,
            search=options.search,
            edits=edits,
            budget=options.texts * edits,
            seed=options.seed,
        )
        trial = Trial(name, "text", float(edits), "edits", reference=edits == options.edits)
        yield trial, _after_smaller(run)


def _prompt_trials(name: str, context: Context) -> Iterator[tuple[Trial, Run]]:
    run = partial(prompt_attack, context.victim)
    yield Trial(name, "prompt", None, "", reference=True), _independent(run)


def _language_switch_trials(name: str, context: Context) -> Iterator[tuple[Trial, Run]]:
    run = partial(language_switch, context.victim)
    yield Trial(name, "language", None, "", reference=True), _independent(run)


def _code_mixing_trials(name: str, context: Context) -> Iterator[tuple[Trial, Run]]:
    victim, options, _ = context
    words = 3 * options.edits
    run = partial(code_mixing, victim, words=words, budget=options.texts * options.edits, seed=options.seed)
    yield Trial(name, "language", float(words), "words", reference=True), _independent(run)


def _direction_trials(name: str, context: Context) -> Iterator[tuple[Trial, Run]]:
    victim, options, _ = context
    for direction in DIRECTIONS:
        for radius in options.budgets(name):
            # Not a reference: the trial moves the pooled vector directly, and no input may cause this move.
            trial = Trial(f"{direction}_direction", "language", radius, "radius", reference=False)
            yield trial, _independent(partial(_move, victim, direction, radius, options.seed))


def _move(victim: Victim, direction: Direction, radius: float, seed: int, task: Task) -> AttackResult:
    return language_directions(victim, task, [radius], seed=seed)[direction][0]


def _after_smaller(run: Callable[..., AttackResult]) -> Run:
    """Return a `Run` that attacks one task after the other and passes each the result at the smaller budget."""
    return lambda tasks, before: [
        run(task=task, smaller=before[number] if before else None) for number, task in enumerate(tasks)
    ]


def _independent(run: Callable[[Task], AttackResult]) -> Run:
    """Return a `Run` that attacks one task after the other and ignores the results at the smaller budget."""
    return lambda tasks, _: [run(task) for task in tasks]


ATTACKS: dict[str, Attack] = {
    "random": gradient(RANDOM),
    "fgm": gradient(FGM),
    "fgsm": gradient(FGM, norm="linf"),
    "pgd": gradient(PGD),
    "apgd": gradient(APGD),
    "apgd_rank": gradient(APGD, loss="smooth_rank"),
    "fmn": gradient(FMN),
    "core": gradient(CORE),
    "targeted": gradient(TARGETED),
    "from_language": gradient(FROM_LANGUAGE),
    "black_box": gradient(BLACK_BOX),
    **{name: text(perturb) for name, perturb in PERTURBATIONS.items()},
    "combined": text(together(COMBINED, per_kind=_PER_KIND)),
    "prompts": Attack("prompt", _prompt_trials),
    "language_switch": Attack("language", _language_switch_trials),
    "code_mixing": Attack("language", _code_mixing_trials),
    "language_direction": Attack("language", _direction_trials),
    CEILING: poisoning(None),
    "hotflip": poisoning(HOTFLIP),
    "aggd": poisoning(AGGD),
    "gcg": poisoning(GCG),
    "gaslite": poisoning(GASLITE),
}
"""All attacks that `scripts/attack.py --attack` takes."""


def names(family: Family) -> tuple[str, ...]:
    """Return the names of the registered attacks of one family."""
    return tuple(name for name, attack in ATTACKS.items() if attack.family == family)


def plan(victim: Victim, options: "AttackOptions") -> Iterator[tuple[Trial, Run]]:
    """Yield all trials of a run in order, each with the function that runs it on one task."""
    context = Context(victim, options, measure_attack_scale(victim, options))
    for name in options.named:
        yield from ATTACKS[name].plan(name, context)
    for aimed in options.further_aims(victim.tasks[0].setting):
        yield from plan(victim, aimed)


def measure_attack_scale(victim: Victim, options: "AttackOptions") -> Scale | None:
    """Return the checkpoint's scale over the texts that gradient attacks perturb; None without a gradient attack.

    The texts are the queries of all tasks, or the attacked passages.
    """
    if not set(options.named) & set(names("embedding")):
        return None
    if options.aim in ("demote", "promote"):
        texts = {
            passage.full_text: None
            for task in victim.tasks
            for passage in victim.collection.take_passages(
                victim.pool.order[task.passages][attacked_passages(victim, task, options.aim)].tolist()
            )
        }
        ids = victim.encoder.passage_tokenization(list(texts))
    else:
        positions = np.unique(np.concatenate([task.queries for task in victim.tasks]))
        ids = victim.encoder.query_tokenization([victim.collection.queries[i].text for i in positions])
    return measure_scale(victim.encoder, ids, options.layer)
