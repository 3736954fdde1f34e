"""Language switch: the same question asked in the worst language.

In: a `Victim` of a collection with parallel queries, one of its tasks. Out: `Attacked`, the exact worst case over the
languages, found by enumeration.
"""

from collections.abc import Sequence

import numpy as np

from jaxretr.attack.language.parallel_queries import translations
from jaxretr.attack.search import check_margin_k
from jaxretr.attack.victim import Attacked, Candidates, Victim, margin
from jaxretr.eval.settings import Task


def language_switch(
    victim: Victim, task: Task, *, languages: Sequence[str] | None = None, margin_k: int = 10
) -> Attacked:
    """Asks every query in that language, its own included, in which the attacker gains most.

    Args:
      victim: the model and the collection.
      task: whose queries are attacked; the corpus stays the same.
      languages: those that may be used instead; None for all of the collection.
      margin_k: "worst" is the largest `margin` at this k; the clean query where it is among the worst.

    Returns:
      The attacked queries. `changed` is False for a question that has no translation. A forward pass for each language
      a question exists in. The note `switched` counts the queries asked in another language.

    Raises:
      ValueError: for a language in which nothing is asked, or a `margin_k` that no attack can reach.
    """
    candidates = victim.candidates(task)
    check_margin_k(candidates, margin_k)
    translated = translations(victim, languages)
    asked = victim.asked(task)
    # A query's own language comes first, so that it wins a tie.
    versions = [
        [int(own), *(at for at in translated.get(query.key, {}).values() if at != own)]
        for own, query in zip(task.queries, asked, strict=True)
    ]
    sizes = [len(of_query) for of_query in versions]
    rows = np.repeat(np.arange(len(asked)), sizes)
    embeddings = victim.queries[np.concatenate(versions)]
    gains = margin(embeddings, victim.corpus(task), Candidates(*(part[rows] for part in candidates)), margin_k)
    worst = [
        of_query[int(of_gain.argmax())]
        for of_query, of_gain in zip(versions, np.split(gains, np.cumsum(sizes)[:-1]), strict=True)
    ]
    return Attacked(
        task,
        victim.queries[worst],
        tuple(victim.collection.queries[at].text for at in worst),
        changed=np.array(sizes) > 1,
        forward_passes=np.array(sizes, np.float64),
        notes={"switched": float(np.sum(worst != task.queries))},
    )
