"""Which filters would have caught the attacks of a run: trials and poison come in, records of detection go out.

Thresholds are set for each language on clean texts of that language, at 1 % false positives. Perturbed queries meet the
length of their pooled vector and the distance to the nearest clean query; poisoned passages meet those of passages,
and hubness among questions that they were not optimised on.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxretr.attack import record
from jaxretr.attack.defences import detect, mean_similarity, nearest_distance, occurrences, text_norms
from jaxretr.attack.robustness import TOP, Trial
from jaxretr.attack.transfer import Poisoning
from jaxretr.attack.victim import Attacked, Victim

_NORM, _NEAREST, _HUBNESS, _SIMILARITY = "norm", "nearest clean text", f"hubness@{TOP}", "mean similarity"


def detections(victim: Victim, trials: Sequence[Trial], poison: Sequence[Poisoning]) -> Iterator[record.Detection]:
    """Every filter against every attack on queries that counts for the worst case, and against every poisoning."""
    counted = [trial for trial in trials if trial.reference and isinstance(trial.attacked[0], Attacked)]
    if counted:
        yield from _of_queries(victim, counted)
    for one in poison:
        yield from _of_passages(victim, one)


def _of_queries(victim: Victim, trials: Sequence[Trial]) -> Iterator[record.Detection]:
    asked = victim.collection.queries
    keys = {key: number for number, key in enumerate(dict.fromkeys(query.key for query in asked))}
    groups = np.array([keys[query.key] for query in asked])
    languages = [query.language for query in asked]
    clean = {
        _NEAREST: nearest_distance(victim.queries, victim.queries, groups, groups),
        _NORM: text_norms(victim.encoder, [query.text for query in asked], queries=True),
    }
    for trial in trials:
        attacked = [one for one in trial.attacked if isinstance(one, Attacked) and one.changed.any()]
        if not attacked:
            continue
        at = np.concatenate([one.task.queries[one.changed] for one in attacked])
        spoken = [languages[i] for i in at]
        vectors = np.concatenate([one.embeddings[one.changed] for one in attacked])
        scores = {_NEAREST: nearest_distance(vectors, victim.queries, groups[at], groups)}
        texts = [one.texts[row] for one in attacked if one.texts for row in np.flatnonzero(one.changed)]
        if texts:
            scores[_NORM] = text_norms(victim.encoder, texts, queries=True)
        for name, score in scores.items():
            yield from _records(name, trial.label, clean[name], score, languages, spoken)


def _of_passages(victim: Victim, poison: Poisoning) -> Iterator[record.Detection]:
    found = poison.transfer
    held_out = {id for ids in found.query_ids.values() for id in ids}
    reference = victim.queries[[query.id in held_out for query in victim.collection.queries]]
    languages = [victim.pool.languages[number] for number in victim.pool.language_numbers()]
    spoken = [x for x in found.languages for _ in found.passages[x].texts]
    texts = [text for x in found.languages for (text,) in found.passages[x].texts]
    vectors = np.concatenate([found.passages[x].embeddings[:, 0] for x in found.languages])
    passages = victim.passages
    read = [passage.full_text for passage in victim.collection.take_passages(victim.pool.order.tolist())]
    own, none = np.arange(len(passages)), np.full(len(vectors), -1)
    for name, clean, score in (
        (
            _NORM,
            text_norms(victim.encoder, read, queries=False),
            text_norms(victim.encoder, texts, queries=False),
        ),
        (
            _NEAREST,
            nearest_distance(passages, passages, own, own),
            nearest_distance(vectors, passages, none, own),
        ),
        (
            _HUBNESS,
            occurrences(passages, reference, passages, TOP),
            occurrences(vectors, reference, passages, TOP),
        ),
        (_SIMILARITY, mean_similarity(passages, reference), mean_similarity(vectors, reference)),
    ):
        yield from _records(name, poison.attack, clean, score, languages, spoken)


def _records(
    name: str,
    attack: str,
    clean: np.ndarray,
    adversarial: np.ndarray,
    clean_languages: Sequence[str],
    adversarial_languages: Sequence[str],
) -> Iterator[record.Detection]:
    found = detect(clean.astype(np.float64), adversarial.astype(np.float64), clean_languages, adversarial_languages)
    for language, one in found.items():
        yield record.Detection(
            filter=name,
            attack=attack,
            language=language,
            false_positive_rate=one.false_positive_rate,
            true_positive_rate=one.true_positive_rate,
            area=one.auc,
            roc=(tuple(one.false_positive_rates.tolist()), tuple(one.true_positive_rates.tolist())),
        )
