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
from jaxretr.attack.victim import Attacked, Victim
from jaxretr.eval.settings import Task

_LANGUAGE_CANDIDATES = 256
"""Hard negatives that an attack on language bias sees: it must know the passages of other languages below the top."""


def attack_queries(
    victim: Victim, task: Task, attack: EmbeddingAttack, *, rho: float, scale: Scale, loss: Loss, seed: int
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
    """
    candidates = victim.candidates(task)
    fixed = (victim.corpus(task)[candidates.passages], candidates.relevant, candidates.irrelevant)
    objective = QueryObjective(AttackedEncoder(victim.encoder.functions, attack.layer), loss)
    return _attacked(victim, task, attack, objective, _target, fixed, rho, scale, seed)


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


def _attacked(victim, task, attack, objective, context, fixed, rho, scale, seed) -> Attacked:  # type: ignore[no-untyped-def]
    asked = victim.asked(task)
    tokenization = victim.encoder.query_tokenization
    found = perturb(
        victim.encoder,
        tokenization,
        attack,
        objective,
        context,
        tokenization([query.text for query in asked]),
        fixed,
        rho * scale.row_norm,
        names=[query.id for query in asked],
        seed=seed,
        description=f"{attack.method} {task.query_language}",
    )
    return Attacked(
        task,
        found.embeddings,
        deltas=found.deltas,
        changed=np.ones(len(asked), bool),
        forward_passes=np.full(len(asked), float(attack.forward_passes)),
        notes={"zero_gradients": float(found.zero_gradients.sum())} if attack.gradients else {},
    )


def _target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return Target(params, mask, *fixed)


def _language_target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return LanguageTarget(params, mask, *fixed)
