"""Black-box search for the perturbed texts that hurt most: the worst of k draws, or a beam search edit by edit.

Input: queries, a perturbation, a tokenizer, and a function that scores texts. Output: per query, the worst text found
and its cost. Every round scores the candidates of all queries in one batch. The result of a query does not depend on
the other queries.

An edit that the tokenizer's normalizer undoes, or that truncation removes, is never drawn and costs nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxretr.attack.result import AttackResult
from jaxretr.attack.victim import Candidates, Victim
from jaxretr.eval.settings import Task
from jaxretr.perturb.text.edits import Perturb, TokenIds, draw, generator, screen
from jaxretr.types import Query

Score = Callable[[Int[np.ndarray, " texts"], list[str]], Float[np.ndarray, " texts"]]
"""(rows, texts) -> gain of the attacker who asks `texts[i]` instead of query `rows[i]`. One call is one batch; one text
is one forward pass."""

BEAM = 4
"""Number of texts per query that a round of `beam` starts from."""


@dataclass(frozen=True)
class Found:
    """The result of a search for one query.

    Attributes:
      text: the worst text, or the clean text if no text is worse; for `random_edits`, the drawn text.
      score: score of the text.
      edits: edits between this text and the clean text; an upper bound for random draws.
      forward_passes: number of texts scored.
      offered: number of texts one edit away from the clean text.
      undone: number of these texts that equal the clean text for the model. If all do, the search has no candidates.
    """

    text: str
    score: float
    edits: int
    forward_passes: int
    offered: int
    undone: int


def score_of(victim: Victim, task: Task, candidates: Candidates, k: int) -> Score:
    """Return `Victim.margins` as the score that a search maximizes.

    Raises:
      ValueError: as `check_margin_k`.
    """
    check_margin_k(candidates, k)
    return partial(victim.margins, task, candidates, k=k)


def check_margin_k(candidates: Candidates, k: int) -> None:
    """Check that the corpus has enough irrelevant passages to drive every answer out of the top k.

    Raises:
      ValueError: the corpus has too few; the message names the largest possible k.
    """
    fewest = int(candidates.irrelevant.sum(axis=1).min())
    if not 1 <= k <= fewest:
        raise ValueError(
            f"margin_k is {k}, but a query has only {fewest} irrelevant candidates, so its relevant passages cannot "
            f"leave the top {k}; set margin_k between 1 and {fewest}, or take a larger corpus or more hard negatives"
        )


def score_lists(score: Score, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Score the texts of all queries in one call, and return the scores per query."""
    sizes = [len(candidates) for candidates in texts]
    rows = np.repeat(np.arange(len(texts)), sizes)
    scores = _scored(score, rows, [text for candidates in texts for text in candidates])
    return np.split(scores, np.cumsum(sizes)[:-1])


