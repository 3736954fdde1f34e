"""Black-box search for the perturbed text that hurts most: worst of k draws, and greedy edit after edit.

In: a text, a perturbation, a tokenizer, and a function that scores texts. Out: the worst text found, and what it cost.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxretr.perturb.text.edits import Perturb, TokenIds, draw, generator, screen

Score = Callable[[list[str]], Float[np.ndarray, " texts"]]
"""Texts -> what the attacker gains, such as the margin loss; one call is one batch, one text one forward pass."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      text: the worst text; the clean one if none is worse.
      score: its score.
      clean_score: the clean text's.
      edits: edits between them; at most so many for random draws.
      forward_passes: texts scored, the clean one included.
      undone: candidates left out because their token ids are the clean text's.
    """

    text: str
    score: float
    clean_score: float
    edits: int
    forward_passes: int
    undone: int


def worst_of_k(
    perturb: Perturb,
    text: str,
    language: str,
    score: Score,
    *,
    token_ids: TokenIds,
    k: int,
    edits: int = 1,
    seed: int,
) -> Found:
    """The worst of k random perturbed texts, all scored in one batch with the clean text.

    Args:
      perturb: the kind of edit.
      text: the clean text.
      language: its language.
      score: what to maximise.
      token_ids: the model's tokenizer.
      k: how many texts are drawn; those that do not reach the model are not scored, and not replaced.
      edits: edits in each.
      seed: of the draws.
    """
    candidates, undone = screen(text, draw(perturb, text, language, count=k, edits=edits, seed=seed), token_ids)
    scores = _scored(score, [text, *candidates])
    worst = int(scores.argmax())
    return Found(
        text=[text, *candidates][worst],
        score=float(scores[worst]),
        clean_score=float(scores[0]),
        edits=edits if worst else 0,
        forward_passes=len(scores),
        undone=undone,
    )


def greedy(
    perturb: Perturb,
    text: str,
    language: str,
    score: Score,
    *,
    token_ids: TokenIds,
    edits: int,
    budget: int,
    seed: int,
) -> Found:
    """Edit after edit, each the worst of those tried; one batch an edit.

    What the budget leaves is shared evenly among the edits to come. Where an edit has more candidates than its share,
    some are drawn. Texts whose token ids were scored before are not scored again. The search ends early where no
    candidate of a complete set is worse than the text.

    Args:
      perturb: the kind of edit.
      text: the clean text.
      language: its language.
      score: what to maximise.
      token_ids: the model's tokenizer.
      edits: at most so many edits.
      budget: forward passes, the clean text's included.
      seed: of the draws.

    Raises:
      ValueError: for a budget that does not reach for one candidate per edit.
    """
    if budget <= edits:
        raise ValueError(
            f"A budget of {budget} forward passes is too small for {edits} edits; {edits + 1} is the least."
        )
    rng = generator(text, seed)
    best, best_score = text, float(_scored(score, [text])[0])
    clean_score, made, passes, undone = best_score, 0, 1, 0
    scored = {tuple(token_ids([text])[0])}
    for remaining in range(edits, 0, -1):
        offered, undone_now = screen(text, perturb(best, language), token_ids)
        undone += undone_now
        fresh: dict[tuple[int, ...], str] = {}
        for candidate, ids in zip(offered, token_ids(offered), strict=True):
            if tuple(ids) not in scored:
                fresh.setdefault(tuple(ids), candidate)
        share = (budget - passes) // remaining
        chosen = [list(fresh)[i] for i in sorted(rng.permutation(len(fresh))[:share])]
        if not chosen:
            break
        scored.update(chosen)
        candidates = [fresh[ids] for ids in chosen]
        scores = _scored(score, candidates)
        passes += len(candidates)
        worst = int(scores.argmax())
        if scores[worst] > best_score:
            best, best_score, made = candidates[worst], float(scores[worst]), made + 1
        elif len(chosen) == len(fresh):
            break
    return Found(best, best_score, clean_score, made, passes, undone)


def _scored(score: Score, texts: list[str]) -> np.ndarray:
    """The scores, one finite number per text."""
    scores = np.asarray(score(texts))
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise ValueError(f"score() gave {scores!r} for {len(texts)} texts; it must give one finite number for each.")
    return scores
