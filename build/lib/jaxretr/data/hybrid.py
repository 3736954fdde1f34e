"""Plan hybrid batches: choose the examples and the languages of every training batch.

Input: a `PairIndex`. Output: one `BatchPlan` of record numbers per step. A batch has one of two kinds:

- *monolingual*: all queries and passages are in one language;
- *cross-lingual*: every query is in another language than its passage.

On request, a plan also offers other translations of each pair. Both sides are in one language if the batch is
monolingual, and in two languages if it is cross-lingual.

The kind, the languages and the examples are a pure function of (seed, step). Every process plans the same global batch
and reads its own rows of it. A run needs only the number of its next step to resume.

A *stream* is a sequence of passages that is shuffled again in every epoch. Each language has a stream for monolingual
batches. Cross-lingual batches have one stream, or one per ordered pair of languages. A batch takes the next
`batch_size` passages of its stream, so a passage occurs at most once per batch, in any language. A passage with several
queries appears with the next query in every epoch.

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
    """Record numbers of one global batch: the passage in `passage_rows[i]` answers the query in `query_rows[i]`.

    Attributes:
      step: number of the training step.
      kind: `MONOLINGUAL` or `CROSS_LINGUAL`.
      query_rows, passage_rows: record numbers of the pairs.
      query_translations, passage_translations: record numbers of other translations of pair i in row i; passage
        `[i, k]` answers query `[i, k]`. The planned pair is repeated if an example has too few other translations. None
        in a plan without translations.
    """

    step: int
    kind: str
    query_rows: Int[np.ndarray, "batch"]
    passage_rows: Int[np.ndarray, "batch"]
    query_translations: Int[np.ndarray, "batch others"] | None = None
    passage_translations: Int[np.ndarray, "batch others"] | None = None


class HybridPlan(Sequence[BatchPlan]):
    """The batch plans of a whole run: `plan[step]`.

    Args:
      index: the examples to draw from.
      steps: number of steps of the run; a longer run starts with the same plans.
      batch_size: pairs per global batch.
      alpha: probability of a monolingual batch.
      language_exponent: p(language) ~ size^exponent; 0 is uniform, 1 is proportional to size.
      pairs_per: "example" draws the two languages of a cross-lingual pair per example, "batch" draws them per batch.
      translations: number of other translations offered per pair, drawn uniformly.
      seed: seed of all random draws; a plan is a function of seed and step.

    Raises:
      ValueError: a stream that can be drawn has fewer passages than a batch needs.
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
        available = index.rows >= 0
        streams: list[_Stream] = []
        if alpha > 0:
            streams += [_Stream(MONOLINGUAL, (code, code), available[:, code], index, batch_size) for code in languages]
        first_cross = len(streams)
        if alpha < 1:
            for pair in pairs:
                eligible = available.sum(axis=1) > 1 if pair is None else available[:, pair[0]] & available[:, pair[1]]
                streams.append(_Stream(CROSS_LINGUAL, pair, eligible, index, batch_size))
        self._streams = streams

        draws = self._rng(0).random((steps, 2))
        cross_weights = [1.0 if p is None else self._weights[p[0]] * self._weights[p[1]] for p in pairs]
        monolingual, cross = _pick(self._weights, draws[:, 1]), _pick(np.array(cross_weights), draws[:, 1])
        self._stream_of = np.where(draws[:, 0] < alpha, monolingual, first_cross + cross)
        self._position = np.empty(steps, np.int64)  # number of earlier batches from the same stream
        for number in range(len(streams)):
            (steps_of_stream,) = np.nonzero(self._stream_of == number)
            self._position[steps_of_stream] = np.arange(len(steps_of_stream))
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
            query_languages, passage_languages = self._draw_pairs(rows >= 0, self._rng(2, step))
        else:
            query_languages, passage_languages = np.full((2, len(rows)), np.array(stream.languages)[:, None])
        positions = np.arange(len(rows))
        plan = BatchPlan(step, stream.kind, rows[positions, query_languages], rows[positions, passage_languages])
        if not self._translations:
            return plan
        others = self._draw_translations(rows >= 0, query_languages, passage_languages, stream.kind, self._rng(3, step))
        query_rows, passage_rows = (np.take_along_axis(rows, languages, axis=1) for languages in others)
        return replace(plan, query_translations=query_rows, passage_translations=passage_rows)

    def _rng(self, *path: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, *path])))

    def _shuffle(self, stream: int, epoch: int) -> np.ndarray:
        return self._rng(1, stream, epoch).permutation(len(self._streams[stream]))

    def _draw_pairs(self, available: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw two different languages per example from its languages, with the weights of the language draw."""
        positions = np.arange(len(available))
        uniform = rng.random((2, len(available)))
        query_languages = _pick(self._weights * available, uniform[0])
        others = available.copy()
        others[positions, query_languages] = False
        return query_languages, _pick(self._weights * others, uniform[1])

    def _draw_translations(
        self,
        available: np.ndarray,
        query_languages: np.ndarray,
        passage_languages: np.ndarray,
        kind: str,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw other language pairs of the batch's kind per example; repeat the planned pair if there are too few."""
        languages = np.arange(available.shape[1])
        first, second = (grid.ravel() for grid in np.meshgrid(languages, languages, indexing="ij"))
        of_kind = (first == second) == (kind == MONOLINGUAL)
        first, second = first[of_kind], second[of_kind]
        planned = (first == query_languages[:, None]) & (second == passage_languages[:, None])
        usable = available[:, first] & available[:, second] & ~planned
        order = np.where(usable, rng.random(usable.shape), np.inf)
        drawn = np.argsort(order, axis=1)[:, : self._translations]
        is_usable = np.take_along_axis(usable, drawn, axis=1)
        query_draws = np.where(is_usable, first[drawn], query_languages[:, None])
        return query_draws, np.where(is_usable, second[drawn], passage_languages[:, None])


class _Stream:
    """The passages that one kind of batch draws from, each with the examples (queries) that it answers."""

    def __init__(
        self, kind: str, languages: tuple[int, int] | None, eligible: np.ndarray, index: PairIndex, batch_size: int
    ):
        self.kind = kind
        self.languages = languages
        examples = np.flatnonzero(eligible)
        self._examples = examples[np.argsort(index.passages[examples], kind="stable")]
        _, self._first, self._count = np.unique(index.passages[self._examples], return_index=True, return_counts=True)
        if len(self) < batch_size:
            names = [index.languages[code] for code in sorted({*languages})] if languages else ["two or more languages"]
            data = "the data in " + " and ".join(names)
            raise ValueError(
                f"A {kind} batch of {batch_size} needs {batch_size} different passages, but {data} has {len(self)}; "
                "lower train.batch_size, remove the language from data.languages, or change data.alpha."
            )

    def __len__(self) -> int:
        return len(self._first)

    def examples(self, passages: np.ndarray, epoch: int) -> np.ndarray:
        """Return one example per passage: the next one in each epoch."""
        return self._examples[self._first[passages] + (passages + epoch) % self._count[passages]]


def _pick(weights: Float[np.ndarray, "*rows choices"], uniform: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Draw one choice per number in [0, 1), with probability proportional to weight; a weight of 0 is never drawn."""
    cumulative = np.cumsum(weights, axis=-1)
    return (uniform[:, None] * cumulative[..., -1:] >= cumulative).sum(axis=-1)
