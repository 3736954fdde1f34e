"""Gradient attacks on queries: demote their relevant passages, or promote all passages in the query's language.

Input: a `Victim`, a task, a `GradientAttack` and a radius. Output: an `AttackResult`.
"""

import dataclasses

import numpy as np

from jaxretr.attack.gradient.attack import GradientAttack, Scale, perturb
from jaxretr.attack.gradient.losses import Loss
from jaxretr.attack.gradient.objective import (
    LanguageObjective,
    LanguageTarget,
    QueryObjective,
    SplitEncoder,
    Target,
)
from jaxretr.attack.result import AttackResult
from jaxretr.attack.victim import Victim, margin
from jaxretr.eval.settings import Task

_LANGUAGE_CANDIDATES = 256
"""Number of hard negatives per query in an attack on language bias. The attack needs passages of many languages."""


def attack_queries(
    victim: Victim,
    task: Task,
    attack: GradientAttack,
    *,
    rho: float,
    scale: Scale,
    loss: Loss,
    seed: int,
    smaller: AttackResult | None = None,
    lost_at: int = 10,
) -> AttackResult:
    """Perturb queries so that their relevant passages fall in the ranking.

    Args:
      victim: model and collection.
      task: the attacked task.
      attack: algorithm, norm, layer, steps and restarts.
      rho: the radius in units of `scale.row_norm`.
      scale: scale of the checkpoint, see `measure_scale`.
      loss: the loss to maximize, over the relevant passages and the hard negatives of the whole corpus.
      seed: seed of random starts.
      smaller: result of this attack at a smaller radius. A query that is lost in this result (at rank `lost_at`)
        is not attacked again: its perturbation is also within the larger radius.
      lost_at: a query counts as lost in `smaller` if no relevant passage is in its top `lost_at`.
    """
    candidates = victim.candidates(task)
    fixed: tuple[np.ndarray, ...] = (
        victim.corpus(task)[candidates.passages],
        candidates.relevant,
        candidates.irrelevant,
    )
    objective = QueryObjective(SplitEncoder(victim.encoder.functions, attack.layer), loss)
    if smaller is None:
        return _attack(victim, task, attack, objective, _target, fixed, rho, scale, seed)
    remaining = np.flatnonzero(margin(smaller.embeddings, victim.corpus(task), candidates, lost_at) <= 0)
    fixed = tuple(part[remaining] for part in fixed)
    return _attack(victim, task, attack, objective, _target, fixed, rho, scale, seed, remaining, smaller)


def attack_language_bias(
    victim: Victim, task: Task, attack: GradientAttack, *, rho: float, scale: Scale, seed: int
) -> AttackResult:
    """Perturb queries so that passages in the query's own language displace all others.

    A penalty keeps the best score of a relevant passage from falling.

    Arguments as in `attack_queries`. The task's corpus must hold several languages, including the query's language.

    Raises:
      ValueError: the corpus holds one language only, or no passage in the query's language.
    """
    languages = victim.pool.language_numbers()[task.passages]
    query_language = (
        victim.pool.languages.index(task.query_language) if task.query_language in victim.pool.languages else -1
    )
    if query_language not in languages or len(set(languages.tolist())) < 2:
        raise ValueError(
            f"the language bias of queries in {task.query_language} needs passages in {task.query_language} and in "
            "another language; attack the setting 'multi', with both languages in the collection"
        )
    by_passages = dataclasses.replace(victim, answers=None)  # translations of one answer compete here
    candidates = by_passages.candidates(task, _LANGUAGE_CANDIDATES)
    passages = victim.corpus(task)[candidates.passages]
    real = candidates.relevant | candidates.irrelevant
    favored = real & (languages[candidates.passages] == query_language)
    scores = np.einsum("qd,qpd->qp", victim.queries[task.queries], passages, optimize=True)
    floor = np.max(scores, axis=1, where=candidates.relevant, initial=-np.inf)
    fixed = (passages, favored, real & ~favored, candidates.relevant, floor)
    objective = LanguageObjective(SplitEncoder(victim.encoder.functions, attack.layer))
    return _attack(victim, task, attack, objective, _language_target, fixed, rho, scale, seed)


def _attack(  # type: ignore[no-untyped-def]
    victim, task, attack, objective, context, fixed, rho, scale, seed, rows=None, smaller: AttackResult | None = None
) -> AttackResult:
    """Attack the queries at `rows` of the task (None: all queries).

    The other queries are copied from `smaller`, the result of the attack at a smaller radius.
    """
    queries = victim.queries_of(task)
    rows = np.arange(len(queries)) if rows is None else rows
    tokenization = victim.encoder.query_tokenization
    perturbed = perturb(
        victim.encoder,
        tokenization,
        attack,
        objective,
        context,
        tokenization([queries[row].text for row in rows]),
        fixed,
        rho * scale.row_norm,
        names=[queries[row].id for row in rows],
        seed=seed,
        description=f"{attack.algorithm.name}@{rho:g} {task.query_language}",
    )
    embeddings = np.zeros_like(victim.queries[task.queries]) if smaller is None else smaller.embeddings.copy()
    deltas = [np.zeros((0, 0), np.float32)] * len(queries) if smaller is None else list(smaller.deltas)
    embeddings[rows] = perturbed.embeddings
    for row, delta in zip(rows, perturbed.deltas, strict=True):
        deltas[row] = delta
    forward_passes = np.zeros(len(queries))
    forward_passes[rows] = attack.forward_passes
    return AttackResult(
        task,
        embeddings,
        deltas=tuple(deltas),
        changed=np.ones(len(queries), bool),
        forward_passes=forward_passes,
        notes={"zero_gradients": float(perturbed.zero_gradients.sum())} if attack.gradients else {},
    )


def _target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return Target(params, mask, *fixed)


def _language_target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return LanguageTarget(params, mask, *fixed)
