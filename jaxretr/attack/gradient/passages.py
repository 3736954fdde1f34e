"""Gradient attacks on passages: make one passage per query fall or rise.

Input: a `Victim`, a task, a `GradientAttack` and a radius. Output: an `AttackResult` with `passages`.
"""

import numpy as np
from jaxtyping import Int

from jaxretr.attack.gradient.attack import GradientAttack, Scale, perturb
from jaxretr.attack.gradient.objective import PassageObjective, PassageTarget, SplitEncoder
from jaxretr.attack.result import AttackResult, Goal
from jaxretr.attack.victim import Victim, relevant_passages
from jaxretr.eval.settings import Task
from jaxretr.retrieval.exact import search
from jaxretr.retrieval.scores import pair_scores

PROMOTED_FROM = 100
"""Clean rank of the promoted passage, or the last rank of a smaller corpus: far from the top, not the worst case."""


def attacked_passages(victim: Victim, task: Task, goal: Goal) -> Int[np.ndarray, " queries"]:
    """Return the attacked passage per query, as a position in the task's corpus.

    It is the best-ranked relevant passage for `demote`, and the passage at rank `PROMOTED_FROM` for `promote`.
    """
    if goal not in ("demote", "promote"):
        raise ValueError(f"unknown goal {goal!r}; expected demote or promote")
    queries, corpus = victim.queries[task.queries], victim.corpus(task)
    relevant = relevant_passages(task)
    if goal == "demote":
        return np.array(
            [_best_ranked(query, corpus, answers) for query, answers in zip(queries, relevant, strict=True)]
        )
    _, ranked = search(queries, corpus, min(PROMOTED_FROM, len(corpus)))
    return np.array([top[~np.isin(top, answers)][-1] for top, answers in zip(ranked, relevant, strict=True)])


def _best_ranked(query: np.ndarray, corpus: np.ndarray, passages: np.ndarray) -> int:
    """Return the passage among `passages` that ranks first for a query; position breaks ties."""
    return int(passages[np.lexsort((passages, -pair_scores(query, corpus[passages])))[0]])


def attack_passages(
    victim: Victim, task: Task, attack: GradientAttack, *, goal: Goal, rho: float, scale: Scale, seed: int
) -> AttackResult:
    """Perturb one passage per query.

    Args:
      victim: model and collection.
      task: the attacked task.
      attack: the search.
      goal: which passage is attacked, and whether its score for the query falls or rises.
      rho: the radius in units of `scale.row_norm`.
      scale: scale of the checkpoint over passages, see `measure_scale`.
      seed: seed of random starts.
    """
    positions = attacked_passages(victim, task, goal)
    passages = victim.collection.take_passages(victim.pool.order[task.passages][positions].tolist())
    tokenization = victim.encoder.passage_tokenization
    perturbed = perturb(
        victim.encoder,
        tokenization,
        attack,
        PassageObjective(SplitEncoder(victim.encoder.functions, attack.layer), promote=goal == "promote"),
        _target,
        tokenization([passage.full_text for passage in passages]),
        victim.queries[task.queries],
        rho * scale.row_norm,
        names=[f"{query.id} {passage.id}" for query, passage in zip(victim.queries_of(task), passages, strict=True)],
        seed=seed,
        description=f"{goal} {task.query_language}",
    )
    return AttackResult(
        task,
        perturbed.embeddings,
        deltas=perturbed.deltas,
        changed=np.ones(len(positions), bool),
        forward_passes=np.full(len(positions), attack.forward_passes, np.float32),
        notes={"zero_gradients": float(perturbed.zero_gradients.sum())} if attack.gradients else {},
        passages=positions,
        goal=goal,
    )


def _target(params, mask, queries):  # type: ignore[no-untyped-def]
    return PassageTarget(params, mask, queries)