def attacked_by_texts(
    victim: Victim,
    task: Task,
    texts: Sequence[str],
    *,
    changed: Sequence[bool] | Bool[np.ndarray, " queries"],
    forward_passes: Sequence[int] | Float[np.ndarray, " queries"],
    notes: dict[str, float],
) -> AttackResult:
    """Return the `AttackResult` for `texts` as queries.

    An unchanged text, or the text of another query of the collection, keeps its clean embedding, bit for bit.
    """
    embeddings = victim.queries[task.queries].copy()
    positions = {query.text: position for position, query in enumerate(victim.collection.queries)}
    edited = []
    for row, (text, query) in enumerate(zip(texts, victim.queries_of(task), strict=True)):
        if text == query.text:
            continue
        if text in positions:
            embeddings[row] = victim.queries[positions[text]]
        else:
            edited.append(row)
    embeddings[edited] = victim.encoder.encode_query([texts[row] for row in edited], progress=False)
    return AttackResult(
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
    """Draw one random text per query, whatever its score: the noise that an attack must beat. Costs one forward pass.

    Args:
      perturb: the kind of edit.
      queries: the clean texts and their languages.
      score: the score that an attacker would maximize.
      token_ids: the model's tokenizer.
      edits: edits per text, each uniform over the texts that `perturb` offers; the first edit reaches the model.
      seed: seed of the draws; the text is the first that `worst_of_k` draws.
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
    """Return the worst of k random texts per query. One batch scores them and the clean texts: k + 1 forward passes.

    Args:
      perturb: the kind of edit.
      queries: the clean texts and their languages.
      score: the score to maximize.
      token_ids: the model's tokenizer.
      k: number of texts drawn without repetition; fewer if `perturb` offers fewer.
      edits: edits per text.
      seed: seed of the draws. The draws with a smaller k are a subset of the draws with a larger k.
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


def beam(
    perturb: Perturb,
    queries: Sequence[Query],
    score: Score,
    *,
    token_ids: TokenIds,
    edits: int,
    budget: int,
    seed: int,
    width: int = BEAM,
    lost_above: float = math.inf,
) -> list[Found]:
    """Add one edit per round to the worst texts found so far. Costs at most budget + 1 forward passes per query.

    A round scores texts one edit away from the `width` worst texts, for all queries in one batch. The remaining budget
    is shared evenly among the remaining rounds. If a round has more candidates than its share, a random subset is
    scored. Texts whose token ids were scored before are not scored again. The search for a query ends early if all
    candidates were scored and none is among the worst, or if the query is lost.

    Args:
      perturb: the kind of edit.
      queries: the clean texts and their languages.
      score: the score to maximize.
      token_ids: the model's tokenizer.
      edits: maximum number of edits.
      budget: texts scored per query besides the clean text.
      seed: seed of the draws.
      width: number of texts that a round starts from.
      lost_above: a query is lost if a round finds a score above this value.

    Raises:
      ValueError: the budget is smaller than one candidate per edit.
    """
    if budget < edits:
        raise ValueError(f"a budget of {budget} texts is too small for {edits} edits; expected at least {edits}")
    offers = [_Offer.of(perturb, query, token_ids) for query in queries]
    clean = _scored(score, np.arange(len(queries)), [query.text for query in queries])
    clean_ids = token_ids([query.text for query in queries])
    states = [
        _BeamState(
            offer, [_Text(offer.query.text, float(value), 0)], budget, generator(offer.query.text, seed), {tuple(ids)}
        )
        for offer, value, ids in zip(offers, clean, clean_ids, strict=True)
    ]
    for remaining in range(edits, 0, -1):
        proposals = [state.propose(remaining) for state in states]
        if not any(proposals):
            break
        for state, scores in zip(states, score_lists(score, proposals), strict=True):
            state.take(scores, width, lost_above)
    return [state.offer.found(*state.front[0], 1 + budget - state.left) for state in states]


greedy = partial(beam, width=1)
"""Make one edit after the other, each the worst of its candidates; arguments as `beam`, without `width`."""


@dataclass(frozen=True)
class _Offer:
    """The texts one edit away from a query, without the texts that equal the query for the model."""

    perturb: Perturb
    token_ids: TokenIds
    query: Query
    first: list[str]
    undone: int

    @classmethod
    def of(cls, perturb: Perturb, query: Query, token_ids: TokenIds) -> "_Offer":
        return cls(perturb, token_ids, query, *screen(query.text, perturb(query.text, query.language), token_ids))

    def around(self, text: str, language: str) -> list[str]:
        """Return the texts one edit away from `text`; for the clean text, without edits that are undone."""
        return self.first if text == self.query.text else self.perturb(text, language)

    def draw(self, count: int, edits: int, seed: int) -> list[str]:
        text = self.query.text
        drawn = draw(self.around, text, self.query.language, count=count, edits=edits, seed=seed)
        return screen(text, drawn, self.token_ids).kept  # later edits may cancel earlier ones

    def found(self, text: str, score: float, edits: int, forward_passes: int) -> Found:
        return Found(text, score, edits, forward_passes, len(self.first) + self.undone, self.undone)


class _Text(NamedTuple):
    """A scored text and the number of edits between this text and the clean text."""

    text: str
    score: float
    edits: int


@dataclass
class _BeamState:
    """State of the beam search for one query."""

    offer: _Offer
    front: list[_Text]  # the texts that the next round starts from, the worst text first
    left: int  # number of texts left in the budget
    rng: np.random.Generator
    seen: set[tuple[int, ...]]  # token ids of all texts scored
    proposed: list[tuple[str, int]] = field(default_factory=list)  # texts being scored, and their numbers of edits
    complete: bool = False  # whether the last proposal contained all new candidates
    over: bool = False

    def propose(self, remaining: int) -> list[str]:
        """Return the texts to score next, with `remaining` edits left."""
        fresh: dict[tuple[int, ...], tuple[str, int]] = {}
        for base in [] if self.over else self.front:
            offered = self.offer.around(base.text, self.offer.query.language)
            for candidate, ids in zip(offered, self.offer.token_ids(offered), strict=True):
                if tuple(ids) not in self.seen:
                    fresh.setdefault(tuple(ids), (candidate, base.edits + 1))
        selected = [list(fresh)[i] for i in sorted(self.rng.permutation(len(fresh))[: self.left // remaining])]
        self.seen.update(selected)
        self.left -= len(selected)
        self.complete = len(selected) == len(fresh)
        self.proposed = [fresh[ids] for ids in selected]
        return [text for text, _ in self.proposed]

    def take(self, scores: np.ndarray, width: int, lost_above: float) -> None:
        """Continue from the worst of the old and the proposed texts; an old text wins a tie."""
        scored = [_Text(text, float(value), edits) for (text, edits), value in zip(self.proposed, scores, strict=True)]
        front = sorted([*self.front, *scored], key=lambda text: -text.score)[:width]
        exhausted = front == self.front and (self.complete or not scored)
        self.front, self.over = front, exhausted or front[0].score > lost_above


def _scored(score: Score, rows: Int[np.ndarray, " texts"], texts: list[str]) -> np.ndarray:
    """Return the scores, one finite number per text."""
    scores = np.asarray(score(rows, texts))
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise ValueError(f"score() returned {scores!r} for {len(texts)} texts; expected one finite number per text")
    return scores
