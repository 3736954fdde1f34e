"""An evaluation with everything a report must cope with: three scripts, markup in texts, a biased retriever."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxretr.eval.evaluate import evaluate
from jaxretr.eval.results import Results
from jaxretr.eval.settings import SETTINGS, Setting
from jaxretr.types import Passage, Query, RetrievalSet, ScoredPassage

HOSTILE = '<script>alert("x")</script> & <b>bold</b>'
HOSTILE_NAME = """<script>alert(1)</script>"'><img src=x onerror=alert(2)> {{ 7*7 }} {% raw %}"""
"""A name that must not become a tag, end an attribute, or run as a template."""
_QUESTIONS = {"ar": "ما هي عاصمة البلد؟", "de": "Wie heißt die Hauptstadt?", "en": "What is the capital?"}
_ANSWERS = {"ar": "العاصمة مدينة على النهر", "de": f"Die Hauptstadt {HOSTILE}", "en": "The capital lies by the river"}


@dataclass(frozen=True)
class Example:
    """What `write_report` takes, and each query's whole ranking by brute force."""

    results: Results
    collection: RetrievalSet
    top: dict[str, list[ScoredPassage]]
    rankings: dict[str, list[str]]


def example(languages: Sequence[str] = ("ar", "de", "en"), settings: Sequence[Setting] = SETTINGS) -> Example:
    """Twelve parallel questions, each answered in every language by one of twenty passages.

    Args:
      languages: ar, de, en, or any of these with a subtag.
      settings: those to evaluate.
    """
    random = np.random.default_rng(0)
    queries = tuple(Query(f"q{i}", name, f"{_QUESTIONS[name[:2]]} {name} {i}") for name in languages for i in range(12))
    passages = tuple(
        Passage(f"p{i}", name, f"{_ANSWERS[name[:2]]} {name} {i}") for name in languages for i in range(20)
    )
    qrels = {f"q{i}": {f"{name}:p{i}": 1 for name in languages} for i in range(12)}
    collection = RetrievalSet("Rivers & <capitals>", queries, passages, qrels)

    concepts, accents = random.normal(size=(20, 8)), {name: random.normal(size=8) for name in languages}
    embeddings = {
        text.text: concepts[int(text.key[1:])] + accents[text.language] + random.normal(size=8)
        for text in (*queries, *passages)
    }

    def encode(texts: Sequence[str]) -> np.ndarray:
        some = np.array([embeddings[text] for text in texts], np.float32)
        return some / np.linalg.norm(some, axis=1, keepdims=True)

    results = evaluate(collection, encode, encode, settings=settings)
    scores = encode([query.text for query in queries]) @ encode([passage.text for passage in passages]).T
    top, rankings = {}, {}
    for query, row in zip(queries, scores, strict=True):
        pool = [i for i, passage in enumerate(passages) if "multi" in settings or passage.language == query.language]
        pool.sort(key=lambda i: -row[i])
        rankings[query.id] = [passages[i].id for i in pool]
        top[query.id] = [ScoredPassage(passages[i].id, float(row[i])) for i in pool[:10]]
    results = replace(results, system="base <1>", evaluation={"model": "runs/base/model", "max_length": 128})
    return Example(results, collection, top, rankings)
