"""Black-box search for the perturbed texts that hurt most: worst of k draws, and greedy edit after edit.

In: queries, a perturbation, a tokenizer, and a function that scores texts. Out: for each query the worst text found,
and what it cost. Every round scores the candidates of all queries in one batch; what is found for a query does not
depend on the others.

An edit that the tokenizer's normaliser undoes, or that truncation cuts off, costs nothing and is never drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from jaxretr.attack.victim import Attacked, Candidates, Victim
from jaxretr.eval.settings import Task
from jaxretr.perturb.text.edits import Perturb, TokenIds, draw, generator, screen
from jaxretr.types import Query

Score = Callable[[Int[np.ndarray, " texts"], list[str]], Float[np.ndarray, " texts"]]
"""(rows, texts) -> what the attacker gains by asking `texts[i]` instead of query `rows[i]`; one call is one batch, one
text one forward pass."""


@dataclass(frozen=True)
class Found:
    """The result of a search for one query.

    Attributes:
      text: the worst text; of `random_edits` the one drawn, otherwise the clean one if none is worse.
      score: its score.
      edits: edits between it and the clean text; at most so many for random draws.
      forward_passes: texts scored.
      offered: texts one edit away from the clean one.
      undone: how many of those are the clean text to the model. Where all are, the search had nothing to try.
    """

    text: str
    score: float
    edits: int
    forward_passes: int
    offered: int
    undone: int


def score_of(victim: Victim, task: Task, candidates: Candidates, k: int) -> Score:
    """`Victim.margins` as what a search maximises.

    Raises:
      ValueError: as `check_margin_k`.
    """
    check_margin_k(candidates, k)
    return partial(victim.margins, task, candidates, k=k)


def check_margin_k(candidates: Candidates, k: int) -> None:
    """Refuses a top k that no attack can drive every answer out of, for lack of other passages.

    Raises:
      ValueError: naming the largest k there is.
    """
    fewest = int(candidates.irrelevant.sum(axis=1).min())
    if not 1 <= k <= fewest:
        raise ValueError(
            f"margin_k is {k}, but a query has only {fewest} irrelevant candidates, so its answer cannot leave the top "
            f"{k}; choose margin_k between 1 and {fewest}, a larger corpus or more hard negatives"
        )


def score_lists(score: Score, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The scores of each query's texts, in one call for all."""
    sizes = [len(of_query) for of_query in texts]
    scores = _scored(score, np.repeat(np.arange(len(texts)), sizes), [text for of_query in texts for text in of_query])
    return np.split(scores, np.cumsum(sizes)[:-1])


def attacked_by_texts(
    victim: Victim,
    task: Task,
    texts: Sequence[str],
    *,
    changed: Sequence[bool],
    forward_passes: Sequence[int],
    notes: dict[str, float],
) -> Attacked:
    """`Attacked` where `texts` are asked; those that are the clean ones keep the clean embeddings to the last bit."""
    embeddings = victim.queries[task.queries].copy()
    other = [i for i, (text, query) in enumerate(zip(texts, victim.asked(task), strict=True)) if text != query.text]
    embeddings[other] = victim.encoder.encode_query([texts[i] for i in other], progress=False)
    return Attacked(
        task,
        embeddings,
        tuple(texts),
        changed=np.array(changed, bool),
        forward_passes=np.array(forward_passes, np.float64),
        notes=notes,
    )


def random_edits(
    perturb: Perturb, queries: Sequence[Query], score: Score, *, token_ids: TokenIds, edits: int = 1, seed: int
) -> list[Found]:
    """One random text a query, whatever its score: the noise that an attack must beat. One forward pass.

    Args:
      perturb: the kind of edit.
      queries: the clean texts and their languages.
      score: what the attacker would maximise.
      token_ids: the model's tokenizer.
      edits: edits in each text, each uniform over what `perturb` offers; the first one reaches the model.
      seed: of the draws; the text is the first that `worst_of_k` draws.
    """
    offers = [_Offer.of(perturb, query, token_ids) for query in queries]
    texts = [next(iter(offer.draw(1, edits, seed)), offer.query.text) for offer in offers]
    scores = _scored(score, np.arange(len(queries)), texts)
    return [
        offer.found(text, float(value), edits if text != offer.query.text else 0, 1)
        for offer, text, value in zip(offers, texts, scores, strict=True)
    ]


def worst_of_k(
    perturb: Perturb, queries: Sequence[Query], score: Score, *, token_ids: TokenIds, k: int, edits: int = 1, seed: int
) -> list[Found]:
    """The worst of k random texts a query, all scored in one batch with the clean ones: k + 1 forward passes.

    Args:
      perturb: the kind of edit.
      queries: the clean texts and their languages.
      score: what to maximise.
      token_ids: the model's tokenizer.
      k: how many texts are drawn, without repetition; fewer where there are not so many.
      edits: edits in each.
      seed: of the draws. Draws with a smaller k are among those with a larger one.
    """
    offers = [_Offer.of(perturb, query, token_ids) for query in queries]
    tried = [
        [offer.query.text, *screen(offer.query.text, offer.draw(k, edits, seed), token_ids).kept] for offer in offers
    ]
    results = []
    for offer, texts, scores in zip(offers, tried, score_lists(score, tried), strict=True):
        worst = int(scores.argmax())
        results.append(offer.found(texts[worst], float(scores[worst]), edits if worst else 0, len(texts)))
    return results


