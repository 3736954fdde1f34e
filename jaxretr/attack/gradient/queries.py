"""Gradient attacks on queries: demote their relevant passages, or promote all passages in the query's language.

Input: a `Victim`, tasks, a `GradientAttack` and a radius. Output: an `AttackResult` per task.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from jaxretr.attack.gradient.attack import GradientAttack, Scale, perturb, special_ids
from jaxretr.attack.gradient.losses import Loss
from jaxretr.attack.gradient.objective import (
    LanguageObjective,
    LanguageTarget,
    Layer,
    QueryObjective,
    SplitEncoder,
    Target,
)
from jaxretr.attack.result import AttackResult
from jaxretr.attack.victim import Victim, padded_together
from jaxretr.eval.settings import Task
from jaxretr.perturb.balls import attackable

_LANGUAGE_CANDIDATES = 256
"""Number of hard negatives per query in an attack on language bias. The attack needs passages of many languages."""
_TEXTS_PER_LANGUAGE = 64  # queries whose tokens represent a language


def attack_queries(
    victim: Victim,
    tasks: Sequence[Task],
    attack: GradientAttack,
    *,
    rho: float,
    scale: Scale,
    loss: Loss,
    seed: int,
) -> list[AttackResult]:
    """Perturb queries so that their relevant passages fall in the ranking.

    The queries of all tasks run together, so that many small tasks still fill batches.

    Args:
      victim: model and collection.
      tasks: the attacked tasks.
      attack: algorithm, norm, layer, steps and restarts.
      rho: the radius in units of `scale.row_norm`; for a minimum-norm search, the largest radius that counts.
      scale: scale of the checkpoint, see `measure_scale`.
      loss: the loss to maximize, over the relevant passages and the hard negatives of the whole corpus. A minimum-norm
        search needs a loss that is positive exactly if the query is lost, such as `Margin`.
      seed: seed of random starts.

    Returns:
      One result per task.

    Raises:
      ValueError: the attack starts from language directions, and all queries are in one language.
    """
    candidates = padded_together([victim.candidates(task) for task in tasks])
    passages = [task.passages.start + part.passages for task, part in zip(tasks, candidates, strict=True)]
    fixed: tuple[Any, ...] = (
        Gathered(victim.passages, np.concatenate(passages)),
        np.concatenate([part.relevant for part in candidates]),
        np.concatenate([part.irrelevant for part in candidates]),
    )
    if attack.algorithm.uses_directions:
        languages = sorted({task.query_language for task in tasks})
        directions = np.stack([token_directions(victim, language, attack.layer) for language in languages])
        own = [languages.index(task.query_language) for task in tasks for _ in task.queries]
        fixed += (Gathered(directions, np.array(own)),)
    objective = QueryObjective(SplitEncoder(victim.encoder.functions, attack.layer), loss)
    return _attack(victim, tasks, attack, objective, _target, fixed, rho, scale, seed)


def token_directions(victim: Victim, language: str, layer: Layer) -> Float32[np.ndarray, "directions hidden"]:
    """Return the mean token vector of the queries in each other language, minus that of the queries in `language`.

    Raises:
      ValueError: all queries are in one language.
    """
    by_language: dict[str, list[str]] = {}
    for query in victim.collection.queries:
        by_language.setdefault(query.language, []).append(query.text)
    if len(by_language) < 2:
        raise ValueError(
            f"all queries are in {language}; the attack from_language needs questions in several languages"
        )
    encoder = victim.encoder
    split, specials = SplitEncoder(encoder.functions, layer), special_ids(encoder)

    def mean(texts: list[str]) -> np.ndarray:
        ids = encoder.query_tokenization(texts[:_TEXTS_PER_LANGUAGE])
        tokens, mask = map(jnp.asarray, encoder.query_tokenization.pad(ids, max(map(len, ids))))
        vectors, free = split.clean(encoder.params, tokens, mask), attackable(tokens, mask, specials)
        return np.asarray(jnp.mean(vectors, axis=(0, 1), where=free[:, :, None]), np.float32)

    own = mean(by_language.pop(language))
    return np.stack([mean(by_language[other]) - own for other in sorted(by_language)])


def attack_language_bias(
    victim: Victim, task: Task, attack: GradientAttack, *, rho: float, scale: Scale, seed: int
) -> AttackResult:
    """Perturb the queries of a task so that passages in their own language displace all others.

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
    (result,) = _attack(victim, [task], attack, objective, _language_target, fixed, rho, scale, seed)
    return result


class Gathered:
    """Rows of vectors, selected by an index; the vectors of a row are copied only when the row is read.

    An array of all candidates of all queries would be many times as large as the corpus.
    """

    def __init__(self, vectors: np.ndarray, index: np.ndarray):
        self.vectors, self.index = vectors, index

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[self.index[rows]]


def _attack(victim, tasks, attack, objective, context, fixed, rho, scale, seed) -> list[AttackResult]:  # type: ignore[no-untyped-def]
    queries = [query for task in tasks for query in victim.queries_of(task)]
    tokenization = victim.encoder.query_tokenization
    perturbed = perturb(
        victim.encoder,
        tokenization,
        attack,
        objective,
        context,
        tokenization([query.text for query in queries]),
        fixed,
        rho * scale.row_norm,
        names=[query.id for query in queries],
        seed=seed,
        description=f"{attack.algorithm.name}@{rho:g}",
    )
    directions = fixed[-1].vectors.shape[1] if attack.algorithm.uses_directions else 0
    all_sizes = np.where(perturbed.loss > 0, perturbed.sizes.astype(np.float64) / scale.row_norm, np.inf)
    results, start = [], 0
    for task in tasks:
        rows = slice(start, start + len(task.queries))
        start = rows.stop
        results.append(
            AttackResult(
                task,
                perturbed.embeddings[rows],
                deltas=perturbed.deltas[rows],
                changed=np.ones(len(task.queries), bool),
                forward_passes=np.full(len(task.queries), attack.forward_passes + directions, np.float64),
                notes={"zero_gradients": float(perturbed.zero_gradients[rows].sum())} if attack.gradients else {},
                sizes=all_sizes[rows] if attack.algorithm.minimal else None,
            )
        )
    return results


def _target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return Target(params, mask, *fixed)


def _language_target(params, mask, fixed):  # type: ignore[no-untyped-def]
    return LanguageTarget(params, mask, *fixed)
