"""Attacks on the text of queries: typos, invisible characters, word order and similar edits.

Input: a `Victim`, one of its tasks, and one or several kinds of edits from `jaxretr.perturb.text`. Output: an
`AttackResult` with the attacked texts. The attack is black-box: it sees scores and no gradients. Every text passes
through the normalizer and the tokenizer.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from jaxretr.attack.result import AttackResult
from jaxretr.attack.text.search import attacked_by_texts, greedy, random_edits, score_of, worst_of_k
from jaxretr.attack.victim import Victim
from jaxretr.eval.settings import Task
from jaxretr.perturb.text import Perturb

Search = Literal["random", "worst_of_k", "greedy"]
"""`random`: one random text, which measures noise; not an attack. `worst_of_k`: the worst of `budget` random texts.
`greedy`: one edit after the other; each edit is the worst one found with its share of the budget."""


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
) -> AttackResult:
    """Replace every query by the worst text found within a number of edits.

    Args:
      victim: the model and the collection.
      task: the attacked task.
      perturb: the kind of edit. With several kinds, each edit may be of any kind, in proportion to the number of texts
        that each kind offers.
      search: the search method.
      edits: edits per text; `greedy` may make fewer.
      budget: texts scored per query besides the clean text; `random` always scores one text.
      seed: seed of the draws.
      margin_k: the attacker maximizes `Victim.margins` at this k, to drive all relevant passages out of the top k.

    Returns:
      The result. `changed` does not depend on search, budget or number of edits: it is False if no edit reaches the
      model. Notes: `offered`, the number of texts one edit away, and `undone`, how many of them equal the clean text
      for the model.

    Raises:
      ValueError: the search is unknown, the kind of edit does not know a language, or `margin_k` or `budget` is
        impossible.
    """
    edit = perturb if callable(perturb) else together(perturb)
    queries = victim.queries_of(task)
    score = score_of(victim, task, victim.candidates(task), margin_k)
    token_ids = victim.encoder.query_tokenization
    match search:
        case "random":
            results = random_edits(edit, queries, score, token_ids=token_ids, edits=edits, seed=seed)
        case "worst_of_k":
            results = worst_of_k(edit, queries, score, token_ids=token_ids, k=budget, edits=edits, seed=seed)
        case "greedy":
            results = greedy(edit, queries, score, token_ids=token_ids, edits=edits, budget=budget, seed=seed)
        case _:
            raise ValueError(f"unknown search {search!r}; expected one of {', '.join(get_args(Search))}")
    return attacked_by_texts(
        victim,
        task,
        [result.text for result in results],
        changed=[result.undone < result.offered for result in results],
        forward_passes=[result.forward_passes for result in results],
        notes={
            "offered": float(sum(result.offered for result in results)),
            "undone": float(sum(result.undone for result in results)),
        },
    )


def together(kinds: Sequence[Perturb]) -> Perturb:
    """Combine several kinds of edits into one that offers the texts of each kind, without repetition."""

    def perturb(text: str, language: str) -> list[str]:
        return list(dict.fromkeys(candidate for kind in kinds for candidate in kind(text, language)))

    return perturb
