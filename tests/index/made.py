"""Indexes of made-up vectors, and what a search should find in them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxretr.index.build import BuildOptions, build_from_vectors
from jaxretr.index.store import keys
from jaxretr.index.types import IndexedPassage, SearchOptions
from jaxretr.retrieval.calibration import language_means

LANGUAGES = ("en", "ar", "zh")
ENCODER = {"model": "none", "fingerprint": "f", "max_length": 16, "dtype": "float32", "dim": 16}


def vectors(count: int, seed: int = 0, dim: int = 16) -> np.ndarray:
    """Unit vectors in clusters of about twenty."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((max(1, count // 20), dim))
    drawn = centres[rng.integers(0, len(centres), count)] + 0.3 * rng.standard_normal((count, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def passages(count: int, prefix: str = "p") -> list[IndexedPassage]:
    """With a language and metadata that depend on the number."""
    return [
        IndexedPassage(
            f"{prefix}{i}",
            f"text {i}",
            f"title {i}" if i % 2 else "",
            LANGUAGES[i % 7 % 3],
            {"year": i % 5, "even": not i % 2},
        )
        for i in range(count)
    ]


def build(directory: Path, count: int, **options: Any) -> tuple[list[IndexedPassage], np.ndarray]:
    """An index of so many passages; returns them with their vectors."""
    made, rows = passages(count), vectors(count)
    if options.get("num_shards", 1) > 1:
        mine = keys(p.id for p in made) % options["num_shards"] == options["shard"]
        rows_of_shard = rows[mine]
    else:
        rows_of_shard = rows
    queries = vectors(count, seed=1)[:100]  # of the same clusters
    build_from_vectors(directory, made, rows_of_shard, queries, ENCODER, BuildOptions(**options))
    return made, rows


def expected(
    query: np.ndarray, there: Sequence[IndexedPassage], rows: np.ndarray, options: SearchOptions
) -> list[tuple[str, float]]:
    """Ids and scores by scoring everything, one after the other."""
    scores = (rows.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    if options.calibrate:
        names = sorted({p.language for p in there})
        of = np.asarray([names.index(p.language) for p in there])
        sums = np.stack([rows[of == number].astype(np.float64).sum(0) for number in range(len(names))])
        scores = scores - (language_means(sums, np.bincount(of)) @ query)[of]
    order = np.lexsort((keys(p.id for p in there), -scores)).tolist()
    found: list[tuple[str, float]] = []
    seen: Counter[str] = Counter()
    for i in order:
        passage = there[i]
        if options.languages and passage.language not in options.languages:
            continue
        if any(
            passage.metadata[key] not in (wanted if isinstance(wanted, tuple) else (wanted,))
            for key, wanted in options.where.items()
        ):
            continue
        seen[passage.language] += 1
        if options.per_language is None or seen[passage.language] <= options.per_language:
            found.append((passage.id, float(scores[i])))
    return found[: options.k]
