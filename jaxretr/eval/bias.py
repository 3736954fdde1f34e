"""Language bias of a pooled ranking: ranks of relevant passages, or languages of the top ones, come in; values go out.

A retriever without bias ranks the translations of an answer next to each other and does not favour the query's own
language. Both measures are averaged over queries, then over query languages.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int

RANK_DISTANCE = "rank_distance"
OWN_LANGUAGE_SHARE = "own_language_share@10"


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
    relevant = grade > 0
    query, rank = query[relevant], rank[relevant].astype(np.float64)
    lowest, highest = np.full(num_queries, np.inf), np.full(num_queries, -np.inf)
    np.minimum.at(lowest, query, rank)
    np.maximum.at(highest, query, rank)
    several = np.bincount(query, minlength=num_queries) > 1
    return np.subtract(highest, lowest, out=np.full(num_queries, np.nan), where=several)


def own_language_share(is_own: Bool[np.ndarray, "queries k"]) -> Float64[np.ndarray, " queries"]:
    """The share of passages in the query's own language among the top `k` of the pool of all languages.

    With parallel corpora in `n` languages the unbiased value is `1 / n`.

    Args:
      is_own: whether the passage at each of the first `k` ranks is in the language of the query.
    """
    return is_own.mean(1)
