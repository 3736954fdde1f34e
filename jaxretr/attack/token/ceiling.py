"""The ceiling of corpus poisoning: the success of the best vectors, which need not be the embedding of any text.

Input: `PoisonedQueries`. Output: `BestVectors`: for every language and every number of passages, vectors of length 1
that reach the top k of as many optimization queries as possible. If even these vectors reach few queries, tokens can
hardly reach more, and the attacker needs more passages.

The search is local, so on the optimization queries the success found is a lower bound of the true ceiling. On held-out
queries, no bound holds: the vectors never saw these queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32

from jaxretr.attack.token.poisoned_queries import PoisonedQueries, Side
from jaxretr.attack.token.poisoning import cluster_means
from jaxretr.tracking import progress_bar

CEILING = "ceiling"
"""Name of the ceiling among the attacks."""
STEPS = 300
"""Gradient steps from each starting point."""
_RANDOM_STARTS = 4
_LARGEST_ANGLE = 0.1  # of the first step, in radians; the angles fall to 0 along half a cosine
_SHARPENING = 30.0  # first temperature over last temperature


@dataclass(frozen=True)
class Ceiling:
    """The success of the best vectors, as stored in `attacks.json`.

    Index 0 of the axis `number` holds the success with 1 vector per language, index 1 with 2 vectors, and so on.

    Attributes:
      k: ranks that a vector must reach.
      optimised_on: languages of the queries that vectors were optimized on; the rows.
      tested_on: languages of the held-out queries; the columns.
      optimised: [number][row]: share of the optimization queries with a vector in the top k.
      success: [number][row][column]: share of the held-out queries with a vector in the top k.
      optimise_queries: number of optimization queries per row.
      queries: number of held-out queries per column.
    """

    k: int
    optimised_on: tuple[str, ...]
    tested_on: tuple[str, ...]
    optimised: tuple[tuple[float, ...], ...]
    success: tuple[tuple[tuple[float, ...], ...], ...]
    optimise_queries: tuple[int, ...]
    queries: tuple[int, ...]


@dataclass(frozen=True)
class BestVectors:
    """The best vectors of every language, and the queries that they hit.

    Attributes:
      queries: the queries of both sides.
      vectors: language optimized on -> the best n vectors, for n from 1.
    """

    queries: PoisonedQueries
    vectors: Mapping[str, tuple[Float32[np.ndarray, "_ dim"], ...]] = field(repr=False)

    @property
    def attack(self) -> str:
        return CEILING

    @property
    def languages(self) -> tuple[str, ...]:
        return self.queries.languages

    @property
    def query_ids(self) -> dict[str, tuple[str, ...]]:
        """The ids of the held-out queries of each language."""
        return {language: side.ids for language, side in self.queries.test.items()}

    @property
    def hits(self) -> dict[tuple[str, str], Bool[np.ndarray, " queries"]]:
        """(language optimized on, language tested on) -> which held-out queries are hit if all vectors are added."""
        return {(x, y): side.hits(self.vectors[x][-1]) for x in self.languages for y, side in self.queries.test.items()}

    @property
    def ceiling(self) -> Ceiling:
        """The summary for `attacks.json`."""
        optimise, test = self.queries.optimise, self.queries.test
        numbers = range(len(next(iter(self.vectors.values()))))

        def share(side: Side, language: str, number: int) -> float:
            return float(side.hits(self.vectors[language][number]).mean())

        return Ceiling(
            k=self.queries.k,
            optimised_on=self.languages,
            tested_on=self.languages,
            optimised=tuple(tuple(share(optimise[x], x, n) for x in self.languages) for n in numbers),
            success=tuple(
                tuple(tuple(share(test[y], x, n) for y in self.languages) for x in self.languages) for n in numbers
            ),
            optimise_queries=tuple(len(optimise[x].ids) for x in self.languages),
            queries=tuple(len(test[y].ids) for y in self.languages),
        )


def best_vectors(queries: PoisonedQueries, passages: int, seed: int) -> BestVectors:
    """Search for the best vectors of every language.

    Args:
      queries: the queries to optimize on and to test on.
      passages: largest number of vectors per language; the search runs for every number from 1.
      seed: seed of the starting points.
    """
    vectors: dict[str, list[np.ndarray]] = {language: [] for language in queries.languages}
    with progress_bar() as bar:
        task = bar.add_task("search for the best vectors", total=passages * len(vectors))
        for language, of_language in vectors.items():
            for best in search_vectors(queries.optimise[language], passages, seed):
                of_language.append(best)
                bar.advance(task)
    return BestVectors(queries, {language: tuple(of_language) for language, of_language in vectors.items()})


def search_vectors(side: Side, passages: int, seed: int) -> Iterator[Float32[np.ndarray, "passages dim"]]:
    """Yield the best n unit vectors for the queries of one side, for n from 1 to `passages`.

    Every search starts from the mean queries of n clusters, from random queries, and from the best n - 1 vectors with
    the mean of the queries that they miss. The starting points count as results, so the success never falls along n and
    is at least the success of the cluster means.
    """
    best = np.zeros((0, side.embeddings.shape[1]), np.float32)
    for number in range(1, passages + 1):
        starts = _unit(np.stack([*_starts(side, best, number, seed)]))
        found = _ascend(side.embeddings, side.thresholds, _padded(starts, passages), np.int32(number), steps=STEPS)
        candidates = [*np.asarray(found)[:, :number], *starts]
        reached = [int(side.hits(vectors).sum()) for vectors in candidates]
        best = candidates[int(np.argmax(reached))]
        yield best


def _starts(side: Side, best: np.ndarray, number: int, seed: int) -> Iterator[np.ndarray]:
    """Yield starting points [number, dim]; always the same number of them, so that the search compiles once."""
    queries = side.embeddings
    missed = queries[~side.hits(best)] if len(best) else queries
    following = np.concatenate([best, (missed if len(missed) else queries).mean(axis=0, keepdims=True)])
    yield following
    try:
        yield cluster_means(queries, number, seed) if number <= len(queries) else following
    except ValueError:  # k-means left a cluster empty
        yield following
    random = np.random.default_rng((seed, number))
    for _ in range(_RANDOM_STARTS):
        yield queries[random.choice(len(queries), number, replace=number > len(queries))]


def _unit(vectors: Float32[np.ndarray, "*batch dim"]) -> Float32[np.ndarray, "*batch dim"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _padded(starts: np.ndarray, passages: int) -> np.ndarray:
    """Repeat the first vector of every starting point up to `passages` vectors; `_ascend` ignores the copies."""
    missing = passages - starts.shape[1]
    return np.concatenate([starts, np.repeat(starts[:, :1], missing, axis=1)], axis=1)


@partial(jax.jit, static_argnames="steps")
def _ascend(
    queries: Float32[Array, "queries dim"],
    thresholds: Float32[Array, " queries"],
    starts: Float32[Array, "starts passages dim"],
    number: Array,
    *,
    steps: int,
) -> Float32[Array, "starts passages dim"]:
    """Move unit vectors along the sphere so that the first `number` of them exceed more thresholds.

    The objective is a smooth share of the queries with a vector above their threshold: the probability that at least
    one vector succeeds, if vector v succeeds at query q with probability sigmoid((q · v - threshold) / temperature).
    The temperature starts at the spread of the margins and falls. A step moves each vector by the same angle.

    Returns:
      Per start, the vectors of the step with the largest number of queries above their threshold; among equal numbers,
      the vectors with the largest smooth share.
    """
    active = jnp.arange(starts.shape[1]) < number

    def margins(vectors: Array) -> Array:
        products = jnp.einsum("qd,vd->qv", queries, vectors, precision=jax.lax.Precision.HIGHEST)
        return products - thresholds[:, None]

    def smooth_share(vectors: Array, temperature: Array) -> Array:
        missed = jnp.sum(jax.nn.log_sigmoid(-margins(vectors) / temperature), axis=1, where=active)
        return jnp.mean(-jnp.expm1(missed))

    def ascend(start: Array) -> Array:
        best_margin = jnp.max(margins(start), axis=1, where=active, initial=-jnp.inf)
        temperature = jnp.maximum(jnp.std(best_margin), 1e-4)

        def score(vectors: Array) -> Array:
            reached = jnp.any((margins(vectors) > 0) & active, axis=1).sum()
            return reached + smooth_share(vectors, temperature / _SHARPENING)

        def step(state: tuple[Array, Array, Array], progress: Array) -> tuple[tuple[Array, Array, Array], None]:
            vectors, best, best_score = state
            gradient = jax.grad(smooth_share)(vectors, temperature * _SHARPENING**-progress)
            tangent = gradient - jnp.sum(gradient * vectors, axis=1, keepdims=True) * vectors
            length = jnp.linalg.norm(tangent, axis=1, keepdims=True)
            angle = _LARGEST_ANGLE * (1 + jnp.cos(jnp.pi * progress)) / 2
            moved = jnp.cos(angle) * vectors + jnp.sin(angle) * tangent / jnp.maximum(length, 1e-30)
            moved = jnp.where(length > 1e-30, moved / jnp.linalg.norm(moved, axis=1, keepdims=True), vectors)
            moved_score = score(moved)
            better = moved_score > best_score
            return (moved, jnp.where(better, moved, best), jnp.maximum(moved_score, best_score)), None

        (_, best, _), _ = jax.lax.scan(step, (start, start, score(start)), jnp.linspace(0, 1, steps))
        return best

    return jax.vmap(ascend)(starts)
