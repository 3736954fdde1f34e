"""Language directions: queries moved towards another language, and as far in directions that say nothing of languages.

In: a `Victim` of a collection in several languages, one of its tasks, radii. Out: `Attacked` for each radius, for both
kinds of directions. Everything happens at the pooled embedding. If moving along a language hurts more than moving as
far elsewhere, the model mixes language with relevance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from jaxretr.attack.search import check_margin_k
from jaxretr.attack.victim import Attacked, Candidates, Victim, margin
from jaxretr.eval.settings import Task
from jaxretr.perturb.text.edits import generator


class DirectionAttacks(NamedTuple):
    """The attacked queries for each radius, moved towards the worst language and in the worst orthogonal direction."""

    language: list[Attacked]
    orthogonal: list[Attacked]


def language_directions(
    victim: Victim, task: Task, radii: Sequence[float], *, seed: int = 0, margin_k: int = 10
) -> DirectionAttacks:
    """Moves every query by each radius in the worst of several directions, and puts it back to unit length.

    The directions are those from the mean passage of the queries' language to the mean passage of each other language,
    over the whole pool. The others, as many, are drawn for each query, uniformly from all directions orthogonal to
    every difference of two such means. An unmoved query is not among the choices: the norm is the radius for all.

    Args:
      victim: the model and the collection.
      task: whose queries are attacked.
      radii: L2 norms of the movement; clean queries have norm 1.
      seed: of the orthogonal directions.
      margin_k: "worst" is the largest `margin` at this k.

    Returns:
      The attacked queries. One forward pass. The note `radius` is the radius, `offset_norm` the mean distance between
      the mean passages, in the same unit.

    Raises:
      ValueError: for queries in a language without passages, passages in one language only, or a `margin_k` that no
        attack can reach.
    """
    candidates = victim.candidates(task)
    check_margin_k(candidates, margin_k)
    offsets = language_offsets(victim, task.query_language)
    norms = np.linalg.norm(offsets, axis=1, keepdims=True)
    along = np.broadcast_to(offsets / norms, (len(task.queries), *offsets.shape))
    across = orthogonal_directions(offsets, [query.text for query in victim.asked(task)], seed)

    def attacked(directions: Float32[np.ndarray, "queries directions dim"], radius: float) -> Attacked:
        return Attacked(
            task,
            _worst(victim, task, candidates, np.float32(radius) * directions, margin_k),
            changed=np.full(len(task.queries), True),
            forward_passes=np.ones(len(task.queries)),
            notes={"radius": float(radius), "offset_norm": float(norms.mean())},
        )

    return DirectionAttacks(
        [attacked(along, radius) for radius in radii], [attacked(across, radius) for radius in radii]
    )


def language_offsets(victim: Victim, language: str) -> Float32[np.ndarray, "languages dim"]:
    """From the mean passage embedding of `language` to that of each other language of the pool, in its order.

    Raises:
      ValueError: for a language without passages, or where there is no other.
    """
    slices = victim.pool.slices
    if language not in slices or len(slices) < 2:
        raise ValueError(
            f"{victim.collection.name} has passages in {', '.join(slices)}; an offset from {language!r} needs passages "
            "in this and in another language"
        )
    means = {other: victim.passages[rows].mean(axis=0) for other, rows in slices.items()}
    return np.stack([mean - means[language] for other, mean in means.items() if other != language])


def orthogonal_directions(
    offsets: Float32[np.ndarray, "languages dim"], texts: Sequence[str], seed: int
) -> Float32[np.ndarray, "queries languages dim"]:
    """As many unit vectors for each text as there are offsets, drawn uniformly and orthogonal to all offsets."""
    basis = np.linalg.svd(offsets, full_matrices=False)[2]
    drawn = np.stack([generator(text, seed).standard_normal(offsets.shape, np.float32) for text in texts])
    rest = drawn - drawn @ basis.T @ basis
    return rest / np.linalg.norm(rest, axis=2, keepdims=True)


def _worst(
    victim: Victim,
    task: Task,
    candidates: Candidates,
    moves: Float32[np.ndarray, "queries directions dim"],
    margin_k: int,
) -> Float32[np.ndarray, "queries dim"]:
    """The queries after the worst of their moves, unit length."""
    moved = victim.queries[task.queries][:, None] + moves
    moved /= np.linalg.norm(moved, axis=2, keepdims=True)
    corpus = victim.corpus(task)
    gains = [margin(moved[:, i], corpus, candidates, margin_k) for i in range(moved.shape[1])]
    return moved[np.arange(len(moved)), np.argmax(gains, axis=0)]
