"""Fuse the results of vectors and words into one list.

Reciprocal rank fusion adds 1 / (60 + rank) over the two lists (Cormack et al. 2009, doi 10.1145/1571941.1572114). A
convex combination adds the two scores with weights, each scaled to 0 to 1 over the candidates of the query (Bruch et
al. 2022, arXiv:2210.11934).

The candidates are the best passages by vectors and the best by words, `depth` of each. Of the vectors, a limit per
language adds the passages that would be returned without words, so an answer is never shorter with words.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64

from jaxretr.index.store import keys
from jaxretr.index.types import LEXICAL_WEIGHT, Hit, SearchOptions

RANK_CONSTANT = 60
_DEPTH = 100  # least number of candidates of each list


def depth(options: SearchOptions) -> int:
    """Return the number of candidates of each list."""
    return max(_DEPTH, options.k)


def fuse(hits: Sequence[Hit], options: SearchOptions) -> tuple[Hit, ...]:
    """Return the answer to a query with a lexical part.

    Equal fused scores are ordered by the scores of the vectors, then by the keys of the passages.

    Args:
      hits: at least all candidates, in any order, with `vector_score` and `lexical_score`.
      options: options of the query.

    Returns:
      At most `options.k` hits with their fused scores, best first.
    """
    lexical = options.lexical
    if lexical is None or not hits:
        return ()
    vector_scores = np.asarray([hit.vector_score for hit in hits], np.float64)
    lexical_scores = np.asarray([hit.lexical_score for hit in hits], np.float64)
    languages = [hit.passage.language for hit in hits]
    hit_keys = keys(hit.passage.id for hit in hits)
    by_vectors = np.lexsort((hit_keys, -vector_scores))
    ahead = np.zeros(len(hits), bool)
    ahead[by_vectors[: depth(options)]] = True
    ahead[within_limits(by_vectors, languages, options)] = True
    by_vectors = by_vectors[ahead[by_vectors]]
    by_words = np.lexsort((hit_keys, -lexical_scores))
    by_words = by_words[lexical_scores[by_words] > 0][: depth(options)]
    candidates = np.union1d(by_vectors, by_words)
    scores = np.zeros(len(hits))
    if lexical.fusion == "rrf":
        for ranking in (by_vectors, by_words):
            scores[ranking] += 1 / (RANK_CONSTANT + 1 + np.arange(len(ranking)))
    else:
        weight = LEXICAL_WEIGHT if lexical.weight is None else lexical.weight
        vector_part, lexical_part = _scaled(vector_scores[candidates]), _scaled(lexical_scores[candidates])
        scores[candidates] = (1 - weight) * vector_part + weight * lexical_part
    order = candidates[np.lexsort((hit_keys[candidates], -vector_scores[candidates], -scores[candidates]))]
    return tuple(replace(hits[at], score=float(scores[at])) for at in within_limits(order, languages, options))


def within_limits(order: Int64[np.ndarray, " hits"], languages: Sequence[str], options: SearchOptions) -> list[int]:
    """Return the first `k` positions of an order, of which at most `per_language` are in one language.

    Args:
      order: positions in `languages`, best first.
      languages: language of each position.
      options: options of the query.
    """
    kept: list[int] = []
    seen: Counter[str] = Counter()
    for place in order.tolist():
        language = languages[place]
        if len(kept) < options.k and (options.per_language is None or seen[language] < options.per_language):
            kept.append(place)
            seen[language] += 1
    return kept


def _scaled(scores: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Scale scores linearly to 0 to 1; equal scores become 0, because they tell nothing."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros(len(scores))
