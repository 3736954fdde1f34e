"""Calibration: compare scores with the query's average score in a passage's language, by centering the embeddings.

An encoder with a language bias places the texts of one language close together. So a query scores higher with all
passages of some languages, above all of its own language. Subtracting the mean embedding of a language from its
passages removes this bias: the score becomes q·p - q·mean, and no passage is preferred for its language alone. Rankings
within one language do not change.
Centering by language after Libovický et al. (2020), arXiv:2004.05160, and Yang et al. (2021), arXiv:2109.04460.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int, Integer

from jaxretr.retrieval.embeddings import Rows

_PRIOR = 10.0  # weight of the overall mean, in passages, since few passages estimate a language's mean badly
_BLOCK = 16_384  # rows read at once


def language_means(
    sums: Float64[np.ndarray, "languages dim"], counts: Int[np.ndarray, " languages"]
) -> Float32[np.ndarray, "languages dim"]:
    """Return the mean embedding of each language, shrunk toward the overall mean with the weight of ten passages.

    Args:
      sums: sum of the embeddings in each language.
      counts: number of embeddings in each language.
    """
    overall = sums.sum(0) / max(1, counts.sum())
    return ((sums + _PRIOR * overall) / (counts + _PRIOR)[:, None]).astype(np.float32)


class Calibrated:
    """`Rows` minus the mean embedding of each row's language.

    Args:
      rows: embeddings; all of them are read once to compute the means.
      languages: language number of each row.
    """

    def __init__(self, rows: Rows, languages: Integer[np.ndarray, " rows"]):
        self._rows, self._languages = rows, languages
        self.shape: tuple[int, int] = (len(languages), rows.shape[1])
        sums = np.zeros((int(languages.max(initial=0)) + 1, rows.shape[1]))
        for start in range(0, len(languages), _BLOCK):
            block = rows[start : start + _BLOCK]
            np.add.at(sums, languages[start : start + len(block)], block)
        self._means = language_means(sums, np.bincount(languages, minlength=len(sums)))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> Float32[np.ndarray, "rows dim"]:
        return self._rows[rows] - self._means[self._languages[rows]]
