"""Language bias of a pooled ranking: ranks of relevant passages, or languages of the top ones, come in; values go out.

A retriever without bias ranks the translations of an answer next to each other and does not favour the query's own
language. All measures are averaged over queries, then over query languages.

| measure | unbiased | says |
|---|---|---|
| `rank_distance` | low | how far apart the translations of an answer are |
| `Max@R` | low | how many passages to read until every relevant one is found |
| `Max@R_norm` | 100 | the same on a scale that does not depend on the size of the pool |
| `own_language_share@10` | 1 / languages | how much of the top is in the query's own language |
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
"""Which values of these measures are good. Of all other measures, higher is better."""

_ATTACKERS_SUCCESS = ("poisoned@", "promoted@")


def better(measure: str) -> Better:
    """Which values of a measure are good, whatever attack stands before its name: "pgd@0.1 rank_distance"."""
    name = measure.rpartition(" ")[2]
    return "lower" if name.startswith(_ATTACKERS_SUCCESS) else BETTER.get(name, "higher")


def rank_distance(
    query: Int[np.ndarray, " judged"],
    rank: Int[np.ndarray, " judged"],
    grade: Int[np.ndarray, " judged"],
    num_queries: int,
) -> Float64[np.ndarray, " queries"]:
    """The largest minus the smallest rank of a query's relevant passages in the pool of all languages; lower is better.

    Elmahdy et al. (2024), arXiv:2408.10536.

    Args:
      query: for each judgement, the position of its query.
      rank: for each judgement, the rank of its passage in the full pooled ranking, from 1.
      grade: for each judgement, its relevance; only positive ones count.
      num_queries: number of queries.

    Returns:
      The distance in ranks; NaN for a query with fewer than two relevant passages, between which there is no distance.
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
    """Max@R: the rank of a query's last relevant passage in the pool of all languages; lower is better.

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
    """Max@R on a logarithmic scale: 100 where the relevant passages stand on top, 0 where the last one is last of all.

    100 (log |D| - log Max@R) / (log |D| - log |R|), with |D| passages in the pool and |R| relevant ones. Hong et al.
    (2026), arXiv:2604.05684.

    Args:
      query, rank, grade, num_queries: as in `rank_distance`.
      num_passages: size of the pool.

    Returns:
      Values from 0 to 100; NaN for a query to which no passage or every passage is relevant.
    """
    relevant = np.bincount(query[grade > 0], minlength=num_queries)
    some = (relevant > 0) & (relevant < num_passages)
    to_end = np.log(num_passages / max_rank(query, rank, grade, num_queries))
    possible = np.log(num_passages / np.where(some, relevant, 1))
    return np.divide(100 * to_end, possible, out=np.full(num_queries, np.nan), where=some)


def language_shares(
    language: Int[np.ndarray, "queries k"], num_languages: int
) -> Float64[np.ndarray, "queries languages"]:
    """The share that each language has in the top `k` of the pool of all languages.

    With parallel corpora in `n` languages the unbiased value is `1 / n` throughout. The column of the query's own
    language is `own_language_share@k`.

    Args:
      language: number of the language of the passage at each of the first `k` ranks.
      num_languages: how many there are.
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
    """PEER, probability of equal expected rank: are relevant passages of all languages ranked alike? Higher is fairer.

    The p-value of the Kruskal-Wallis test that a query's relevant passages of one grade have the same expected rank in
    every language, averaged over the grades. Yang et al. (2024), arXiv:2405.00978. Three things are settled here:

    - The full ranking counts, so no passage is "not retrieved" (PEER without a cutoff).
    - The test is Kruskal and Wallis's own: the passages of a grade are ranked among themselves. The authors' program
      takes positions in the list instead, which is the same where no other passages stand between.
    - Each grade weighs the same, and only grades count whose p-value depends on the ranking: with relevant passages
      in one language only there is nothing to compare, and with just one in each of n languages the statistic is n - 1
      whatever the ranking. So queries of LAReQA, one answer in each language, have no PEER.

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
