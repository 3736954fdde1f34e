"""Scores compared with what a query scores on average in a passage's language: embeddings come in, centred ones go out.

An encoder with a language bias places the texts of a language together, so that a query scores higher with every
passage of some languages, its own above all. Taking the mean embedding of a language off its passages takes that off:
the score becomes q·p - q·mean, and no passage is preferred for its language alone. (Within one language no ranking
changes.)
Centring by language after Libovický et al. (2020), arXiv:2004.05160, and Yang et al. (2021), arXiv:2109.04460.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int, Integer

from jaxretr.retrieval.embeddings import Rows

_PRIOR = 10.0  # passages by which the mean of a language is drawn to that of all: few passages say little
_BLOCK = 16_384


def language_means(
    sums: Float64[np.ndarray, "languages dim"], counts: Int[np.ndarray, " languages"]
) -> Float32[np.ndarray, "languages dim"]:
    """The mean embedding of each language, drawn to that of all by as much as ten passages weigh.

    Args:
      sums: of the embeddings in each language.
      counts: how many these are.
    """
    overall = sums.sum(0) / max(1, counts.sum())
    return ((sums + _PRIOR * overall) / (counts + _PRIOR)[:, None]).astype(np.float32)


class Calibrated:
    """`Rows` less the mean of their language.

    Args:
      rows: embeddings, read once to find the means.
      languages: the number of the language of each row.
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
