"""The union of gradient attacks: per query, the smallest budget at which any member loses it.

Input: the trials of the members, run. Output: trials of the union, one per budget. A robustness figure is only as
reliable as the strongest attack behind it. The union is at least as strong as each of its members.
"""

from collections.abc import Sequence

import numpy as np

from jaxretr.attack.gradient.attack import Scale
from jaxretr.attack.rankings import successes
from jaxretr.attack.result import AttackResult, Trial
from jaxretr.attack.victim import Victim

UNION = "union"
MEMBERS = ("core", "pgd", "apgd", "apgd_rank", "targeted", "from_language", "black_box")
"""Attacks of the union: a minimum-norm search, ascents on two losses, ascents toward single distractors, an ascent
from a move toward another language, and a search without gradients."""


def union_trials(
    victim: Victim, trials: Sequence[Trial], budgets: Sequence[float], reference: float, scale: Scale
) -> list[Trial]:
    """Combine the trials of the members.

    Args:
      victim: model and collection.
      trials: trials of any attacks; those of other attacks than `MEMBERS` do not count.
      budgets: budgets of the trials of the union.
      reference: the reference budget.
      scale: scale of the checkpoint, see `measure_scale`.

    Returns:
      One trial per budget. `sizes` of its results is the smallest budget at which a member loses the query. A query is
      lost if no relevant passage is in the top ten of the whole corpus, as for `robust_success@10`. The facts
      of the trial at the reference budget count queries that have a clean success: for each member, the queries that
      the member loses (`lost_by_{name}`), and the queries that only this member loses (`only_by_{name}`).
    """
    counted = [trial for trial in trials if trial.attack in MEMBERS and trial.unit == "rho"]
    results: list[AttackResult] = []
    lost: dict[str, list[np.ndarray]] = {trial.attack: [] for trial in counted}
    for number, task in enumerate(victim.tasks):
        clean = victim.queries[task.queries]
        succeeded = successes(victim, task, clean)
        sizes, embeddings = np.full(len(clean), np.inf), clean.copy()
        by_attack = {name: np.full(len(clean), np.inf) for name in lost}
        passes = {name: np.zeros(len(clean)) for name in lost}
        for trial in counted:
            result = trial.results[number]
            is_lost = ~successes(victim, task, result.embeddings)
            found = np.where(is_lost, (trial.budget or 0.0) if result.sizes is None else result.sizes, np.inf)
            if result.sizes is None:
                passes[trial.attack] = passes[trial.attack] + result.forward_passes
            else:
                passes[trial.attack] = result.forward_passes  # one search serves all budgets
            better = found < sizes
            sizes[better], embeddings[better] = found[better], result.embeddings[better]
            by_attack[trial.attack] = np.minimum(by_attack[trial.attack], found)
        for name, found in by_attack.items():
            lost[name].append((found <= reference) & succeeded)
        results.append(
            AttackResult(
                task,
                embeddings,
                changed=np.ones(len(clean), bool),
                forward_passes=np.sum(list(passes.values()), axis=0),
                sizes=sizes,
            )
        )
    facts: dict[str, float] = {}
    found_by = np.array([np.concatenate(rows) for rows in lost.values()])
    for name, row in zip(lost, found_by, strict=True):
        facts[f"lost_by_{name}"] = float(row.sum())
        facts[f"only_by_{name}"] = float(np.sum(row & (found_by.sum(axis=0) == 1)))
    return [
        Trial(
            attack=UNION,
            family="embedding",
            budget=rho,
            unit="rho",
            reference=rho == reference,
            facts={
                "epsilon": rho * scale.row_norm,
                "epsilon_over_nearest_row": rho * scale.row_norm / scale.nearest_row,
                **(facts if rho == reference else {}),
            },
        ).with_results(results)
        for rho in budgets
    ]
