"""Whether adversarial passages reach the top k: embeddings come in, one truth value a query goes out.

ASR@k, the attack success rate, is the share of held-out queries with an adversarial passage among the first k. It needs
no new ranking: the best adversarial passage is there exactly if it scores higher than the clean corpus's k-th passage,
however many of them there are.
"""

import numpy as np
from jaxtyping import Bool, Float32

from jaxretr.retrieval.embeddings import Rows
from jaxretr.retrieval.exact import search
from jaxretr.retrieval.scores import scores_at


def thresholds(queries: Float32[np.ndarray, "queries dim"], passages: Rows, k: int) -> Float32[np.ndarray, " queries"]:
    """The score of each query's k-th passage in the clean corpus.

    Raises:
      ValueError: the corpus has fewer than `k` passages.
    """
    return _scores_of(queries, passages, k)


def reaches_top(
    queries: Float32[np.ndarray, "queries dim"],
    adversarial: Float32[np.ndarray, "adversarial dim"],
    thresholds: Float32[np.ndarray, " queries"],
) -> Bool[np.ndarray, " queries"]:
    """Which queries have an adversarial passage in their top k once all of them are in the corpus.

    An adversarial passage that scores exactly as the k-th clean one stays behind it, as if appended to the corpus.

    Args:
      queries: embeddings of held-out queries.
      adversarial: embeddings of the adversarial passages, from their strings.
      thresholds: as `thresholds` gives them.
    """
    return _scores_of(queries, adversarial, 1) > thresholds


def _scores_of(
    queries: Float32[np.ndarray, "queries dim"], passages: Rows, rank: int
) -> Float32[np.ndarray, " queries"]:
    """The score of the passage at a rank of each query's ranking, to be compared with scores of other searches."""
    _, positions = search(queries, passages, rank)
    return scores_at(queries, passages, np.arange(len(queries)), positions[:, -1])
