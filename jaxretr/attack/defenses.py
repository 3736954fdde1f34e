"""Filters against poisoned passages and perturbed queries, and their power to separate adversarial from clean texts.

Input: embeddings (or texts) of clean and adversarial texts. Output: one score per text, larger for a more suspicious
text, and per language the ROC of clean against adversarial scores. No filter needs a language model:

- `text_norms`: the length of the pooled vector, which optimized passages stretch (Zhong et al. 2023, arXiv 2310.19156);
- `hubness.occurrences`: number of top-k lists that contain a passage (hubness, Radovanović et al. 2010, JMLR 11);
- `hubness.hub_scores`: hubness with ties broken by mean similarity, as in the gate of an index (`jaxretr.index.gate`);
- `hubness.mean_similarity`: hubness without a threshold;
- `nearest_distance`: distance of a text from the nearest clean text.

Thresholds are set per language on the clean texts of that language. `detections` runs every filter on the attacks of a
run. Perturbed queries are scored by the length of their pooled vector and the distance to the nearest clean query.
Poisoned passages are scored by the same two filters, and by hubness, the score of the gate, and mean similarity among
questions that they were not optimized on, which stand for sentinel queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from jaxretr.attack.result import Trial
from jaxretr.attack.token.transfer import Poisoning
from jaxretr.attack.victim import TOP, Victim
from jaxretr.model.encode import Encoder
from jaxretr.retrieval.hubness import hub_scores, kth_scores, mean_similarity, occurrences, row_blocks, threshold

MAX_FALSE_POSITIVE_RATE = 0.01
"""Share of clean texts of a language that a filter may reject."""

_NORM, _NEAREST, _HUBNESS, _SIMILARITY = "norm", "nearest clean text", f"hubness@{TOP}", "mean similarity"
_SENTINELS = "sentinels"


@dataclass(frozen=True)
class Detection:
    """A filter against one attack in one language.

    Attributes:
      filter: name of the filter.
      attack: label of the trial, or name of the poisoning.
      language: language of the texts.
      false_positive_rate: share of clean texts with a score above the threshold; as close to the allowed share as the
        clean scores permit.
      true_positive_rate: share of adversarial texts with a score above the threshold.
      area: area under the ROC: the probability that an adversarial text scores higher than a clean text; a tie counts
        half.
      roc: false and true positive rates, from (0, 0) to (1, 1), one point per distinct score.
    """

    filter: str
    attack: str
    language: str
    false_positive_rate: float
    true_positive_rate: float
    area: float
    roc: tuple[tuple[float, ...], tuple[float, ...]]


def detections(victim: Victim, trials: Sequence[Trial], poisonings: Sequence[Poisoning]) -> Iterator[Detection]:
    """Run every filter on every reference trial that attacks queries, and on every poisoning."""
    attacked = [trial for trial in trials if trial.reference and trial.results[0].passages is None]
    if attacked:
        yield from _detect_queries(victim, attacked)
    for poisoning in poisonings:
        yield from _detect_passages(victim, poisoning)


def detect(
    clean: Float[np.ndarray, " clean"] | Int[np.ndarray, " clean"],
    adversarial: Float[np.ndarray, " adversarial"] | Int[np.ndarray, " adversarial"],
    clean_languages: Sequence[str],
    adversarial_languages: Sequence[str],
    *,
    filter: str = "",
    attack: str = "",
    max_false_positive_rate: float = MAX_FALSE_POSITIVE_RATE,
) -> list[Detection]:
    """Set a threshold for each language on its clean texts, and measure the adversarial texts above it.

    Args:
      clean: scores of clean texts.
      adversarial: scores of adversarial texts.
      clean_languages, adversarial_languages: language of each text.
      filter, attack: names in the result.
      max_false_positive_rate: share of a language's clean texts that may be rejected. With fewer clean texts than the
        inverse of this rate, no clean text may be rejected.

    Returns:
      One `Detection` per language of the adversarial texts, sorted by language.

    Raises:
      ValueError: a language has no clean texts, or a score is not finite.
    """
    if not (np.isfinite(clean).all() and np.isfinite(adversarial).all()):
        raise ValueError("a score is not finite; leave out texts that the filter cannot score")
    clean, adversarial = clean.astype(np.float64), adversarial.astype(np.float64)
    clean_language, adversarial_language = np.array(clean_languages), np.array(adversarial_languages)
    known = set(clean_languages)
    results = []
    for language in sorted(set(adversarial_languages)):
        if language not in known:
            raise ValueError(
                f"{language!r} has adversarial texts, but no clean texts to set a threshold; clean texts exist in "
                f"{', '.join(sorted(known))}"
            )
        negatives, positives = clean[clean_language == language], adversarial[adversarial_language == language]
        limit = threshold(negatives, max_false_positive_rate)
        # A text is rejected if its score is at least s, for every distinct score s in descending order.
        scores = np.unique(np.concatenate([negatives, positives]))[::-1]
        false, true = (
            np.concatenate([[0.0], 1 - np.searchsorted(np.sort(group), scores) / len(group)])
            for group in (negatives, positives)
        )
        results.append(
            Detection(
                filter=filter,
                attack=attack,
                language=language,
                false_positive_rate=float(np.mean(negatives > limit)),
                true_positive_rate=float(np.mean(positives > limit)),
                area=float(np.trapezoid(true, false)),
                roc=(tuple(false.tolist()), tuple(true.tolist())),
            )
        )
    return results


def text_norms(encoder: Encoder, texts: Sequence[str], *, queries: bool) -> Float32[np.ndarray, " texts"]:
    """Return the L2 norm of each text's pooled vector before normalization.

    Args:
      encoder: the retriever.
      texts: queries or passages.
      queries: whether the texts are queries; queries and passages have different prefixes.
    """
    tokenization = encoder.query_tokenization if queries else encoder.passage_tokenization
    return encoder.pooled_norms(tokenization(texts))


def nearest_distance(
    embeddings: Float32[np.ndarray, "texts dim"],
    references: Float32[np.ndarray, "references dim"],
    groups: Int[np.ndarray, " texts"],
    reference_groups: Int[np.ndarray, " references"],
) -> Float32[np.ndarray, " texts"]:
    """Return 1 - cosine similarity of each text to the nearest clean text of another group.

    Args:
      embeddings: unit vectors of clean or adversarial texts.
      references: unit vectors of clean texts: past queries, or the corpus.
      groups: group of each text. A clean text and its translations form one group. An attacked query has the group of
        its clean query, because a defender does not have that query among past queries. A poisoned passage has a group
        that no reference has, such as -1.
      reference_groups: group of each reference.

    Raises:
      ValueError: a text has no reference of another group.
    """
    distances, start = [], 0
    for rows in row_blocks(embeddings, len(references)):
        same_group = groups[start : start + len(rows), None] == reference_groups
        if same_group.all(axis=1).any():
            raise ValueError("a text has no reference of another group; add references besides its own clean text")
        distances.append(1 - np.where(same_group, -np.inf, rows @ references.T).max(axis=1))
        start += len(rows)
    return np.concatenate(distances).astype(np.float32)


def _detect_queries(victim: Victim, trials: Sequence[Trial]) -> Iterator[Detection]:
    queries = victim.collection.queries
    keys = {key: number for number, key in enumerate(dict.fromkeys(query.key for query in queries))}
    groups = np.array([keys[query.key] for query in queries])
    languages = [query.language for query in queries]
    clean = {
        _NEAREST: nearest_distance(victim.queries, victim.queries, groups, groups),
        _NORM: text_norms(victim.encoder, [query.text for query in queries], queries=True),
    }
    for trial in trials:
        results = [result for result in trial.results if result.changed.any()]
        if not results:
            continue
        rows = np.concatenate([result.task.queries[result.changed] for result in results])
        attacked_languages = [languages[i] for i in rows]
        vectors = np.concatenate([result.embeddings[result.changed] for result in results])
        scores = {_NEAREST: nearest_distance(vectors, victim.queries, groups[rows], groups)}
        texts = [result.texts[row] for result in results if result.texts for row in np.flatnonzero(result.changed)]
        if texts:
            scores[_NORM] = text_norms(victim.encoder, texts, queries=True)
        for name, score in scores.items():
            yield from detect(clean[name], score, languages, attacked_languages, filter=name, attack=trial.label)


def _detect_passages(victim: Victim, poisoning: Poisoning) -> Iterator[Detection]:
    held_out = {id for ids in poisoning.query_ids.values() for id in ids}
    reference = victim.queries[[query.id in held_out for query in victim.collection.queries]]
    languages = [victim.pool.languages[number] for number in victim.pool.language_numbers()]
    poison_languages = [x for x in poisoning.languages for _ in poisoning.passages[x].texts]
    texts = [text for x in poisoning.languages for (text,) in poisoning.passages[x].texts]
    vectors = np.concatenate([poisoning.passages[x].embeddings[:, 0] for x in poisoning.languages])
    passages = victim.passages
    passage_texts = [passage.full_text for passage in victim.collection.take_passages(victim.pool.order.tolist())]
    kth = kth_scores(reference, passages, TOP)
    passage_groups, no_group = np.arange(len(passages)), np.full(len(vectors), -1)
    for name, clean, score in (
        (
            _NORM,
            text_norms(victim.encoder, passage_texts, queries=False),
            text_norms(victim.encoder, texts, queries=False),
        ),
        (
            _NEAREST,
            nearest_distance(passages, passages, passage_groups, passage_groups),
            nearest_distance(vectors, passages, no_group, passage_groups),
        ),
        (_HUBNESS, occurrences(passages, reference, kth), occurrences(vectors, reference, kth)),
        (_SENTINELS, hub_scores(passages, reference, kth), hub_scores(vectors, reference, kth)),
        (_SIMILARITY, mean_similarity(passages, reference), mean_similarity(vectors, reference)),
    ):
        yield from detect(clean, score, languages, poison_languages, filter=name, attack=poisoning.attack)
