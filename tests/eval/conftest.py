from collections.abc import Callable

import numpy as np
import pytest

from jaxretr.types import Passage, Query, RetrievalSet


@pytest.fixture
def tiny() -> RetrievalSet:
    """Two questions in English and German, one of them also in French; passage p2 lacks its German translation."""
    return RetrievalSet(
        name="tiny",
        queries=(
            Query("q1", "en", "one"),
            Query("q2", "en", "two"),
            Query("q1", "de", "eins"),
            Query("q2", "de", "zwei"),
            Query("q1", "fr", "un"),
        ),
        passages=(
            Passage("p1", "de", "Antwort eins"),
            Passage("p3", "de", "Antwort drei"),
            Passage("p1", "en", "answer one", title="First"),
            Passage("p2", "en", "answer two"),
            Passage("p1", "fr", "réponse une"),
        ),
        qrels={"q1": {"de:p1": 1, "en:p1": 2, "fr:p1": 1, "de:p3": 0}, "q2": {"en:p2": 1}},
    )


@pytest.fixture
def random_set() -> Callable[..., tuple[RetrievalSet, dict[str, np.ndarray]]]:
    """Makes a parallel, graded collection and an integer embedding for each text, so that scores often tie."""

    def make(seed: int, keys: int = 12, passages: int = 30) -> tuple[RetrievalSet, dict[str, np.ndarray]]:
        random = np.random.default_rng(seed)
        languages = ("de", "en", "pt", "pt-BR")
        texts = {
            f"{kind}:{language}:{i}": random.integers(-2, 3, 3).astype(np.float32)
            for language in languages
            for kind, n in (("q", keys), ("p", passages))
            for i in range(n)
        }
        qrels: dict[str, dict[str, int]] = {}
        for i in range(keys):
            relevant = random.choice(passages, 3, replace=False)
            qrels[f"q{i}"] = {
                f"{language}:p{j}": int(random.integers(0, 3)) for language in languages for j in relevant
            }
        return (
            RetrievalSet(
                "random",
                tuple(Query(f"q{i}", language, f"q:{language}:{i}") for language in languages for i in range(keys)),
                tuple(
                    Passage(f"p{i}", language, f"p:{language}:{i}") for language in languages for i in range(passages)
                ),
                qrels,
            ),
            texts,
        )

    return make
