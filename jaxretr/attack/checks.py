"""Check that the gradient attacks are as strong as they look.

Input: a victim. Output: sanity checks with their figures.

A model that hides its gradient looks robust without being robust. The signs are known (Athalye et al. 2018, arXiv
1802.00420; Carlini et al. 2019, arXiv 1902.06705): random points beat the gradient, one step beats many steps, a large
budget does not reach every query, more steps keep finding more, gradients vanish. Every check compares attacks on the
same queries.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxretr.attack.gradient.apgd import APGD
from jaxretr.attack.gradient.attack import GradientAttack, Scale, measure_scale
from jaxretr.attack.gradient.black_box import RANDOM
from jaxretr.attack.gradient.queries import attack_queries
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.record import Check
from jaxretr.attack.result import AttackResult
from jaxretr.attack.victim import TOP, Victim, margin
from jaxretr.eval.settings import Task

UNBOUNDED = 3.0
"""Budget at which every query must be lost."""
CONVERGED = 0.01
"""Share of the queries that twice the effort may find in addition; at least one query may be found."""
_BUDGETS: tuple[float, ...] = (0.03, 0.1, 0.3, UNBOUNDED)
_DRAWN = 2  # number of queries attacked with `DRAWS` random points; each point costs a forward pass
DRAWS = 10_000


class _Outcome(NamedTuple):
    """Margins [budgets, queries] after an attack, and the number of gradients that were exactly zero."""

    margins: np.ndarray
    zero_gradients: float

    def lost(self, clean_success: np.ndarray) -> np.ndarray:
        """Return the number of queries with a clean success that are lost at each budget."""
        return np.sum(self.margins[:, clean_success] > 0, axis=1)


def strength_checks(victim: Victim, options: AttackOptions, queries: int) -> Iterator[Check]:
    """Run every check on the first `queries` queries of the first task.

    Args:
      victim: model and collection.
      options: norm, layer, steps and seed of the run; the loss is the margin at rank 10.
      queries: number of queries; two of them are attacked with 10,000 random points.

    Raises:
      ValueError: none of these queries has a relevant passage in the top 10.
    """
    scale = measure_scale(
        victim.encoder,
        victim.encoder.query_tokenization([query.text for query in victim.collection.queries]),
        options.layer,
    )
    task = first_queries(victim.tasks[0], queries)
    few = first_queries(task, _DRAWN)
    candidates = victim.candidates(task)
    clean_success = margin(victim.queries[task.queries], victim.corpus(task), candidates, TOP) <= 0
    if not clean_success.any():
        raise ValueError(
            f"none of the first {queries} queries in {task.query_language} has a relevant passage in its top {TOP}, so "
            "no query can be lost; check with more queries"
        )

    def outcome(attack: GradientAttack, on: Task = task, budgets: tuple[float, ...] = _BUDGETS) -> _Outcome:
        results = [_attacked(victim, on, attack, rho, options, scale) for rho in budgets]
        passages = victim.candidates(on)
        margins = [margin(result.embeddings, victim.corpus(on), passages, TOP) for result in results]
        return _Outcome(np.array(margins), sum(result.notes.get("zero_gradients", 0.0) for result in results))

    pgd_attack = options.gradient_attack("pgd")
    fgm, pgd = outcome(options.gradient_attack("fgm")), outcome(pgd_attack)
    apgd = outcome(dataclasses.replace(pgd_attack, algorithm=APGD, steps=_equal_steps(pgd_attack.steps)))
    more_steps = outcome(dataclasses.replace(pgd_attack, steps=2 * pgd_attack.steps))
    more_restarts = outcome(dataclasses.replace(pgd_attack, restarts=pgd_attack.restarts + 1))
    one_budget = (options.reference_rho,)  # a random point costs a forward pass
    random = outcome(dataclasses.replace(pgd_attack, algorithm=RANDOM, steps=DRAWS, restarts=1), few, one_budget)
    pgd_on_few = outcome(pgd_attack, few, one_budget)
    curves = {
        name: (_BUDGETS, tuple((curve.lost(clean_success) / clean_success.sum()).tolist()))
        for name, curve in (("FGM", fgm), ("PGD", pgd), ("APGD", apgd))
    }
    slack = max(CONVERGED * clean_success.sum(), 1)

    def at_least_as_strong(stronger: _Outcome, weaker: _Outcome, name: str) -> Check:
        gained = stronger.lost(clean_success) - weaker.lost(clean_success)
        return Check(
            name,
            bool(np.all(gained >= -slack)),
            f"of {clean_success.sum()} queries, lost at rho {_rhos()}: {_counts(stronger.lost(clean_success))} against "
            + _counts(weaker.lost(clean_success)),
        )

    def converged(larger: _Outcome, name: str) -> Check:
        gained = larger.lost(clean_success) - pgd.lost(clean_success)
        says = f"of {clean_success.sum()} queries, lost beyond PGD's at rho {_rhos()}: {_counts(gained)}"
        return Check(name, bool(np.all(gained <= slack)), says)

    yield dataclasses.replace(at_least_as_strong(pgd, fgm, "PGD finds what FGM finds"), curves=curves)
    yield at_least_as_strong(apgd, pgd, "APGD finds what PGD finds at equal forward passes")
    ahead = (pgd_on_few.margins - random.margins)[0]
    yield Check(
        f"gradients beat {DRAWS:,} random points",
        bool(np.all(ahead >= 0)),
        f"margin of PGD minus that of the best random point, at rho {options.reference_rho:g}, for each of "
        f"{len(few.queries)} queries: " + ", ".join(f"{value:.3f}" for value in ahead),
    )
    steps_up = np.diff(pgd.margins.mean(axis=1))
    yield Check(
        "a larger budget finds more",
        bool(np.all(steps_up >= 0)),
        f"mean margin after PGD at rho {_rhos()}: " + ", ".join(f"{v:.3f}" for v in pgd.margins.mean(axis=1)),
    )
    yield Check(
        f"every query falls at rho = {UNBOUNDED:g}",
        bool(pgd.lost(clean_success)[-1] >= (1 - CONVERGED) * clean_success.sum()),
        f"PGD drives {pgd.lost(clean_success)[-1]} of {clean_success.sum()} queries out of the top {TOP}",
    )
    yield converged(more_steps, f"{2 * options.steps} steps find no more than {options.steps}")
    yield converged(more_restarts, f"{options.restarts + 1} restarts find no more than {options.restarts}")
    gradients = pgd_attack.gradients * len(task.queries) * len(_BUDGETS)
    yield Check(
        "gradients do not vanish",
        pgd.zero_gradients <= CONVERGED * gradients,
        f"{pgd.zero_gradients:.0f} of PGD's {gradients:,} gradients are exactly zero",
    )


def first_queries(task: Task, count: int) -> Task:
    """Return the task restricted to its first `count` queries."""
    kept = task.judged_query < count
    return dataclasses.replace(
        task,
        queries=task.queries[:count],
        judged_query=task.judged_query[kept],
        judged_passage=task.judged_passage[kept],
        grade=task.grade[kept],
    )


def _attacked(
    victim: Victim, task: Task, attack: GradientAttack, rho: float, options: AttackOptions, scale: Scale
) -> AttackResult:
    return attack_queries(
        victim,
        task,
        attack,
        rho=rho,
        scale=scale,
        loss=dataclasses.replace(options, loss="margin").query_loss,
        seed=options.seed,
    )


def _equal_steps(steps: int) -> int:
    """Return the steps of APGD that cost at most `steps` of PGD: 3 (n + 1) + 1 <= 3 steps + 2."""
    return max(1, steps - 1)


def _rhos() -> str:
    return ", ".join(f"{rho:g}" for rho in _BUDGETS)


def _counts(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))
