"""Measures of language bias in the ranking of a pool of several languages.

Input: the ranks of relevant passages, or the languages of the top passages. Output: one value per query.

A retriever without bias ranks the translations of an answer next to each other and does not favor the query's own
language. All measures are averaged over queries, then over query languages.

| measure | unbiased | meaning |
|---|---|---|
| `rank_distance` | low | how far apart the translations of an answer are ranked |
| `Max@R` | low | how many passages to read until every relevant one is found |
| `Max@R_norm` | 100 | `Max@R` on a scale that does not depend on the size of the pool |
| `own_language_share@10` | 1 / languages | share of the top 10 that is in the query's own language |
| `PEER` | high | whether relevant passages of different languages have the same expected rank |
"""

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int
from scipy import special

RANK_DISTANCE = "rank_distance"
MAX_RANK = "Max@R"
MAX_RANK_NORM = "Max@R_norm"
OWN_LANGUAGE_SHARE = "own_language_share@10"
PEER = "PEER"

Better = Literal["higher", "lower", "neither"]
BETTER: dict[str, Better] = {
    RANK_DISTANCE: "lower",
    MAX_RANK: "lower",
    MAX_RANK_NORM: "higher",
    OWN_LANGUAGE_SHARE: "neither",
    PEER: "higher",
}
"""Which values of these measures are good. For every other measure, higher is better."""

_ATTACKERS_SUCCESS = ("poisoned@", "promoted@")


def better(measure: str) -> Better:
    """Return which values of a measure are good; the name may begin with an attack, as in "pgd@0.1 rank_distance"."""
    name = measure.rpartition(" ")[2]
    return "lower" if name.startswith(_ATTACKERS_SUCCESS) else BETTER.get(name, "higher")


def rank_distance(
    query: Int[np.ndarray, " judged"],
    rank: Int[np.ndarray, " judged"],
    grade: Int[np.ndarray, " judged"],
    num_queries: int,
) -> Float64[np.ndarray, " queries"]:
    """Return the largest minus the smallest rank of each query's relevant passages in the pool; lower is better.

    Elmahdy et al. (2024), arXiv:2408.10536.

    Args:
      query: for each judgement, the position of its query.
      rank: for each judgement, the rank of its passage in the full pooled ranking, from 1.
      grade: for each judgement, its relevance; only positive grades count.
      num_queries: number of queries.

    Returns:
      The distance in ranks. NaN for a query with fewer than two relevant passages, where no distance is defined.
    """
    query, rank = query[grade > 0], rank[grade > 0].astype(np.float64)
    lowest, highest = np.full(num_queries, np.inf), np.full(num_queries, -np.inf)
    np.minimum.at(lowest, query, rank)
    np.maximum.at(highest, query, rank)
    several = np.bincount(query, minlength=num_queries) > 1
    return np.subtract(highest, lowest, out=np.full(num_queries, np.nan), where=several)


def max_rank(
    query: Int[np.ndarray, " judged"],
    rank: Int[np.ndarray, " judged"],
    grade: Int[np.ndarray, " judged"],
    num_queries: int,
) -> Float64[np.ndarray, " queries"]:
    """Return Max@R: the rank of each query's last relevant passage in the pool of all languages; lower is better.

    Hong et al. (2026), arXiv:2604.05684.

    Args:
      query, rank, grade, num_queries: as in `rank_distance`.

    Returns:
      Ranks from 1; NaN for a query without a relevant passage.
    """
    query, rank = query[grade > 0], rank[grade > 0]
    highest = np.full(num_queries, -np.inf)
    np.maximum.at(highest, query, rank)
    return np.where(np.isinf(highest), np.nan, highest)


