"""Check that the gradient attacks are as strong as they look.

Input: a victim. Output: sanity checks with their figures, over the queries of every task, so of every language.

A model that hides its gradient looks robust without being robust. The signs are known (Athalye et al. 2018, arXiv
1802.00420; Carlini et al. 2019, arXiv 1902.06705): scores without a gradient beat the gradient, one step beats many
steps, a large budget does not reach every query, more steps keep finding more, gradients vanish. A weak attack makes a
model look robust as well, so any two attacks are compared in both directions. Every check compares attacks on the same
queries.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxretr.attack.gradient.apgd import APGD
from jaxretr.attack.gradient.attack import GradientAttack, Scale, measure_scale
from jaxretr.attack.gradient.black_box import BLACK_BOX, RANDOM
from jaxretr.attack.gradient.minimum_norm import CORE
from jaxretr.attack.gradient.queries import attack_queries
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.record import Check
from jaxretr.attack.result import AttackResult
from jaxretr.attack.victim import TOP, Victim, margin
from jaxretr.eval.settings import Task

UNBOUNDED = 3.0
"""Budget at which every query must be lost."""
CONVERGED = 0.01
"""Share of the queries by which an attack may be behind another, of each task and of all, or one query if that is more;
and the share by which twice the steps may change the smallest budget."""
_BUDGETS: tuple[float, ...] = (0.03, 0.1, 0.3, UNBOUNDED)
_DRAWN = 2  # number of queries attacked with `DRAWS` random points; each point costs a forward pass
DRAWS = 10_000


class _Outcome(NamedTuple):
    """What an attack does to the checked queries with a clean success, task by task.

    Attributes:
      name: name of the attack in reports.
      lost: per task, whether a query is lost, [budgets, queries].
      margins: per task, the margin after the attack, [budgets, queries]; () for a minimum-norm search.
      sizes: per task, the smallest losing budgets of a minimum-norm search; () for other attacks.
      zero_gradients: number of gradients that were exactly zero.
    """

    name: str
    lost: tuple[np.ndarray, ...]
    margins: tuple[np.ndarray, ...]
    sizes: tuple[np.ndarray, ...]
    zero_gradients: float

    @property
    def counts(self) -> np.ndarray:
        """Number of lost queries at each budget."""
        return np.concatenate(self.lost, axis=1).sum(axis=1)


class _Checked(NamedTuple):
    """A task with its first queries, and which of them have a clean success."""

    task: Task
    clean_success: np.ndarray


def strength_checks(victim: Victim, options: AttackOptions, queries: int) -> Iterator[Check]:
    """Run every check on the first `queries` queries of each task.

    Args:
      victim: model and collection.
      options: norm, layer, steps and seed of the run; the loss is the margin at rank 10.
      queries: number of queries per task. Two queries of the first task are attacked with 10,000 random points.

    Raises:
      ValueError: none of these queries has a relevant passage in the top 10.
    """
    scale = measure_scale(
        victim.encoder,
        victim.encoder.query_tokenization([query.text for query in victim.collection.queries]),
        options.layer,
    )
    tasks = [task.restricted(range(min(queries, len(task.queries)))) for task in victim.tasks]
    checked = [
        _Checked(task, margin(victim.queries[task.queries], victim.corpus(task), victim.candidates(task), TOP) <= 0)
        for task in tasks
    ]
    total = sum(int(one.clean_success.sum()) for one in checked)
    if not total:
        raise ValueError(
            f"none of the first {queries} queries of any task has a relevant passage in its top {TOP}, so no query can "
            "be lost; check with more queries"
        )

    def outcome(
        name: str, attack: GradientAttack, budgets: tuple[float, ...] = _BUDGETS, on: Sequence[_Checked] = checked
    ) -> _Outcome:
        lost, margins, sizes, zero_gradients = [], [], [], 0.0
        searched = budgets[-1:] if attack.algorithm.minimal else budgets
        tasks = [one.task for one in on]
        by_budget = [_attacked(victim, tasks, attack, rho, options, scale) for rho in searched]
        for (task, clean_success), results in zip(on, zip(*by_budget, strict=True), strict=True):
            corpus, candidates = victim.corpus(task), victim.candidates(task)
            zero_gradients += sum(result.notes.get("zero_gradients", 0.0) for result in results)
            if results[0].sizes is not None:
                sizes.append(results[0].sizes[clean_success])
                lost.append(sizes[-1] <= np.array(budgets)[:, None])
            else:
                after = np.array([margin(result.embeddings, corpus, candidates, TOP) for result in results])
                margins.append(after[:, clean_success])
                lost.append(margins[-1] > 0)
        return _Outcome(name, tuple(lost), tuple(margins), tuple(sizes), zero_gradients)

    pgd_attack = options.gradient_attack("pgd")
    core_attack = dataclasses.replace(pgd_attack, algorithm=CORE)
    fgm, pgd = outcome("FGM", options.gradient_attack("fgm")), outcome("PGD", pgd_attack)
    apgd = outcome("APGD", dataclasses.replace(pgd_attack, algorithm=APGD, steps=_equal_steps(pgd_attack.steps)))
    core = outcome("core", core_attack)
    curves = {attack.name: (_BUDGETS, tuple((attack.counts / total).tolist())) for attack in (fgm, pgd, apgd, core)}

    def finds(stronger: _Outcome, weaker: _Outcome, budgets: tuple[float, ...] = _BUDGETS) -> Check:
        behind = [one.sum(axis=1) - other.sum(axis=1) for one, other in zip(weaker.lost, stronger.lost, strict=True)]
        allowed = [max(CONVERGED * one.clean_success.sum(), 1) for one in checked]
        languages = dict.fromkeys(
            one.task.query_language for one, by, limit in zip(checked, behind, allowed, strict=True) if by.max() > limit
        )
        passed = np.sum(behind, axis=0).max() <= max(CONVERGED * total, 1) and not languages
        return Check(
            f"{stronger.name} finds what {weaker.name} finds",
            bool(passed),
            f"of {total} queries, lost at rho {_rhos(budgets)}: {_numbers(stronger.counts)} against "
            f"{_numbers(weaker.counts)}" + (f"; behind in {', '.join(languages)}" if languages else ""),
        )

    yield dataclasses.replace(finds(pgd, fgm), curves=curves)
    for one, other in itertools.permutations((pgd, apgd, core), 2):
        yield finds(one, other)

    one_budget = (options.reference_rho,)  # a score costs a forward pass
    blind = outcome("black box", dataclasses.replace(pgd_attack, algorithm=BLACK_BOX), one_budget)
    at_one = core._replace(lost=tuple((sizes <= options.reference_rho)[None] for sizes in core.sizes))
    yield finds(at_one, blind, one_budget)
    drawn = min(_DRAWN, len(tasks[0].queries))
    few = [_Checked(tasks[0].restricted(range(drawn)), np.ones(drawn, bool))]
    random = outcome("", dataclasses.replace(pgd_attack, algorithm=RANDOM, steps=DRAWS, restarts=1), one_budget, few)
    ahead = (outcome("", pgd_attack, one_budget, few).margins[0] - random.margins[0])[0]
    yield Check(
        f"gradients beat {DRAWS:,} random points",
        bool(np.all(ahead >= 0)),
        f"margin of PGD minus that of the best random point, at rho {options.reference_rho:g}, for each of "
        f"{len(ahead)} queries: " + ", ".join(f"{value:.3f}" for value in ahead),
    )
    means = np.concatenate(pgd.margins, axis=1).mean(axis=1)
    yield Check(
        "a larger budget finds more",
        bool(np.all(np.diff(means) >= 0)),
        f"mean margin after PGD at rho {_rhos()}: " + ", ".join(f"{value:.3f}" for value in means),
    )
    yield Check(
        f"every query falls at rho = {UNBOUNDED:g}",
        bool(pgd.counts[-1] >= (1 - CONVERGED) * total),
        f"PGD drives {pgd.counts[-1]} of {total} queries out of the top {TOP}",
    )
    twice = outcome("core", dataclasses.replace(core_attack, steps=2 * core_attack.steps))
    before, after = (np.log(np.minimum(np.concatenate(found.sizes), UNBOUNDED)) for found in (core, twice))
    ratio = float(np.exp(np.mean(after - before)))
    yield Check(
        f"core has converged after {options.steps} steps",
        abs(ratio - 1) <= CONVERGED,
        f"twice the steps change the geometric mean of the smallest rho by {ratio - 1:+.1%}",
    )
    gradients = pgd_attack.gradients * sum(len(task.queries) for task in tasks) * len(_BUDGETS)
    yield Check(
        "gradients do not vanish",
        pgd.zero_gradients <= CONVERGED * gradients,
        f"{pgd.zero_gradients:.0f} of PGD's {gradients:,} gradients are exactly zero",
    )


def _attacked(
    victim: Victim,
    tasks: Sequence[Task],
    attack: GradientAttack,
    rho: float,
    options: AttackOptions,
    scale: Scale,
) -> list[AttackResult]:
    return attack_queries(
        victim,
        tasks,
        attack,
        rho=rho,
        scale=scale,
        loss=dataclasses.replace(options, loss="margin").query_loss,
        seed=options.seed,
    )


def _equal_steps(steps: int) -> int:
    """Return the steps of APGD that cost at most `steps` of PGD: 3 (n + 1) + 1 <= 3 steps + 2."""
    return max(1, steps - 1)


def _rhos(budgets: tuple[float, ...] = _BUDGETS) -> str:
    return ", ".join(f"{rho:g}" for rho in budgets)


def _numbers(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))
