"""Rank a corpus under an attack. Input: a `Victim` and an `AttackResult`. Output: `Rankings` of the task's queries.

An attack changes the query vectors, or one passage per query. No index is rebuilt: a changed passage only passes the
passages whose scores lie between its old and its new score.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from jaxretr.attack.result import AttackResult
from jaxretr.attack.victim import TOP, Victim, members_of
from jaxretr.eval.settings import Task
from jaxretr.retrieval.exact import count_ahead, ranks, search
from jaxretr.retrieval.scores import pair_scores, scores_at

ANSWER_SUCCESS = f"answer_success@{TOP}"
PROMOTED = f"promoted@{TOP}"


class Rankings(NamedTuple):
    """Rankings of a task's queries.

    Attributes:
      ranks: rank of each judged passage, from 1.
      top: the top passages, as positions in the task's corpus.
      values: further measures by name: success by distinct answers, and measures of the attack itself.
      changed: False for queries without a value.
    """

    ranks: Int[np.ndarray, " judged"]
    top: Int[np.ndarray, "queries k"]
    values: dict[str, Float64[np.ndarray, " queries"]]
    changed: Bool[np.ndarray, " queries"]


def clean_rankings(victim: Victim, task: Task) -> Rankings:
    """Rank the corpus for the clean queries."""
    return _ranked(victim, task, victim.queries[task.queries])


def attacked_rankings(victim: Victim, result: AttackResult, budget: float | None = None) -> Rankings:
    """Rank the corpus under an attack within a budget; only a minimum-norm search needs the budget."""
    if result.sizes is not None:
        within = result.sizes <= (np.inf if budget is None else budget)
        queries = np.where(within[:, None], result.embeddings, victim.queries[result.task.queries])
        return _ranked(victim, result.task, queries)
    if result.passages is None:
        return _ranked(victim, result.task, result.embeddings)._replace(changed=result.changed)
    return _with_replaced(victim, result, result.passages)


def successes(victim: Victim, task: Task, queries: Float32[np.ndarray, "queries dim"]) -> Bool[np.ndarray, " queries"]:
    """Return whether each query vector has a relevant passage in its top ten passages or distinct answers."""
    ranked = _ranked(victim, task, queries)
    if victim.answers is not None:
        return ranked.values[ANSWER_SUCCESS] > 0
    return best_relevant_ranks(task, ranked.ranks) <= TOP


def best_relevant_ranks(task: Task, judged_ranks: Int[np.ndarray, " judged"]) -> Int[np.ndarray, " queries"]:
    """Return the rank of the best relevant passage per query, from the rank of each judged passage."""
    best = np.full(len(task.queries), np.iinfo(np.int64).max)
    is_relevant = task.grade > 0
    np.minimum.at(best, task.judged_query[is_relevant], judged_ranks[is_relevant])
    return best


def _ranked(victim: Victim, task: Task, queries: np.ndarray) -> Rankings:
    corpus = victim.corpus(task)
    _, top = search(queries, corpus, _depth(victim, task))
    judged_ranks = ranks(queries, corpus, task.judged_query, task.judged_passage)
    values = _answer_success(victim, task, judged_ranks, top)
    return Rankings(judged_ranks, top[:, :TOP], values, np.ones(len(queries), bool))


def _depth(victim: Victim, task: Task) -> int:
    """Return how many ranks the measures read: enough for 10 distinct answers if the victim counts answers."""
    copies = members_of(victim.answers_of(task)).shape[1]
    return min(TOP * copies, task.num_passages)


def _answer_success(victim: Victim, task: Task, judged_ranks: np.ndarray, top: np.ndarray) -> dict[str, np.ndarray]:
    """Return the success by distinct answers; empty if the victim counts passages."""
    if victim.answers is None:
        return {}
    best = best_relevant_ranks(task, judged_ranks)
    return {ANSWER_SUCCESS: (answer_ranks(victim.answers_of(task)[top], best) <= TOP).astype(np.float64)}


def answer_ranks(
    ranked: Int[np.ndarray, "queries depth"], best: Int[np.ndarray, " queries"]
) -> Int[np.ndarray, " queries"]:
    """Return the rank of each query's best relevant passage among distinct answers, from 1.

    The rank is 1 plus the number of distinct answers ahead. A rank beyond `depth` is a lower bound: it counts the
    answers in the first `depth` ranks.

    Args:
      ranked: number of the answer at each rank, best first.
      best: rank of the best relevant passage among all passages, from 1.
    """
    is_ahead = np.arange(ranked.shape[1]) < best[:, None] - 1
    ahead = np.sort(np.where(is_ahead, ranked, -1), axis=1)
    return 1 + (ahead[:, 0] >= 0) + np.count_nonzero(np.diff(ahead, axis=1), axis=1)


def _with_replaced(victim: Victim, result: AttackResult, attacked: Int[np.ndarray, " queries"]) -> Rankings:
    """Rank a corpus in which the attacked passage of each query replaces the clean passage."""
    task, corpus = result.task, victim.corpus(result.task)
    queries, all_queries = victim.queries[task.queries], np.arange(len(task.queries))
    before = scores_at(queries, corpus, all_queries, attacked)
    after = pair_scores(queries, result.embeddings)

    # Only the attacked passage moves: it passes the passages whose scores lie between its old and its new score.
    query, passage = task.judged_query, task.judged_passage
    at = np.concatenate([attacked, passage])
    score = np.concatenate([after, scores_at(queries, corpus, query, passage)])
    ahead = count_ahead(queries, corpus, np.concatenate([all_queries, query]), at, score).astype(np.int64)
    reached, judged_ranks = 1 + ahead[: len(attacked)], 1 + ahead[len(attacked) :]
    judged_scores = score[len(attacked) :]

    def is_ahead(attacked_scores: np.ndarray) -> np.ndarray:
        tie = (attacked_scores == judged_scores) & (attacked[query] < passage)
        return (attacked_scores > judged_scores) | tie

    judged_ranks = judged_ranks - is_ahead(before[query]) + is_ahead(after[query])
    judged_ranks = np.where(passage == attacked[query], reached[query], judged_ranks)

    k = _depth(victim, task)
    _, clean = search(queries, corpus, min(k + 1, len(corpus)))
    row, place = np.nonzero(clean != attacked[:, None])
    others = np.full(clean.shape, -np.inf, np.float32)
    others[row, place] = scores_at(queries, corpus, row, clean[row, place])
    scores = np.concatenate([others, after[:, None]], 1)
    positions = np.concatenate([clean, attacked[:, None]], 1)
    top = np.take_along_axis(positions, np.lexsort((positions, -scores))[:, :k], 1)
    values = _answer_success(victim, task, judged_ranks, top)
    if result.goal == "promote":
        values |= {"promoted_rank": reached.astype(np.float64), PROMOTED: (reached <= TOP).astype(np.float64)}
    return Rankings(judged_ranks, top[:, :TOP], values, np.ones(len(queries), bool))