def max_rank_norm(
    query: Int[np.ndarray, " judged"],
    rank: Int[np.ndarray, " judged"],
    grade: Int[np.ndarray, " judged"],
    num_queries: int,
    num_passages: int,
) -> Float64[np.ndarray, " queries"]:
    """Return Max@R on a logarithmic scale from 0 to 100; higher is better.

    The value is 100 if all relevant passages are ranked first, and 0 if a relevant passage is ranked last in the pool.
    It is 100 (log |D| - log Max@R) / (log |D| - log |R|), with |D| passages in the pool and |R| relevant ones. Hong et
    al. (2026), arXiv:2604.05684.

    Args:
      query, rank, grade, num_queries: as in `rank_distance`.
      num_passages: size of the pool.

    Returns:
      Values from 0 to 100. NaN for a query for which no passage or every passage is relevant.
    """
    relevant = np.bincount(query[grade > 0], minlength=num_queries)
    defined = (relevant > 0) & (relevant < num_passages)
    to_end = np.log(num_passages / max_rank(query, rank, grade, num_queries))
    possible = np.log(num_passages / np.where(defined, relevant, 1))
    return np.divide(100 * to_end, possible, out=np.full(num_queries, np.nan), where=defined)


def language_shares(
    language: Int[np.ndarray, "queries k"], num_languages: int
) -> Float64[np.ndarray, "queries languages"]:
    """Return the share of each language in the top `k` of the pool of all languages.

    With parallel corpora in `n` languages, the unbiased value is `1 / n` for every language. The column of the query's
    own language is `own_language_share@k`.

    Args:
      language: number of the language of the passage at each of the first `k` ranks.
      num_languages: number of languages.
    """
    queries, k = language.shape
    cell = np.arange(queries)[:, None] * num_languages + language
    return np.bincount(cell.ravel(), minlength=queries * num_languages).reshape(queries, num_languages) / k


def peer(
    query: Int[np.ndarray, " judged"],
    rank: Int[np.ndarray, " judged"],
    grade: Int[np.ndarray, " judged"],
    language: Int[np.ndarray, " judged"],
    num_queries: int,
) -> Float64[np.ndarray, " queries"]:
    """Return PEER, the probability of equal expected rank: whether all languages' relevant passages rank equally.

    Higher is fairer. PEER is the p-value of the Kruskal-Wallis test that a query's relevant passages of one grade have
    the same expected rank in every language, averaged over the grades. Yang et al. (2024), arXiv:2405.00978. This
    implementation makes three choices:

    - The full ranking counts, so no passage is "not retrieved" (PEER without a cutoff).
    - The test is Kruskal and Wallis's own: the passages of a grade are ranked among themselves. The authors' program
      uses positions in the list instead, which gives the same value if no other passages stand between these passages.
    - All grades have the same weight, and a grade counts only if its p-value depends on the ranking. If its relevant
      passages are all in one language, there is nothing to compare; with exactly one in each of n languages, the
      statistic is n - 1 for every ranking. So the queries of LAReQA, which have one answer per language, have no PEER.

    Args:
      query, rank, grade, num_queries: as in `rank_distance`. No two passages of a query share a rank.
      language: for each judgement, the number of its passage's language.

    Returns:
      p-values; NaN for a query without a grade to test.
    """
    relevant = grade > 0
    query, rank, grade, language = query[relevant], rank[relevant], grade[relevant], language[relevant]
    (of_query, _), level = np.unique([query, grade], axis=1, return_inverse=True)
    (of_level, _), group = np.unique([level, language], axis=1, return_inverse=True)
    size, groups = np.bincount(level), np.bincount(of_level)

    order = np.lexsort((rank, level))
    within = np.empty(len(level))
    within[order] = np.arange(1, len(level) + 1) - np.repeat(np.cumsum(size) - size, size)
    squares = np.bincount(group, within) ** 2 / np.bincount(group)
    statistic = 12 / (size * (size + 1)) * np.bincount(of_level, squares) - 3 * (size + 1)
    p = special.chdtrc(groups - 1, statistic)

    tested = (groups > 1) & (size > groups)
    total = np.bincount(of_query[tested], p[tested], minlength=num_queries)
    count = np.bincount(of_query[tested], minlength=num_queries)
    return np.divide(total, count, out=np.full(num_queries, np.nan), where=count > 0)
