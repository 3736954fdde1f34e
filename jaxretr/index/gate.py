"""A gate against hub passages, such as poisoned passages: what answers too many sentinel queries is quarantined.

Sentinel queries are real queries of the user. A passage answers a sentinel if it scores at least as high as the
sentinel's `TOP`-th best passage of the index. The score of a passage is the number of sentinels that it answers, plus a
tie-break below 1 that increases with its mean similarity to the sentinels (`hubness.hub_scores`). A passage is
quarantined if its score exceeds the threshold of its language. The threshold is the lowest score that at most a
given share of the index's own passages in this language exceed. This share is the false-positive rate. A passage that
answers at most one sentinel is never quarantined.

The own passages are the passages of the index when `calibrate` is called. Later updates change neither the thresholds
nor the `TOP`-th scores. So the verdict on a passage depends only on its vector and its language.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int

from jaxretr.fingerprint import checksum
from jaxretr.index.types import Verdict
from jaxretr.retrieval.embeddings import Rows, Subset
from jaxretr.retrieval.hubness import hub_scores, kth_scores, threshold
from jaxretr.tracking import say

TOP = 10
"""A passage answers a sentinel if it scores at least as high as the own passage at this rank, counted from 1."""
FALSE_POSITIVE_RATE = 0.01
"""Default share of a language's own passages that are quarantined."""
HOW_TO_ADD = "add a gate with `jaxretr quarantine --index DIR --sentinels FILE`, which encodes only the queries"

_LEAST = 2.0  # least threshold: a passage that answers one sentinel has a score below 2
_EXAMPLES = 3  # sentinels in a verdict


@dataclass(frozen=True)
class SentinelGate:
    """Sentinel queries, and the thresholds on the scores of passages.

    Attributes:
      sentinels: texts of the queries.
      vectors: vectors of the queries.
      kth: score of the `TOP`-th best own passage of each query.
      false_positive_rate: share of a language's own passages that may exceed the threshold.
      thresholds: language -> threshold, for languages with at least 1 / `false_positive_rate` own passages.
      pooled_threshold: threshold over the own passages of all languages, for the other languages.
    """

    sentinels: tuple[str, ...]
    vectors: Float32[np.ndarray, "sentinels dim"]
    kth: Float32[np.ndarray, " sentinels"]
    false_positive_rate: float
    thresholds: Mapping[str, float]
    pooled_threshold: float

    def judge(self, vectors: Float32[np.ndarray, "passages dim"], languages: Sequence[str]) -> dict[int, Verdict]:
        """Return the verdict on each passage to quarantine, by its position.

        Args:
          vectors: vectors of the passages.
          languages: language of each passage.
        """
        return self._verdicts(hub_scores(vectors, self.vectors, self.kth), languages, lambda rows: vectors[rows])

    def describe(self) -> dict[str, Any]:
        """Return the settings and thresholds, as JSON."""
        return {
            "sentinels": len(self.sentinels),
            "checksum": checksum(self.sentinels),
            "top": TOP,
            "false_positive_rate": self.false_positive_rate,
            "thresholds": dict(self.thresholds),
            "pooled_threshold": self.pooled_threshold,
        }

    def dump(self) -> tuple[str, bytes, bytes]:
        """Return the gate in the form in which the store keeps it: JSON, vectors and TOP-th scores."""
        settings = {
            "sentinels": self.sentinels,
            "false_positive_rate": self.false_positive_rate,
            "thresholds": dict(self.thresholds),
            "pooled_threshold": self.pooled_threshold,
        }
        return json.dumps(settings, ensure_ascii=False), self.vectors.tobytes(), self.kth.tobytes()

    @classmethod
    def load(cls, settings: str, vectors: bytes, kth: bytes) -> "SentinelGate":
        """Return the gate that `dump` converted."""
        values = json.loads(settings)
        sentinels = tuple(values.pop("sentinels"))
        rows = np.frombuffer(vectors, np.float32).reshape(len(sentinels), -1)
        return cls(sentinels, rows, np.frombuffer(kth, np.float32), **values)

    def _verdicts(
        self,
        scores: Float64[np.ndarray, " passages"],
        languages: Sequence[str],
        take: Callable[[Int[np.ndarray, " rows"]], Float32[np.ndarray, "rows dim"]],
    ) -> dict[int, Verdict]:
        limits = np.asarray([self.thresholds.get(language, self.pooled_threshold) for language in languages])
        rejected = np.flatnonzero(scores > limits)
        verdicts = {}
        for row, vector in zip(rejected.tolist(), take(rejected), strict=True):
            count = int(scores[row])
            nearest = np.argsort(self.kth - self.vectors @ vector, kind="stable")[: min(count, _EXAMPLES)]
            language = languages[row] if languages[row] in self.thresholds else None
            examples = tuple(self.sentinels[number] for number in nearest)
            verdicts[row] = Verdict(count, float(scores[row]), float(limits[row]), language, examples)
        return verdicts


