"""Real training pairs and passages for the benchmarks: LibreOffice's help in eight languages.

Input: the directory that holds the data or receives the download. Output: batches of the hybrid recipe as texts, and
whole passages.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

LANGUAGES = ("en", "de", "el", "es", "ru", "tr", "vi", "zh")


def batches(data_dir: Path, count: int, size: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield batches of queries and their passages, without prefixes: half monolingual, half cross-lingual."""
    from jaxretr.data import pair_index
    from jaxretr.data.hybrid import HybridPlan

    builder = _prepared(data_dir)
    index = pair_index.select(pair_index.load(builder, "train"), LANGUAGES)
    plan = HybridPlan(
        index, steps=count, batch_size=size, alpha=0.5, language_exponent=0.0, pairs_per="example", seed=0
    )
    source = builder.as_data_source("train")
    for step in range(count):
        drawn = plan[step]
        yield (
            [source[int(row)]["query"].decode() for row in drawn.query_rows],
            [source[int(row)]["passage"].decode() for row in drawn.passage_rows],
        )


def passages(data_dir: Path, count: int) -> list[str]:
    """Return whole passages of the training split, all languages mixed."""
    source = _prepared(data_dir).as_data_source("train")
    rows = np.random.default_rng(0).choice(len(source), count, replace=False)
    return [source[int(row)]["passage"].decode() for row in rows]


def _prepared(data_dir: Path):  # type: ignore[no-untyped-def]
    from jaxretr.data import sources

    return sources.prepare("libreoffice_help", data_dir=str(data_dir), languages=LANGUAGES)
