"""Perturbations of text and black-box search over them: pure functions of text, language and seed."""

from jaxretr.attack.text.edits import Perturb, Screened, TokenIds, draw, screen
from jaxretr.attack.text.keyboards import wrong_layout
from jaxretr.attack.text.letters import cases, without_diacritics, wrong_diacritics
from jaxretr.attack.text.search import Found, Score, greedy, worst_of_k
from jaxretr.attack.text.typos import deletions, insertions, repetitions, substitutions, transpositions, typos
from jaxretr.attack.text.unicode import deleted_letters, homoglyphs, invisible, reorderings
from jaxretr.attack.text.words import reversed_words, swapped_words, without_function_words

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
"""Every perturbation by its name."""

__all__ = [
    "PERTURBATIONS",
    "Found",
    "Perturb",
    "Score",
    "Screened",
    "TokenIds",
    "draw",
    "greedy",
    "screen",
    "worst_of_k",
    *PERTURBATIONS,
]