def check_sentinels(sentinels: Sequence[str], false_positive_rate: float) -> None:
    """Raise ValueError if a gate cannot be made from these values."""
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"the false-positive rate is {false_positive_rate}; expected more than 0 and less than 1")
    if not sentinels:
        raise ValueError("there is no sentinel query; expected at least one, such as the past queries of your users")


def calibrate(
    sentinels: Sequence[str],
    vectors: Float32[np.ndarray, "sentinels dim"],
    passages: Rows,
    languages: Sequence[str],
    false_positive_rate: float = FALSE_POSITIVE_RATE,
) -> tuple[SentinelGate, dict[int, Verdict]]:
    """Return the gate of an index, and the verdict on each own passage to quarantine, by its row.

    Args:
      sentinels: texts of the sentinel queries.
      vectors: vectors of the sentinel queries.
      passages: stored vectors of the own passages.
      languages: language of each own passage.
      false_positive_rate: share of a language's own passages that may be quarantined.

    Raises:
      ValueError: there is no sentinel or no passage, the rate is not between 0 and 1, or the vectors do not match.
    """
    check_sentinels(sentinels, false_positive_rate)
    if vectors.shape != (len(sentinels), passages.shape[1]) or not np.isfinite(vectors).all():
        raise ValueError(
            f"vectors of shape {vectors.shape} for {len(sentinels)} sentinel queries; expected finite numbers of shape "
            f"[{len(sentinels)}, {passages.shape[1]}]"
        )
    if not len(passages):
        raise ValueError("the index has no passage to set thresholds from; add passages first")
    vectors = np.ascontiguousarray(vectors, np.float32)
    kth = kth_scores(vectors, passages, min(TOP, len(passages)))
    scores = hub_scores(passages, vectors, kth)
    names, language_of, counts = np.unique(np.asarray(languages), return_inverse=True, return_counts=True)
    enough = math.ceil(1 / false_positive_rate)
    thresholds, pooled = {}, []
    for number, (name, count) in enumerate(zip(names.tolist(), counts.tolist(), strict=True)):
        if count >= enough:
            thresholds[name] = max(_LEAST, threshold(scores[language_of == number], false_positive_rate))
        else:
            pooled.append(name)
    if pooled:
        say(
            f"Gate: fewer than {enough} passages in {', '.join(pooled)}; these languages have the threshold of all "
            "languages together"
        )
    pooled_threshold = max(_LEAST, threshold(scores, false_positive_rate))
    gate = SentinelGate(tuple(sentinels), vectors, kth, false_positive_rate, thresholds, pooled_threshold)
    return gate, gate._verdicts(scores, languages, lambda rows: Subset(passages, rows)[:])


def dump_verdict(verdict: Verdict) -> str:
    """Return a verdict as the store keeps it."""
    return json.dumps(dataclasses.asdict(verdict), ensure_ascii=False)


def load_verdict(text: str) -> Verdict:
    """Return the verdict that `dump_verdict` converted."""
    values = json.loads(text)
    return Verdict(**values | {"sentinels": tuple(values["sentinels"])})
