"""Attacks on the text of queries: typing errors, invisible characters, word order and the like.

In: a `Victim`, one of its tasks, one or several kinds of `jaxretr.perturb.text`. Out: `Attacked`, with the texts that
were found. The attacker is a black box: it sees scores, never a gradient, and every text goes through normaliser and
tokenizer.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from jaxretr.attack.search import attacked_by_texts, greedy, random_edits, score_of, worst_of_k
from jaxretr.attack.victim import Attacked, Victim
from jaxretr.eval.settings import Task
from jaxretr.perturb.text import Perturb

Search = Literal["random", "worst_of_k", "greedy"]
"""`random`: a text drawn once, which is noise and no attack. `worst_of_k`: the worst of `budget` texts drawn.
`greedy`: edit after edit, each the worst of its share of the budget."""


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
) -> Attacked:
    """Replaces every query by the worst text found with a number of edits.

    Args:
      victim: the model and the collection.
      task: whose queries are attacked.
      perturb: the kind of edit; of several, each edit may be of any kind, in proportion to how many texts each offers.
      search: how the text is found.
      edits: edits in a text; `greedy` may make fewer.
      budget: texts scored for each query besides the clean one; `random` scores one whatever the budget.
      seed: of the draws.
      margin_k: the attacker maximises `Victim.margins` at this k, to drive all relevant passages out of the top k.

    Returns:
      The attacked queries. `changed` is the same for every search, budget and number of edits: False where no edit
      reaches the model. Notes: texts one edit away that were `offered`, and those of them that are `undone`.

    Raises:
      ValueError: for another search, a language that the kind of edit does not know, or a `margin_k` or `budget` that
        cannot be kept.
    """
    kind = perturb if callable(perturb) else together(perturb)
    queries = victim.asked(task)
    score = score_of(victim, task, victim.candidates(task), margin_k)
    token_ids = victim.encoder.query_tokenization
    match search:
        case "random":
            found = random_edits(kind, queries, score, token_ids=token_ids, edits=edits, seed=seed)
        case "worst_of_k":
            found = worst_of_k(kind, queries, score, token_ids=token_ids, k=budget, edits=edits, seed=seed)
        case "greedy":
            found = greedy(kind, queries, score, token_ids=token_ids, edits=edits, budget=budget, seed=seed)
        case _:
            raise ValueError(f"search {search!r} is not known; choose one of {', '.join(get_args(Search))}")
    return attacked_by_texts(
        victim,
        task,
        [result.text for result in found],
        changed=[result.undone < result.offered for result in found],
        forward_passes=[result.forward_passes for result in found],
        notes={
            "offered": float(sum(result.offered for result in found)),
            "undone": float(sum(result.undone for result in found)),
        },
    )


def together(kinds: Sequence[Perturb]) -> Perturb:
    """Several kinds of edits as one that offers the texts of each, once."""

    def perturb(text: str, language: str) -> list[str]:
        return list(dict.fromkeys(candidate for kind in kinds for candidate in kind(text, language)))

    return perturb
