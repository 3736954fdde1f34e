"""Hybrid batches: which examples, in which languages, make up the batch of each step.

In: a `PairIndex`. Out: for every step a `BatchPlan` of record numbers. A batch is of one kind:

- *monolingual*: one language, queries and passages alike;
- *cross-lingual*: every query in another language than its passage.

On request, a plan also offers other translations of each pair, both sides again in one language, or in two.

The kind, the languages and the examples are a pure function of (seed, step): every process plans the same global
batch and reads its own rows of it, and a resumed run needs to know no more than the number of its next step.

Each language (and the cross-lingual data as a whole, or each pair of languages) is a *stream* of passages, shuffled
anew every epoch. A batch takes the next `batch_size` passages of its stream, so that none occurs twice in a batch in
whatever language; a passage with several queries shows another one in every epoch.

Method: Elmahdy, Lin, Ahmad 2024, arXiv 2408.10536.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from jaxretr.data.pair_index import PairIndex

MONOLINGUAL = "monolingual"
CROSS_LINGUAL = "cross_lingual"


@dataclass(frozen=True)
class BatchPlan:
    """Record numbers of one global batch: row i asks `query_rows[i]`, which `passage_rows[i]` answers.

    So does `passage_translations[i, k]` answer `query_translations[i, k]`: the same example in other languages, or in
    the planned ones where there are no others. Both are None in a plan without translations.
    """

    step: int
    kind: str
    query_rows: Int[np.ndarray, "batch"]
    passage_rows: Int[np.ndarray, "batch"]
    query_translations: Int[np.ndarray, "batch others"] | None = None
    passage_translations: Int[np.ndarray, "batch others"] | None = None


class HybridPlan(Sequence[BatchPlan]):
    """The plans of a whole run, `plan[step]`.

    Args:
      index: what there is to draw from.
      steps: length of the run; it does not change what an earlier step holds.
      batch_size: pairs in a global batch.
      alpha: probability of a monolingual batch.
      language_exponent: p(language) ~ size^exponent; 0 is uniform, 1 proportional.
      pairs_per: "example" draws the two languages of a cross-lingual pair for each example, "batch" for the batch.
      translations: how many other translations of each pair a plan offers, drawn uniformly.
      seed: everything random follows from it and the step.

    Raises:
      ValueError: where a stream that can be drawn has fewer passages than a batch needs.
    """

    def __init__(
        self,
        index: PairIndex,
        *,
        steps: int,
        batch_size: int,
        alpha: float,
        language_exponent: float = 0.0,
        pairs_per: str = "example",
        translations: int = 0,
        seed: int = 0,
    ):
        self._index = index
        self._translations = translations
        self._batch_size = batch_size
        self._seed = seed
        languages = range(len(index.languages))
        self._weights = np.power(np.fromiter(index.sizes.values(), float, len(languages)), language_exponent)
        pairs: list[tuple[int, int] | None] = [None]
        if pairs_per == "batch":
            pairs = [(a, b) for a in languages for b in languages if a != b]
        there = index.rows >= 0
        streams: list[_Stream] = []
        if alpha > 0:
            streams += [_Stream(MONOLINGUAL, (code, code), there[:, code], index, batch_size) for code in languages]
        first_cross = len(streams)
        if alpha < 1:
            for pair in pairs:
                eligible = there.sum(axis=1) > 1 if pair is None else there[:, pair[0]] & there[:, pair[1]]
                streams.append(_Stream(CROSS_LINGUAL, pair, eligible, index, batch_size))
        self._streams = streams

        draws = self._rng(0).random((steps, 2))
        cross_weights = [1.0 if p is None else self._weights[p[0]] * self._weights[p[1]] for p in pairs]
        monolingual, cross = _pick(self._weights, draws[:, 1]), _pick(np.array(cross_weights), draws[:, 1])
        self._stream_of = np.where(draws[:, 0] < alpha, monolingual, first_cross + cross)
        self._position = np.empty(steps, np.int64)  # how many batches its stream has given before
        for number in range(len(streams)):
            (mine,) = np.nonzero(self._stream_of == number)
            self._position[mine] = np.arange(len(mine))
        self._permutation = lru_cache(maxsize=2 * len(streams) + 2)(self._shuffle)

    def __len__(self) -> int:
        return len(self._stream_of)

    def __getitem__(self, step: int) -> BatchPlan:  # type: ignore[override]
        if not 0 <= step < len(self):
            raise IndexError(step)
        number = int(self._stream_of[step])
        stream = self._streams[number]
        epoch, batch = divmod(int(self._position[step]), len(stream) // self._batch_size)
        passages = self._permutation(number, epoch)[batch * self._batch_size :][: self._batch_size]
        examples = stream.examples(passages, epoch)
        rows = self._index.rows[examples]
        if stream.languages is None:
            asked, answered = self._draw_pairs(rows >= 0, self._rng(2, step))
        else:
            asked, answered = np.full((2, len(rows)), np.array(stream.languages)[:, None])
        each = np.arange(len(rows))
        plan = BatchPlan(step, stream.kind, rows[each, asked], rows[each, answered])
        if not self._translations:
            return plan
        others = self._draw_translations(rows >= 0, asked, answered, stream.kind, self._rng(3, step))
        query_rows, passage_rows = (np.take_along_axis(rows, languages, axis=1) for languages in others)
        return replace(plan, query_translations=query_rows, passage_translations=passage_rows)

    def _rng(self, *path: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, *path])))

    def _shuffle(self, stream: int, epoch: int) -> np.ndarray:
        return self._rng(1, stream, epoch).permutation(len(self._streams[stream]))

    def _draw_pairs(self, available: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two different languages for each example, of those it exists in, by the weights of the language draw."""
        each = np.arange(len(available))
        uniform = rng.random((2, len(available)))
        asked = _pick(self._weights * available, uniform[0])
        others = available.copy()
        others[each, asked] = False
        return asked, _pick(self._weights * others, uniform[1])

    def _draw_translations(
        self, available: np.ndarray, asked: np.ndarray, answered: np.ndarray, kind: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Other pairs of languages for each example, of the same kind; the planned pair where there are too few."""
        languages = np.arange(available.shape[1])
        first, second = (grid.ravel() for grid in np.meshgrid(languages, languages, indexing="ij"))
        of_kind = (first == second) == (kind == MONOLINGUAL)
        first, second = first[of_kind], second[of_kind]
        planned = (first == asked[:, None]) & (second == answered[:, None])
        there = available[:, first] & available[:, second] & ~planned
        order = np.where(there, rng.random(there.shape), np.inf)
        drawn = np.argsort(order, axis=1)[:, : self._translations]
        real = np.take_along_axis(there, drawn, axis=1)
        return np.where(real, first[drawn], asked[:, None]), np.where(real, second[drawn], answered[:, None])


class _Stream:
    """The passages that one kind of batch is drawn from, each with the examples (queries) that ask for it."""

    def __init__(
        self, kind: str, languages: tuple[int, int] | None, eligible: np.ndarray, index: PairIndex, batch_size: int
    ):
        self.kind = kind
        self.languages = languages
        examples = np.flatnonzero(eligible)
        self._examples = examples[np.argsort(index.passages[examples], kind="stable")]
        _, self._first, self._count = np.unique(index.passages[self._examples], return_index=True, return_counts=True)
        if len(self) < batch_size:
            where = "any two languages" if languages is None else ", ".join(index.languages[c] for c in {*languages})
            raise ValueError(
                f"A {kind} batch of {batch_size} needs as many different passages, but {where} has {len(self)}; "
                "lower train.batch_size, leave the language out of data.languages, or change data.alpha."
            )

    def __len__(self) -> int:
        return len(self._first)

    def examples(self, passages: np.ndarray, epoch: int) -> np.ndarray:
        """One example per passage; the next one in each epoch."""
        return self._examples[self._first[passages] + (passages + epoch) % self._count[passages]]


def _pick(weights: Float[np.ndarray, "*rows choices"], uniform: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """For each number in [0, 1) a choice, with probability proportional to its weight; never one of weight 0."""
    cumulative = np.cumsum(weights, axis=-1)
    return (uniform[:, None] * cumulative[..., -1:] >= cumulative).sum(axis=-1)
