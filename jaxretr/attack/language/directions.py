"""Language directions: move query vectors toward another language, and equally far in language-neutral directions.

Input: a `Victim` of a collection in several languages, one of its tasks, and radii. Output: an `AttackResult` per
radius for both kinds of directions. The attack moves the pooled embedding. If a move toward a language does more harm
than a move of the same length elsewhere, the model entangles language with relevance.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from jaxretr.attack.result import AttackResult
from jaxretr.attack.text.search import check_margin_k
from jaxretr.attack.victim import Candidates, Victim, margin
from jaxretr.eval.settings import Task
from jaxretr.perturb.text.edits import generator

Direction = Literal["language", "orthogonal"]
DIRECTIONS = get_args(Direction)


def language_directions(
    victim: Victim, task: Task, radii: Sequence[float], *, seed: int = 0, margin_k: int = 10
) -> dict[Direction, list[AttackResult]]:
    """Move every query by each radius in the worst of several directions, and normalize it again.

    The language directions lead from the mean passage of the query language to the mean passage of each other language,
    over the whole pool. The same number of orthogonal directions is drawn per query, uniformly from all directions
    orthogonal to all language directions. The unmoved query is not a candidate: every query moves by the radius.

    Args:
      victim: the model and the collection.
      task: the attacked task.
      radii: L2 norms of the move; clean queries have norm 1.
      seed: seed of the orthogonal directions.
      margin_k: k of the `margin`; the worst direction has the largest margin.

    Returns:
      For both kinds of directions, the result at each radius. Each costs one forward pass. The note `radius` is the
      radius; the note `offset_norm` is the mean distance between mean passages, in the same unit.

    Raises:
      ValueError: the query language has no passages, all passages are in one language, or no attack can reach
        `margin_k`.
    """
    candidates = victim.candidates(task)
    check_margin_k(candidates, margin_k)
    offsets = language_offsets(victim, task.query_language)
    norms = np.linalg.norm(offsets, axis=1, keepdims=True)
    along = np.broadcast_to(offsets / norms, (len(task.queries), *offsets.shape))
    across = orthogonal_directions(offsets, [query.text for query in victim.queries_of(task)], seed)

    def attacked(directions: Float32[np.ndarray, "queries directions dim"], radius: float) -> AttackResult:
        return AttackResult(
            task,
            _worst(victim, task, candidates, np.float32(radius) * directions, margin_k),
            changed=np.full(len(task.queries), True),
            forward_passes=np.ones(len(task.queries)),
            notes={"radius": float(radius), "offset_norm": float(norms.mean())},
        )

    return {
        "language": [attacked(along, radius) for radius in radii],
        "orthogonal": [attacked(across, radius) for radius in radii],
    }


def language_offsets(victim: Victim, language: str) -> Float32[np.ndarray, "languages dim"]:
    """Return the offsets from the mean passage of `language` to the mean passage of each other language of the pool.

    Raises:
      ValueError: the language has no passages, or the pool holds no other language.
    """
    slices = victim.pool.slices
    if language not in slices or len(slices) < 2:
        raise ValueError(
            f"{victim.collection.name} has passages in {', '.join(slices)}; an offset from {language!r} needs passages "
            "in this language and in another one"
        )
    means = {other: victim.passages[rows].mean(axis=0) for other, rows in slices.items()}
    return np.stack([mean - means[language] for other, mean in means.items() if other != language])


def orthogonal_directions(
    offsets: Float32[np.ndarray, "languages dim"], texts: Sequence[str], seed: int
) -> Float32[np.ndarray, "queries languages dim"]:
    """Draw, per text, one unit vector per offset, uniformly among the vectors orthogonal to all offsets."""
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
    """Return the queries after their worst move, with unit length."""
    moved = victim.queries[task.queries][:, None] + moves
    moved /= np.linalg.norm(moved, axis=2, keepdims=True)
    corpus = victim.corpus(task)
    gains = [margin(moved[:, i], corpus, candidates, margin_k) for i in range(moved.shape[1])]
    return moved[np.arange(len(moved)), np.argmax(gains, axis=0)]
