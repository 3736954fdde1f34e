"""Filters against poisoned passages and perturbed queries, and how well they tell those from clean texts.

In: embeddings (or texts) of clean and adversarial texts. Out: one score a text, larger where it is more suspicious, and
for each language the ROC of clean against adversarial scores. None of the filters needs a language model:

- `text_norms`: the length of the pooled vector, which optimised passages stretch (Zhong et al. 2023, arXiv 2310.19156);
- `occurrences`: in how many top lists a passage stands (hubness, Radovanović et al. 2010, JMLR 11);
- `mean_similarity`: the same without a threshold;
- `nearest_distance`: how far a text is from the nearest clean one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

from jaxretr.attack.hidden import pooled_norms
from jaxretr.model.encode import Encoder
from jaxretr.retrieval.exact import search
from jaxretr.retrieval.scores import largest_norm, rounding_error, scores_at

MAX_FALSE_POSITIVE_RATE = 0.01
"""The share of clean texts of a language that a filter may refuse."""

_AT_ONCE = 1 << 24  # similarities in memory


@dataclass(frozen=True)
class Detection:
    """How a filter does in one language.

    Attributes:
      threshold: texts with a larger score are refused.
      false_positive_rate: share of clean texts refused, as close to the allowed share as the clean scores let it be.
      true_positive_rate: share of adversarial texts refused.
      auc: area under the ROC: the chance that an adversarial text scores higher than a clean one, a tie counting half.
      false_positive_rates, true_positive_rates: the ROC, from (0, 0) to (1, 1), a point for each different score.
      num_clean, num_adversarial: texts.
    """

    threshold: float
    false_positive_rate: float
    true_positive_rate: float
    auc: float
    false_positive_rates: Float64[np.ndarray, " points"] = field(repr=False)
    true_positive_rates: Float64[np.ndarray, " points"] = field(repr=False)
    num_clean: int
    num_adversarial: int


def detect(
    clean: Float[np.ndarray, " clean"],
    adversarial: Float[np.ndarray, " adversarial"],
    clean_languages: Sequence[str],
    adversarial_languages: Sequence[str],
    *,
    max_false_positive_rate: float = MAX_FALSE_POSITIVE_RATE,
) -> dict[str, Detection]:
    """Sets a threshold for each language on its clean texts, and counts the adversarial ones above it.

    Args:
      clean: scores of clean texts.
      adversarial: scores of adversarial texts.
      clean_languages, adversarial_languages: of each of them.
      max_false_positive_rate: of each language; with fewer than its inverse of clean texts, none may be refused.

    Returns:
      Language -> how the filter does, for the languages of the adversarial texts.

    Raises:
      ValueError: where a language has no clean texts, or a score is no finite number.
    """
    if not (np.isfinite(clean).all() and np.isfinite(adversarial).all()):
        raise ValueError("scores must be finite; leave out the texts that a filter cannot score")
    of_clean = np.array(clean_languages)
    of_adversarial = np.array(adversarial_languages)
    known = set(clean_languages)
    found: dict[str, Detection] = {}
    for language in sorted(set(adversarial_languages)):
        if language not in known:
            raise ValueError(
                f"there are adversarial texts in {language!r} but clean ones only in {', '.join(sorted(known))}; a "
                "threshold needs clean texts of the same language"
            )
        found[language] = _detection(
            clean[of_clean == language], adversarial[of_adversarial == language], max_false_positive_rate
        )
    return found


def text_norms(encoder: Encoder, texts: Sequence[str], *, queries: bool) -> Float32[np.ndarray, " texts"]:
    """The L2 norm of each text's pooled vector before it is put to unit length.

    Args:
      encoder: the retriever.
      texts: queries or passages.
      queries: which of the two, for their prefixes differ.
    """
    tokenization = encoder.query_tokenization if queries else encoder.passage_tokenization
    return pooled_norms(encoder, tokenization(texts))


def occurrences(
    passages: Float32[np.ndarray, "passages dim"],
    queries: Float32[np.ndarray, "queries dim"],
    corpus: Float32[np.ndarray, "corpus dim"],
    k: int,
) -> Int64[np.ndarray, " passages"]:
    """k-occurrence: how many reference queries have each passage among their k best.

    Args:
      passages: passages of the corpus, or others; each of those is judged as if it alone were added.
      queries: reference queries, such as past ones; not those that an attack was optimised on.
      corpus: clean passages, at least k.
      k: length of a top list.

    Returns:
      The number of queries for which no k passages of the corpus score higher; a tie counts for the passage.
    """
    _, positions = search(queries, corpus, k)
    kth = scores_at(queries, corpus, np.arange(len(queries)), positions[:, -1])
    error = rounding_error(queries, largest_norm(passages))
    counts = []
    for rows in _blocks(passages, len(queries)):
        products = rows @ queries.T
        count = (products > kth + error).sum(axis=1)
        # Products may be rounded differently from scores, so near the k-th score the scores decide.
        row, query = np.nonzero(np.abs(products - kth) <= error)
        np.add.at(count, row, scores_at(queries, rows, query, row) >= kth[query])
        counts.append(count)
    return np.concatenate(counts)


def mean_similarity(
    passages: Float32[np.ndarray, "passages dim"], queries: Float32[np.ndarray, "queries dim"]
) -> Float32[np.ndarray, " passages"]:
    """The mean similarity of each passage to reference queries, which is its similarity to their mean."""
    return passages @ queries.mean(axis=0)


def nearest_distance(
    embeddings: Float32[np.ndarray, "texts dim"],
    references: Float32[np.ndarray, "references dim"],
    groups: Int[np.ndarray, " texts"],
    reference_groups: Int[np.ndarray, " references"],
) -> Float32[np.ndarray, " texts"]:
    """1 - cosine similarity of each text to the nearest clean text of another group.

    Args:
      embeddings: unit vectors of clean or adversarial texts.
      references: unit vectors of clean texts: past queries, or the corpus.
      groups: of each text. A clean text's group is that of itself and its translations among the references, an
        attacked query's that of the query it was made of: a defender does not have it among past queries. A poisoned
        passage belongs to no group of the references, such as -1.
      reference_groups: of each reference.

    Raises:
      ValueError: where a text has no reference of another group.
    """
    found, start = [], 0
    for rows in _blocks(embeddings, len(references)):
        own = groups[start : start + len(rows), None] == reference_groups
        if own.all(axis=1).any():
            raise ValueError("a text has no reference of another group; give references besides its own clean text")
        found.append(1 - np.where(own, -np.inf, rows @ references.T).max(axis=1))
        start += len(rows)
    return np.concatenate(found).astype(np.float32)


def _detection(clean: np.ndarray, adversarial: np.ndarray, max_false_positive_rate: float) -> Detection:
    threshold = np.sort(clean)[::-1][int(max_false_positive_rate * len(clean))]
    scores = np.unique(np.concatenate([clean, adversarial]))[::-1]
    # A text is refused where its score is at least s, for each score s from the largest on.
    false, true = (
        np.concatenate([[0.0], 1 - np.searchsorted(np.sort(of), scores) / len(of)]) for of in (clean, adversarial)
    )
    return Detection(
        threshold=float(threshold),
        false_positive_rate=float(np.mean(clean > threshold)),
        true_positive_rate=float(np.mean(adversarial > threshold)),
        auc=float(np.trapezoid(true, false)),
        false_positive_rates=false,
        true_positive_rates=true,
        num_clean=len(clean),
        num_adversarial=len(adversarial),
    )


def _blocks(rows: np.ndarray, width: int) -> list[np.ndarray]:
    """Blocks of rows whose products with `width` others fit into memory."""
    size = max(1, _AT_ONCE // max(width, 1))
    return [rows[start : start + size] for start in range(0, max(len(rows), 1), size)]
