"""Code mixing: replace words and phrases of a query by words and phrases of its translations.

Input: a `Victim` of a collection with parallel queries, and one of its tasks. Output: an `AttackResult` with the mixed
texts. Source: the phrase-level attack Bumblebee of Tan and Joty (2021, "Code-Mixing on Sesame Street"): phrases come
from aligned translations, and a beam search selects them. Here the attacked encoder itself aligns the words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxretr.attack.language.alignment import WITHOUT_BLANKS, Words, align, embed_words, phrases
from jaxretr.attack.language.switch import translations
from jaxretr.attack.result import AttackResult
from jaxretr.attack.text.search import attacked_by_texts, score_lists, score_of
from jaxretr.attack.victim import Victim
from jaxretr.eval.settings import Task
from jaxretr.perturb.text.edits import TokenIds, generator


class Swap(NamedTuple):
    """A replacement: words `start` to `stop` (exclusive) of a query become `text`, which is in `language`."""

    start: int
    stop: int
    text: str
    language: str


Mix = tuple[Swap, ...]
"""Swaps in one query, without overlap, in the order of the text."""


def code_mixing(
    victim: Victim,
    task: Task,
    *,
    languages: Sequence[str] | None = None,
    words: int = 3,
    beam: int = 4,
    budget: int = 64,
    seed: int = 0,
    margin_k: int = 10,
) -> AttackResult:
    """Replace words of every query so that the attacker's gain is largest.

    The beam search adds one swap per round. In each round, it scores every text of the beam with every further swap (or
    a random subset, if there are more than an even share of the budget) and keeps the `beam` worst texts. The result is
    the worst text of all rounds, or the clean text if no text is worse. The swaps of one text may use different
    languages.

    Args:
      victim: the model and the collection.
      task: the attacked task; its corpus does not change.
      languages: languages that words may come from; None for all languages of the collection.
      words: maximum number of replaced words per query.
      beam: number of mixed texts per query that each round starts from.
      budget: number of texts scored per query besides the clean text.
      seed: seed of the draws.
      margin_k: the attacker maximizes `Victim.margins` at this k.

    Returns:
      The result. `changed` is False if no swap reaches the model. The cost counts the scored texts, the clean text
      included, and the aligned translations. Notes: `offered`, the number of swaps; `undone`, the number of swaps that
      leave the query unchanged for the model; and `replaced_words`.

    Raises:
      ValueError: the collection has no query in a language, no attack can reach `margin_k`, or the budget is smaller
        than one text per word.
    """
    if not 1 <= words <= budget or beam < 1:
        raise ValueError(
            f"words is {words}, beam is {beam} and budget is {budget}; expected at least 1 each, and a budget of at "
            "least one text per word"
        )
    score = score_of(victim, task, victim.candidates(task), margin_k)
    token_ids = victim.encoder.query_tokenization
    states = [_BeamState(*offer, budget, seed) for offer in _offers(victim, task, languages, words)]
    texts = [state.source.text for state in states]
    for state, ids, scores in zip(
        states, token_ids(texts), score_lists(score, [[text] for text in texts]), strict=True
    ):
        state.start(ids, float(scores[0]))
    for remaining in range(words, 0, -1):
        proposals = [state.propose(token_ids, words, remaining) for state in states]
        if not any(proposals):
            break
        for state, scores in zip(states, score_lists(score, [list(texts) for texts in proposals]), strict=True):
            state.take(scores, beam)
    return attacked_by_texts(
        victim,
        task,
        [mixed(state.source, state.language, state.worst) for state in states],
        changed=[state.undone < len(state.swaps) for state in states],
        forward_passes=[1 + budget - state.left + state.aligned for state in states],
        notes={
            "offered": float(sum(len(state.swaps) for state in states)),
            "undone": float(sum(state.undone for state in states)),
            "replaced_words": float(sum(_replaced(state.worst) for state in states)),
        },
    )


def swaps_from(source: Words, translation: Words, language: str) -> list[Swap]:
    """Return every phrase of `source` that is written differently in its translation, which is in `language`."""
    swaps = []
    for phrase in phrases(align(source, translation)):
        translated = _between(translation, phrase.other_start, phrase.other_stop)
        if translated != _between(source, phrase.start, phrase.stop):
            swaps.append(Swap(phrase.start, phrase.stop, translated, language))
    return swaps


def mixed(source: Words, language: str, mix: Mix) -> str:
    """Apply swaps to the text of `source`, which is in `language`.

    In a text without blanks, a swapped-in word of a language with blanks gets blanks around it.
    """
    text = source.text
    for swap in reversed(mix):
        first, last = source.spans[swap.start][0], source.spans[swap.stop - 1][1]
        blanks = language in WITHOUT_BLANKS and swap.language not in WITHOUT_BLANKS
        before = " " if blanks and text[:first][-1:].isalnum() else ""
        after = " " if blanks and text[last:][:1].isalnum() else ""
        text = text[:first] + before + swap.text + after + text[last:]
    return text


def _offers(
    victim: Victim, task: Task, languages: Sequence[str] | None, most_words: int
) -> list[tuple[Words, str, list[Swap], int]]:
    """Return, per query of a task: its words, its language, the swaps of at most `most_words` words, and the number of
    aligned translations.
    """
    translated = translations(victim, languages)
    queries = victim.collection.queries
    versions = [
        [int(query), *(other for other in translated.get(queries[query].key, {}).values() if other != query)]
        for query in task.queries
    ]
    used = sorted({position for positions in versions for position in positions})
    embedded = embed_words(victim.encoder, [queries[at].text for at in used], [queries[at].language for at in used])
    words = dict(zip(used, embedded, strict=True))
    return [
        (
            words[query],
            task.query_language,
            [
                swap
                for other in others
                for swap in swaps_from(words[query], words[other], queries[other].language)
                if swap.stop - swap.start <= most_words
            ],
            len(others),
        )
        for query, *others in versions
    ]


@dataclass
class _BeamState:
    """State of the beam search for one query."""

    source: Words
    language: str
    swaps: list[Swap]
    aligned: int
    left: int  # number of texts left in the budget
    seed: int
    undone: int = 0
    worst: Mix = ()
    front: list[Mix] = field(default_factory=lambda: [()])
    proposed: list[Mix] = field(default_factory=list)

    def start(self, clean_ids: list[int], clean_score: float) -> None:
        self.score = clean_score
        self.clean_ids = tuple(clean_ids)
        self.seen = {self.clean_ids}
        self.rng = generator(self.source.text, self.seed)

    def propose(self, token_ids: TokenIds, words: int, remaining: int) -> list[str]:
        """Return the texts to score next, with `remaining` rounds left."""
        further = dict.fromkeys(
            tuple(sorted((*mix, swap)))
            for mix in self.front
            for swap in self.swaps
            if _replaced(mix) + swap.stop - swap.start <= words
            and all(swap.stop <= other.start or other.stop <= swap.start for other in mix)
        )
        texts = [mixed(self.source, self.language, mix) for mix in further]
        fresh: dict[tuple[int, ...], tuple[Mix, str]] = {}
        for mix, text, ids in zip(further, texts, map(tuple, token_ids(texts)), strict=True):
            if ids not in self.seen:
                fresh.setdefault(ids, (mix, text))
            elif ids == self.clean_ids and len(mix) == 1:
                self.undone += 1
        selected = [list(fresh)[i] for i in sorted(self.rng.permutation(len(fresh))[: self.left // remaining])]
        self.seen.update(selected)
        self.left -= len(selected)
        self.proposed = [fresh[ids][0] for ids in selected]
        return [fresh[ids][1] for ids in selected]

    def take(self, scores: np.ndarray, beam: int) -> None:
        """Continue from the worst of the proposed texts."""
        best_first = np.argsort(-scores, kind="stable")
        self.front = [self.proposed[i] for i in best_first[:beam]]
        if len(scores) and scores.max() > self.score:
            self.worst, self.score = self.front[0], float(scores.max())


def _between(words: Words, start: int, stop: int) -> str:
    return words.text[words.spans[start][0] : words.spans[stop - 1][1]]


def _replaced(mix: Mix) -> int:
    return sum(swap.stop - swap.start for swap in mix)
