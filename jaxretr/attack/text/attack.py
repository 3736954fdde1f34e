"""Attacks on the text of queries: typos, invisible characters, word order and similar edits.

Input: a `Victim`, one of its tasks, and one or several kinds of edits from `jaxretr.perturb.text`. Output: an
`AttackResult` with the attacked texts. The attack is black-box: it sees scores and no gradients. Every text passes
through the normalizer and the tokenizer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from jaxretr.attack.result import AttackResult
from jaxretr.attack.text.search import attacked_by_texts, beam, greedy, random_edits, score_of, worst_of_k
from jaxretr.attack.victim import Victim, margin
from jaxretr.eval.settings import Task
from jaxretr.perturb.text import Perturb, draw

Search = Literal["random", "worst_of_k", "greedy", "beam"]
"""`random`: one random text, which measures noise; not an attack. `worst_of_k`: the worst of `budget` random texts.
`greedy`: one edit after the other; each edit is the worst one found with its share of the budget. `beam`: like
`greedy`, but each round starts from several texts (see `jaxretr.attack.text.search.BEAM`)."""


def text_attack(
    victim: Victim,
    task: Task,
    perturb: Perturb | Sequence[Perturb],
    *,
    search: Search,
    edits: int = 1,
    budget: int = 32,
    seed: int = 0,
    margin_k: int = 10,
    smaller: AttackResult | None = None,
) -> AttackResult:
    """Replace every query by the worst text found within a number of edits.

    `greedy` and `beam` stop at a lost query: one whose `margin_k` best irrelevant passages rank ahead of all relevant
    passages.

    Args:
      victim: the model and the collection.
      task: the attacked task.
      perturb: the kind of edit. With several kinds, each edit may be of any kind, in proportion to the number of texts
        that each kind offers.
      search: the search method.
      edits: edits per text; `greedy` and `beam` may make fewer.
      budget: texts scored per query besides the clean text; `random` always scores one text.
      seed: seed of the draws.
      margin_k: the attacker maximizes `Victim.margins` at this k, to drive all relevant passages out of the top k.
      smaller: result of this attack with fewer edits. A query that is lost in this result is not attacked again and
        costs nothing; another query keeps its text from this result unless the search finds a worse text. `random`
        ignores this argument.

    Returns:
      The result. `changed` does not depend on search, budget or number of edits: it is False if no edit reaches the
      model. Notes: `offered`, the number of texts one edit away, and `undone`, how many of them equal the clean text
      for the model.

    Raises:
      ValueError: the search is unknown, the kind of edit does not know a language, or `margin_k` or `budget` is
        impossible.
    """
    edit = perturb if callable(perturb) else together(perturb)
    all_queries, candidates = victim.queries_of(task), victim.candidates(task)
    score_of_rows = score_of(victim, task, candidates, margin_k)
    rows, reached = np.arange(len(all_queries)), np.full(len(all_queries), -np.inf)
    if search == "random":
        smaller = None
    if smaller:
        reached = margin(smaller.embeddings, victim.corpus(task), candidates, margin_k)
        rows = np.flatnonzero(smaller.changed & (reached <= 0))
        if not len(rows):
            return dataclasses.replace(smaller, forward_passes=np.zeros(len(all_queries)), carried=True)
    queries, token_ids = [all_queries[row] for row in rows], victim.encoder.query_tokenization

    def score(positions: np.ndarray, texts: list[str]) -> np.ndarray:
        return score_of_rows(rows[positions], texts)

    match search:
        case "random":
            results = random_edits(edit, queries, score, token_ids=token_ids, edits=edits, seed=seed)
        case "worst_of_k":
            results = worst_of_k(edit, queries, score, token_ids=token_ids, k=budget, edits=edits, seed=seed)
        case "greedy" | "beam":
            find = greedy if search == "greedy" else beam
            results = find(
                edit, queries, score, token_ids=token_ids, edits=edits, budget=budget, seed=seed, lost_above=0.0
            )
        case _:
            raise ValueError(f"unknown search {search!r}; expected one of {', '.join(get_args(Search))}")
    texts = list(smaller.texts) if smaller else [query.text for query in all_queries]
    forward_passes = np.zeros(len(all_queries))
    for row, result in zip(rows, results, strict=True):
        forward_passes[row] = result.forward_passes
        if result.score > reached[row]:
            texts[row] = result.text
    if smaller:
        changed, notes = smaller.changed, smaller.notes
    else:
        changed = np.array([result.undone < result.offered for result in results])
        notes = {
            "offered": float(sum(result.offered for result in results)),
            "undone": float(sum(result.undone for result in results)),
        }
    found = attacked_by_texts(victim, task, texts, changed=changed, forward_passes=forward_passes, notes=notes)
    return dataclasses.replace(found, carried=len(rows) < len(all_queries))


def together(kinds: Sequence[Perturb], per_kind: int | None = None) -> Perturb:
    """Combine several kinds of edits into one that offers the texts of each kind, without repetition.

    Args:
      kinds: the kinds of edits.
      per_kind: maximum number of texts of each kind, drawn at random from the texts that the kind offers, so that a
        kind with many texts does not crowd out the others; None for all texts. The draw depends on the text alone.
    """

    def offered(kind: Perturb, text: str, language: str) -> list[str]:
        if per_kind is None:
            return kind(text, language)
        return draw(kind, text, language, count=per_kind, seed=0)

    def perturb(text: str, language: str) -> list[str]:
        return list(dict.fromkeys(candidate for kind in kinds for candidate in offered(kind, text, language)))

    return perturb
