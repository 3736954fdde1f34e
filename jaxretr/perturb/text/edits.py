"""What all perturbations are, how some of their texts are drawn, and which of them reach the model.

In: texts, a perturbation, a seed, the tokenizer. Out: perturbed texts.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Perturb = Callable[[str, str], list[str]]
"""(text, language) -> every text that is one edit away, each once, in a fixed order, without the text itself."""
TokenIds = Callable[[Sequence[str]], list[list[int]]]
"""Texts -> token ids as the model gets them, such as a `jaxretr.tokenization.Tokenization`."""


class Screened(NamedTuple):
    """Candidates that reach the model, and how many did not: the denominator of a success rate has no room for those.

    Attributes:
      kept: texts whose token ids differ from the clean text's.
      undone: number of texts that the normaliser, or truncation, turns back into the clean text's ids.
    """

    kept: list[str]
    undone: int


def screen(text: str, candidates: Sequence[str], token_ids: TokenIds) -> Screened:
    """Leaves out the candidates that are the clean `text` to the model."""
    clean, *others = token_ids([text, *candidates])
    kept = [candidate for candidate, ids in zip(candidates, others, strict=True) if ids != clean]
    return Screened(kept, len(candidates) - len(kept))


def draw(perturb: Perturb, text: str, language: str, *, count: int, edits: int = 1, seed: int) -> list[str]:
    """Random perturbed texts: `edits` edits, one after another, each uniform over what `perturb` offers.

    Args:
      perturb: the kind of edit.
      text: the clean text.
      language: its language.
      count: how many to draw.
      edits: edits per text; fewer where nothing is left to edit.
      seed: the same seed and text give the same result; other texts draw independently of it.

    Returns:
      At most `count` different texts, fewer where there are not so many; never the clean text.
    """
    rng = generator(text, seed)
    first = perturb(text, language)
    if edits == 1:
        return [first[i] for i in rng.permutation(len(first))[:count]]
    found: dict[str, None] = {}
    for _ in range(count):
        edited, offered = text, first
        for remaining in reversed(range(edits)):
            if not offered:
                break
            edited = offered[rng.integers(len(offered))]
            offered = perturb(edited, language) if remaining else []
        if edited != text:
            found[edited] = None
    return list(found)


def generator(text: str, seed: int) -> np.random.Generator:
    """A generator of its own for each text and seed."""
    return np.random.default_rng([seed, zlib.crc32(text.encode("utf-8", "surrogatepass"))])