def greedy(
    perturb: Perturb, queries: Sequence[Query], score: Score, *, token_ids: TokenIds, edits: int, budget: int, seed: int
) -> list[Found]:
    """Edit after edit, each the worst of those tried; one batch an edit. At most budget + 1 forward passes.

    What the budget leaves is shared evenly among the edits to come. Where an edit has more candidates than its share,
    some are drawn. Texts whose token ids were scored before are not scored again. The search for a query ends early
    where no candidate of a complete set is worse than the text.

    Args:
      perturb: the kind of edit.
      queries: the clean texts and their languages.
      score: what to maximise.
      token_ids: the model's tokenizer.
      edits: at most so many edits.
      budget: texts scored for each query besides the clean one.
      seed: of the draws.

    Raises:
      ValueError: for a budget that does not reach for one candidate per edit.
    """
    if budget < edits:
        raise ValueError(f"A budget of {budget} texts is too small for {edits} edits; {edits} is the least.")
    offers = [_Offer.of(perturb, query, token_ids) for query in queries]
    clean = _scored(score, np.arange(len(queries)), [query.text for query in queries])
    clean_ids = token_ids([query.text for query in queries])
    walks = [
        _Walk(offer, offer.query.text, float(value), budget, generator(offer.query.text, seed), {tuple(ids)})
        for offer, value, ids in zip(offers, clean, clean_ids, strict=True)
    ]
    for remaining in range(edits, 0, -1):
        proposals = [walk.propose(remaining) for walk in walks]
        if not any(proposals):
            break
        for walk, texts, scores in zip(walks, proposals, score_lists(score, proposals), strict=True):
            walk.take(texts, scores)
    return [walk.offer.found(walk.text, walk.score, walk.edits, 1 + budget - walk.left) for walk in walks]


@dataclass(frozen=True)
class _Offer:
    """The texts one edit away from a query, apart from those that are the query to the model."""

    perturb: Perturb
    token_ids: TokenIds
    query: Query
    first: list[str]
    undone: int

    @classmethod
    def of(cls, perturb: Perturb, query: Query, token_ids: TokenIds) -> "_Offer":
        return cls(perturb, token_ids, query, *screen(query.text, perturb(query.text, query.language), token_ids))

    def around(self, text: str, language: str) -> list[str]:
        """The perturbation itself, but for the edits of the clean text that are undone."""
        return self.first if text == self.query.text else self.perturb(text, language)

    def draw(self, count: int, edits: int, seed: int) -> list[str]:
        text = self.query.text
        drawn = draw(self.around, text, self.query.language, count=count, edits=edits, seed=seed)
        return screen(text, drawn, self.token_ids).kept  # later edits may cancel earlier ones

    def found(self, text: str, score: float, edits: int, forward_passes: int) -> Found:
        return Found(text, score, edits, forward_passes, len(self.first) + self.undone, self.undone)


@dataclass
class _Walk:
    """Where the greedy search for one query stands."""

    offer: _Offer
    text: str
    score: float
    left: int  # of the budget
    rng: np.random.Generator
    seen: set[tuple[int, ...]]  # token ids of all texts scored
    edits: int = 0
    complete: bool = False  # whether the last proposal left nothing out
    over: bool = False

    def propose(self, remaining: int) -> list[str]:
        """The texts to score next, with `remaining` edits to go."""
        if self.over:
            return []
        offered = self.offer.around(self.text, self.offer.query.language)
        fresh: dict[tuple[int, ...], str] = {}
        for candidate, ids in zip(offered, self.offer.token_ids(offered), strict=True):
            if tuple(ids) not in self.seen:
                fresh.setdefault(tuple(ids), candidate)
        chosen = [list(fresh)[i] for i in sorted(self.rng.permutation(len(fresh))[: self.left // remaining])]
        self.seen.update(chosen)
        self.left -= len(chosen)
        self.complete = len(chosen) == len(fresh)
        return [fresh[ids] for ids in chosen]

    def take(self, texts: list[str], scores: np.ndarray) -> None:
        """Goes on from the worst of the proposed texts, if it is worse."""
        if len(texts) and scores.max() > self.score:
            self.text, self.score, self.edits = texts[int(scores.argmax())], float(scores.max()), self.edits + 1
        elif self.complete or not texts:
            self.over = True


def _scored(score: Score, rows: Int[np.ndarray, " texts"], texts: list[str]) -> np.ndarray:
    """The scores, one finite number per text."""
    scores = np.asarray(score(rows, texts))
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise ValueError(f"score() gave {scores!r} for {len(texts)} texts; it must give one finite number for each.")
    return scores
