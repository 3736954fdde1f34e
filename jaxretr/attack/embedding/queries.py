"""Gradient attacks on the queries of a task: on what they find, or on the languages they find it in.

In: a `Victim`, a task, an `EmbeddingAttack` and a radius. Out: `Attacked`.
"""

import numpy as np

from jaxretr.attack.embedding.losses import Loss
from jaxretr.attack.embedding.method import EmbeddingAttack, Scale, perturb
from jaxretr.attack.embedding.objective import (
    AttackedEncoder,
    LanguageObjective,
    LanguageTarget,
    QueryObjective,
    Target,
)
from jaxretr.attack.victim import Attacked, Victim, margin
from jaxretr.eval.settings import Task

_LANGUAGE_CANDIDATES = 256
"""Hard negatives that an attack on language bias sees: it must know the passages of other languages below the top."""


def attack_queries(
    victim: Victim,
    task: Task,
    attack: EmbeddingAttack,
    *,
    rho: float,
    scale: Scale,
    loss: Loss,
    seed: int,
    smaller: Attacked | None = None,
    lost_at: int = 10,
) -> Attacked:
    """Perturbs queries so that their relevant passages fall.

    Args:
      victim: model and collection.
      task: whose queries.
      attack: how to search.
      rho: the radius in units of `scale.row_norm`.
      scale: of the checkpoint, see `measure_scale`.
      loss: what to maximise over relevant passages and hard negatives of the whole corpus.
      seed: of random starts.
      smaller: what this attack left within a smaller radius. A query that it drove out of the top `lost_at` keeps that
        perturbation, which this radius allows too, and costs nothing more.
      lost_at: see there.
    """
    candidates = victim.candidates(task)
    fixed: tuple[np.ndarray, ...] = (
        victim.corpus(task)[candidates.passages],
        candidates.relevant,
        candidates.irrelevant,
    )
    objective = QueryObjective(AttackedEncoder(victim.encoder.functions, attack.layer), loss)
    if smaller is None:
        return _attacked(victim, task, attack, objective, _target, fixed, rho, scale, seed)
    standing = np.flatnonzero(margin(smaller.embeddings, victim.corpus(task), candidates, lost_at) <= 0)
    fixed = tuple(part[standing] for part in fixed)
    return _attacked(victim, task, attack, objective, _target, fixed, rho, scale, seed, standing, smaller)


def attack_language_bias(
    victim: Victim, task: Task, attack: EmbeddingAttack, *, rho: float, scale: Scale, seed: int
) -> Attacked:
    """Perturbs queries so that passages in the query's own language displace all others, at the relevance they had.

    Arguments as in `attack_queries`; the task's corpus must hold several languages, the query's among them.

    Raises:
      ValueError: for a corpus of one language, or without the query's language.
    """
    spoken = victim.pool.language_numbers()[task.passages]
    own = victim.pool.languages.index(task.query_language) if task.query_language in victim.pool.languages else -1
    if own not in spoken or len(set(spoken.tolist())) < 2:
        raise ValueError(
            f"the bias of queries in {task.query_language} needs passages in {task.query_language} and in another "
            "language; attack the setting 'multi', with both languages in the collection"
        )
    candidates = victim.candidates(task, _LANGUAGE_CANDIDATES)
    passages = victim.corpus(task)[candidates.passages]
    there = candidates.relevant | candidates.irrelevant
    favoured = there & (spoken[candidates.passages] == own)
    scores = np.einsum("qd,qpd->qp", victim.queries[task.queries], passages, optimize=True)
    floor = np.max(scores, axis=1, where=candidates.relevant, initial=-np.inf)
    fixed = (passages, favoured, there & ~favoured, candidates.relevant, floor)
    objective = LanguageObjective(AttackedEncoder(victim.encoder.functions, attack.layer))
    return _attacked(victim, task, attack, objective, _language_target, fixed, rho, scale, seed)


def _attacked(  # type: ignore[no-untyped-def]
    victim, task, attack, objective, context, fixed, rho, scale, seed, rows=None, others: Attacked | None = None
) -> Attacked:
    """Attacks the queries at `rows` of the task, all where None; the rest stay as `others` has them."""
    asked = victim.asked(task)
    rows = np.arange(len(asked)) if rows is None else rows
    tokenization = victim.encoder.query_tokenization
    found = perturb(
        victim.encoder,
        tokenization,
        attack,
        objective,
        context,
        tokenization([asked[row].text for row in rows]),
        fixed,
        rho * scale.row_norm,
        names=[asked[row].id for row in rows],
        seed=seed,
        description=f"{attack.method}@{rho:g} {task.query_language}",
    )
    embeddings = np.zeros_like(victim.queries[task.queries]) if others is None else others.embeddings.copy()
    deltas = [np.zeros((0, 0), np.float32)] * len(asked) if others is None else list(others.deltas)
    embeddings[rows] = found.embeddings
    for row, delta in zip(rows, found.deltas, strict=True):
        deltas[row] = delta
    forward_passes = np.zeros(len(asked))
    forward_passes[rows] = attack.forward_passes
    return Attacked(
        task,
        embeddings,
        deltas=tuple(deltas),
        changed=np.ones(len(asked), bool),
        forward_passes=forward_passes,
        notes={"zero_gradients": float(found.zero_gradients.sum())} if attack.gradients else {},
    )


def _target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return Target(params, mask, *fixed)


def _language_target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return LanguageTarget(params, mask, *fixed)
