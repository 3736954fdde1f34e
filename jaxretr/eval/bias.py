"""Measures of language bias in the ranking of a pool of several languages.

Input: the ranks of relevant passages, or the languages of the top passages. Output: one value per query.

A retriever without bias ranks the translations of an answer next to each other and does not favor the query's own
language. All measures are averaged over queries, then over query languages. `BIAS_MEASURES` lists them. A new measure
is a function and an entry there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int
from scipy import special

from jaxretr.eval.settings import Setting

BIAS_SETTING: Setting = "multi"
"""The setting in which language bias is defined: a pool of several languages."""

RANK_DISTANCE = "rank_distance"
OWN_LANGUAGE_SHARE = "own_language_share@10"

Better = Literal["higher", "lower", "neither"]
BiasTable = Literal["averages", "languages"]
"""A table with columns for measures of bias: macro averages, or one row per query language."""


@dataclass(frozen=True)
class PooledRanking:
    """The rankings of one task's queries over the pool of all languages.

    Attributes:
      query: for each judgement, the position of its query.
      rank: for each judgement, the rank of its passage in the full pooled ranking, from 1.
      grade: for each judgement, its relevance; only positive grades count.
      language: for each judgement, the number of its passage's language.
      top: number of the language of the passage at each of the first ranks of each query.
      query_language: number of the language of the queries; None if the pool has no passage in this language.
      num_passages: size of the pool.
    """

    query: Int[np.ndarray, " judged"]
    rank: Int[np.ndarray, " judged"]
    grade: Int[np.ndarray, " judged"]
    language: Int[np.ndarray, " judged"]
    top: Int[np.ndarray, "queries k"]
    query_language: int | None
    num_passages: int

    @property
    def judged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        return self.query, self.rank, self.grade, len(self.top)


@dataclass(frozen=True)
class BiasMeasure:
    """A measure of language bias.

    Attributes:
      name: name in `results.json` and in settings such as `evaluation.best_measure`.
      heading: heading of its column, without the arrow that marks "lower is better".
      meaning: what the value is, as part of a sentence.
      source: the arXiv identifier of the paper that defines the measure; "" for a measure of this project.
      values: return the value of each query; NaN if undefined.
      better: which values are good; "neither" if the unbiased value is in the middle.
      decimals: number of decimals in tables; pictures print one less.
      tables: tables with a column for the measure.
      picture: title of the picture that shows the measure by query language; "" if there is no picture.
    """

    name: str
    heading: str
    meaning: str
    source: str
    values: Callable[[PooledRanking], Float64[np.ndarray, " queries"]]
    better: Better
    decimals: int
    tables: tuple[BiasTable, ...] = ("averages", "languages")
    picture: str = ""


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

    With parallel corpora in `n` languages, the unbiased value is `1 / n` for every language.

    Args:
      language: number of the language of the passage at each of the first `k` ranks.
      num_languages: number of languages.
    """
    queries, k = language.shape
    cell = np.arange(queries)[:, None] * num_languages + language
    return np.bincount(cell.ravel(), minlength=queries * num_languages).reshape(queries, num_languages) / k


def own_language_share(
    language: Int[np.ndarray, "queries k"], query_language: int | None
) -> Float64[np.ndarray, " queries"]:
    """Return the share of the query's own language in the top `k` of the pool of all languages.

    Args:
      language: number of the language of the passage at each of the first `k` ranks.
      query_language: number of the language of all queries; None if the pool has no passage in this language.

    Returns:
      Shares from 0 to 1; the unbiased value is as in `language_shares`. NaN if the pool lacks the language.
    """
    return np.full(len(language), np.nan) if query_language is None else np.mean(language == query_language, axis=1)


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


BIAS_MEASURES: dict[str, BiasMeasure] = {
    measure.name: measure
    for measure in (
        BiasMeasure(
            name=RANK_DISTANCE,
            heading="rank distance",
            meaning="the number of ranks between the first and the last relevant passage of a query",
            source="2408.10536",
            values=lambda ranking: rank_distance(*ranking.judged),
            better="lower",
            decimals=1,
            picture="rank distance",
        ),
        BiasMeasure(
            name="Max@R",
            heading="Max@R",
            meaning="the rank of the last relevant passage",
            source="2604.05684",
            values=lambda ranking: max_rank(*ranking.judged),
            better="lower",
            decimals=1,
            tables=("averages",),  # a fourth column by language exceeds 80 characters
        ),
        BiasMeasure(
            name="Max@R_norm",
            heading="Max@R_norm",
            meaning="Max@R on a scale that does not depend on the size of the pool",
            source="2604.05684",
            values=lambda ranking: max_rank_norm(*ranking.judged, ranking.num_passages),
            better="higher",
            decimals=1,
            tables=(),
        ),
        BiasMeasure(
            name=OWN_LANGUAGE_SHARE,
            heading="own language @10",
            meaning="the share of the query's own language in the top 10",
            source="",
            values=lambda ranking: own_language_share(ranking.top, ranking.query_language),
            better="neither",
            decimals=3,
            picture="own-language share",
        ),
        BiasMeasure(
            name="PEER",
            heading="PEER",
            meaning="the p-value of the hypothesis that relevant passages of all languages have the same expected rank",
            source="2405.00978",
            values=lambda ranking: peer(*ranking.judged[:3], ranking.language, len(ranking.top)),
            better="higher",
            decimals=3,
        ),
    )
}
"""The measures of language bias by name, in the order of tables and results."""

_ATTACKERS_SUCCESS = ("poisoned@", "promoted@")


def better(measure: str) -> Better:
    """Return which values of a measure are good; the name may begin with an attack, as in "pgd@0.1 rank_distance"."""
    name = measure.rpartition(" ")[2]
    if name in BIAS_MEASURES:
        return BIAS_MEASURES[name].better
    return "lower" if name.startswith(_ATTACKERS_SUCCESS) else "higher"
