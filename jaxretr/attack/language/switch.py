"""Language switch: ask the same question in the worst language.

Input: a `Victim` of a collection with parallel queries, and one of its tasks. Output: an `AttackResult` with the exact
worst case over the languages, found by enumeration.
"""

from collections.abc import Sequence

import numpy as np

from jaxretr.attack.result import AttackResult
from jaxretr.attack.text.search import check_margin_k
from jaxretr.attack.victim import Candidates, Victim, margin
from jaxretr.eval.settings import Task


def language_switch(
    victim: Victim, task: Task, *, languages: Sequence[str] | None = None, margin_k: int = 10
) -> AttackResult:
    """Ask every query in the language, its own included, in which the attacker's gain is largest.

    Args:
      victim: the model and the collection.
      task: the attacked task; its corpus does not change.
      languages: languages that the attacker may use; None for all languages of the collection.
      margin_k: k of the `margin`; the worst language has the largest margin. On a tie, the clean query is kept.

    Returns:
      The result. `changed` is False for a question without a translation. The cost is one forward pass per language of
      the question. The note `switched` counts the queries asked in another language.

    Raises:
      ValueError: the collection has no query in a language, or no attack can reach `margin_k`.
    """
    candidates = victim.candidates(task)
    check_margin_k(candidates, margin_k)
    translated = translations(victim, languages)
    queries = victim.queries_of(task)
    # A query's own language comes first, so that it wins a tie.
    versions = [
        [int(position), *(other for other in translated.get(query.key, {}).values() if other != position)]
        for position, query in zip(task.queries, queries, strict=True)
    ]
    sizes = [len(positions) for positions in versions]
    rows = np.repeat(np.arange(len(queries)), sizes)
    embeddings = victim.queries[np.concatenate(versions)]
    gains = margin(embeddings, victim.corpus(task), Candidates(*(part[rows] for part in candidates)), margin_k)
    worst = [
        positions[int(query_gains.argmax())]
        for positions, query_gains in zip(versions, np.split(gains, np.cumsum(sizes)[:-1]), strict=True)
    ]
    return AttackResult(
        task,
        victim.queries[worst],
        tuple(victim.collection.queries[at].text for at in worst),
        changed=np.array(sizes) > 1,
        forward_passes=np.array(sizes, np.float64),
        notes={"switched": float(np.sum(worst != task.queries))},
    )


def translations(victim: Victim, languages: Sequence[str] | None) -> dict[str, dict[str, int]]:
    """Return question key -> language -> position in the collection's queries.

    Args:
      victim: the model and the collection.
      languages: languages that the attacker may use; None for all languages of the collection.

    Raises:
      ValueError: the collection has no query in a language.
    """
    queries = victim.collection.queries
    known = sorted({query.language for query in queries})
    if languages is not None and (missing := [language for language in languages if language not in known]):
        raise ValueError(
            f"{victim.collection.name} has no queries in {', '.join(missing)}, only in {', '.join(known)}; choose "
            "one of these languages, or load the collection with more languages"
        )
    allowed = known if languages is None else languages
    positions: dict[str, dict[str, int]] = {}
    for position, query in enumerate(queries):
        if query.language in allowed:
            positions.setdefault(query.key, {})[query.language] = position
    return positions
