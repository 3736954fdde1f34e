"""Gradient attacks on passages: one passage of each query of a task is made to fall, or to rise.

In: a `Victim`, a task, an `EmbeddingAttack` and a radius. Out: `AttackedPassages`.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int

from jaxretr.attack.embedding.method import EmbeddingAttack, Scale, perturb
from jaxretr.attack.embedding.objective import AttackedEncoder, PassageObjective, PassageTarget
from jaxretr.attack.victim import Victim, relevant_passages
from jaxretr.eval.settings import Task
from jaxretr.retrieval.exact import search
from jaxretr.retrieval.scores import pair_scores

Goal = Literal["demote", "promote"]
PROMOTED_FROM = 100
"""The clean rank of the passage that is promoted, or the last of a smaller corpus: out of sight, but not absurd."""


@dataclass(frozen=True)
class AttackedPassages:
    """One passage for each query of a task, after an attack; every query meets its own in the clean corpus.

    Attributes:
      task: row i of everything below belongs to `task.queries[i]`.
      goal: `demote`: the best-ranked relevant passage was attacked; `promote`: the one at rank `PROMOTED_FROM`.
      passages: positions in the task's corpus.
      embeddings: of the attacked passages, unit length.
      deltas: their perturbations, float32 [tokens, hidden] each.
      forward_passes: cost of each, in encodings of the passage.
      notes: counts worth reporting.
    """

    task: Task
    goal: Goal
    passages: Int[np.ndarray, " queries"] = field(repr=False)
    embeddings: Float32[np.ndarray, "queries dim"] = field(repr=False)
    deltas: tuple[np.ndarray, ...] = field(repr=False)
    forward_passes: Float32[np.ndarray, " queries"] = field(repr=False)
    notes: dict[str, float] = field(default_factory=dict)


def chosen_passages(victim: Victim, task: Task, goal: Goal) -> Int[np.ndarray, " queries"]:
    """The passage of each query that is attacked, as positions in the task's corpus."""
    if goal not in ("demote", "promote"):
        raise ValueError(f"unknown goal {goal!r}; expected demote or promote")
    queries, corpus = victim.queries[task.queries], victim.corpus(task)
    relevant = relevant_passages(task)
    if goal == "demote":
        return np.array([_best_ranked(query, corpus, own) for query, own in zip(queries, relevant, strict=True)])
    _, ranked = search(queries, corpus, min(PROMOTED_FROM, len(corpus)))
    return np.array([found[~np.isin(found, own)][-1] for found, own in zip(ranked, relevant, strict=True)])


def _best_ranked(query: np.ndarray, corpus: np.ndarray, some: np.ndarray) -> int:
    """The passage of some that stands first in the ranking of a query; equal scores come in order of position."""
    return int(some[np.lexsort((some, -pair_scores(query, corpus[some])))[0]])


def attack_passages(
    victim: Victim, task: Task, attack: EmbeddingAttack, *, goal: Goal, rho: float, scale: Scale, seed: int
) -> AttackedPassages:
    """Perturbs one passage of each query.

    Args:
      victim: model and collection.
      task: whose queries and corpus.
      attack: how to search.
      goal: which passage, and whether its score for the query falls or rises.
      rho: the radius in units of `scale.row_norm`.
      scale: of the checkpoint over passages, see `measure_scale`.
      seed: of random starts.
    """
    chosen = chosen_passages(victim, task, goal)
    passages = victim.collection.take_passages(victim.pool.order[task.passages][chosen].tolist())
    tokenization = victim.encoder.passage_tokenization
    found = perturb(
        victim.encoder,
        tokenization,
        attack,
        PassageObjective(AttackedEncoder(victim.encoder.functions, attack.layer), promote=goal == "promote"),
        _target,
        tokenization([passage.full_text for passage in passages]),
        victim.queries[task.queries],
        rho * scale.row_norm,
        names=[f"{query.id} {passage.id}" for query, passage in zip(victim.asked(task), passages, strict=True)],
        seed=seed,
        description=f"{goal} {task.query_language}",
    )
    return AttackedPassages(
        task,
        goal,
        chosen,
        found.embeddings,
        found.deltas,
        np.full(len(chosen), attack.forward_passes, np.float32),
        {"zero_gradients": float(found.zero_gradients.sum())} if attack.gradients else {},
    )


def _target(params, mask, queries):  # type: ignore[no-untyped-def]
    return PassageTarget(params, mask, queries)
