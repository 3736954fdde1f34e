"""Perturbations of text in every script: pure functions of text, language and seed."""

from jaxretr.perturb.text.edits import Perturb, Screened, TokenIds, draw, screen
from jaxretr.perturb.text.keyboards import wrong_layout
from jaxretr.perturb.text.letters import cases, without_diacritics, wrong_diacritics
from jaxretr.perturb.text.typos import deletions, insertions, repetitions, substitutions, transpositions, typos
from jaxretr.perturb.text.unicode import deleted_letters, homoglyphs, invisible, reorderings
from jaxretr.perturb.text.words import reversed_words, swapped_words, without_function_words

PERTURBATIONS: dict[str, Perturb] = {
    perturb.__name__: perturb
    for perturb in (
        insertions,
        deletions,
        transpositions,
        repetitions,
        substitutions,
        typos,
        without_diacritics,
        wrong_diacritics,
        cases,
        wrong_layout,
        swapped_words,
        reversed_words,
        without_function_words,
        invisible,
        homoglyphs,
        reorderings,
        deleted_letters,
    )
}
"""Every perturbation by name."""

__all__ = [
    "PERTURBATIONS",
    "Perturb",
    "Screened",
    "TokenIds",
    "draw",
    "screen",
    *PERTURBATIONS,
]
