"""The attacked model and collection, encoded once.

Input: an encoder, a test collection and a setting. Output: a `Victim` with the clean embeddings of all texts and the
tasks of the setting, and per task the `Candidates`: the passages that decide whether a query is lost. Attacks return
an `AttackResult` (`jaxretr.attack.result`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from jaxretr.data.parallel_passages import distinct_answers
from jaxretr.eval.settings import Pool, Setting, Task, drawn_pairs, make_tasks
from jaxretr.model.encode import Encoder
from jaxretr.retrieval.calibration import Calibrated
from jaxretr.retrieval.embeddings import check_embeddings
from jaxretr.retrieval.exact import search
from jaxretr.retrieval.scores import pair_scores
from jaxretr.types import Query, RetrievalSet

TOP = 10
"""The k of `robust_success@k`: a query is lost if no relevant passage stays in its top k."""
HARD_NEGATIVES = 64
"""Hard negatives per query that an attack sees: the irrelevant passages with the highest clean scores in the corpus."""

Counting = Literal["passages", "answers"]
"""What the top 10 counts: every passage, or distinct answers. Parallel passages (equal keys, see
`jaxretr.data.parallel_passages`) are one answer, and an answer scores as its best translation."""

_GATHERED = 40_000  # candidates' embeddings that are gathered at once


class Candidates(NamedTuple):
    """The passages that an attack scores per query: all relevant passages and the hardest irrelevant passages.

    If a victim counts distinct answers, a candidate is an answer. Its passages are on a third axis, padded with copies
    of the first passage, and its score is the maximum over this axis.

    Attributes:
      passages: positions in the task's corpus. Rows are padded with candidates that are neither relevant nor
        irrelevant.
      relevant: marks the relevant candidates.
      irrelevant: marks the irrelevant candidates.
    """

    passages: Int[np.ndarray, "queries candidates *members"]
    relevant: Bool[np.ndarray, "queries candidates"]
    irrelevant: Bool[np.ndarray, "queries candidates"]


@dataclass(frozen=True)
class Victim:
    """A model and a collection in one setting, encoded.

    Attributes:
      encoder: the attacked encoder; computes in float32.
      collection: queries, passages, judgements.
      pool: the passages in order.
      tasks: the tasks of the attacked setting.
      queries: clean embeddings in the order of `collection.queries`.
      passages: clean embeddings in the order of `pool`.
      answers: number of each passage's distinct answer, in the order of `pool`; None counts every passage.
    """

    encoder: Encoder
    collection: RetrievalSet
    pool: Pool
    tasks: tuple[Task, ...]
    queries: Float32[np.ndarray, "queries dim"] = field(repr=False)
    passages: Float32[np.ndarray, "passages dim"] = field(repr=False)
    answers: Int[np.ndarray, " passages"] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        collection: RetrievalSet,
        setting: Setting,
        counting: Counting = "passages",
        *,
        calibrate: bool = False,
        pairs_of_seed: int | None = None,
    ) -> "Victim":
        """Encode every text once.

        Args:
          encoder: the attacked model, in float32.
          collection: queries, passages, judgements.
          setting: setting of the tasks.
          counting: what the top 10 counts.
          calibrate: subtract the mean embedding of each language from its passages, see
            `jaxretr.retrieval.calibration`.
          pairs_of_seed: seed that draws one corpus per query in the setting `cross`, see `drawn_pairs`; None for all
            ordered pairs of languages.

        Raises:
          ValueError: the collection does not allow the setting or the counting; the encoder does not compute in
            float32; pairs are drawn in another setting than `cross`; or another setting than `multi` is calibrated.
        """
        if pairs_of_seed is not None and setting != "cross":
            raise ValueError(
                f"pairs of languages can be drawn in the setting 'cross' only, not in {setting!r}; attack all pairs, "
                "or the setting cross"
            )
        if encoder.functions.dtype != "float32":
            raise ValueError(
                f"the encoder computes in {encoder.functions.dtype}; attacks need float32, so that gradients do not "
                "round to zero: load it with dtype='float32'"
            )
        if calibrate and setting != "multi":
            raise ValueError(
                f"calibration changes no ranking within one language, so it has no effect in the setting {setting!r}; "
                "attack the setting 'multi', or leave calibrate out"
            )
        pool = Pool.of(collection)
        tasks = make_tasks(collection, pool, [setting])
        if pairs_of_seed is not None:
            tasks = drawn_pairs(tasks, collection, pairs_of_seed)
        answers = distinct_answers(collection)[pool.order] if counting == "answers" else None
        query_texts = [query.text for query in collection.queries]
        passage_texts = [passage.full_text for passage in collection.take_passages(pool.order.tolist())]
        queries = check_embeddings(encoder.encode_query(query_texts), query_texts, "encode_query")
        passages = check_embeddings(encoder.encode_document(passage_texts), passage_texts, "encode_document")
        if calibrate:
            passages = Calibrated(passages, pool.language_numbers())[:]
        return cls(encoder, collection, pool, tuple(tasks), queries, passages, answers)

    def queries_of(self, task: Task) -> list[Query]:
        """Return the queries of a task."""
        return [self.collection.queries[i] for i in task.queries]

    def corpus(self, task: Task) -> Float32[np.ndarray, "passages dim"]:
        """Return the clean embeddings of a task's passages."""
        return self.passages[task.passages]

    def answers_of(self, task: Task) -> Int[np.ndarray, " passages"]:
        """Return the number of the answer of each passage of a task's corpus, without gaps from 0.

        If the victim counts passages, every passage is an answer of its own.
        """
        if self.answers is None:
            return np.arange(task.num_passages)
        return np.unique(self.answers[task.passages], return_inverse=True)[1]

    def candidates(self, task: Task, hard_negatives: int = HARD_NEGATIVES) -> Candidates:
        """Return, per query of a task, all relevant passages and the `hard_negatives` best irrelevant passages.

        If the victim counts distinct answers, return all relevant answers and the best irrelevant answers.
        """
        answer = self.answers_of(task)
        members = members_of(answer)
        passages_of_query = relevant_passages(task)
        relevant = [_distinct(answer[passages]) for passages in passages_of_query]
        width = max(map(len, relevant))
        k = min(task.num_passages, hard_negatives * members.shape[1] + max(map(len, passages_of_query)))
        _, ranked = search(self.queries[task.queries], self.corpus(task), k)
        candidates = np.zeros((len(relevant), width + hard_negatives), np.int64)
        is_relevant, is_irrelevant = np.zeros((2, *candidates.shape), bool)
        for row, (own, top) in enumerate(zip(relevant, ranked, strict=True)):
            top_answers = _distinct(answer[top])
            others = top_answers[~np.isin(top_answers, own)][:hard_negatives]
            if not len(others):
                raise ValueError(
                    f"every passage of the corpus answers {self.queries_of(task)[row].id}, so no attack can make this "
                    "query fail; attack a larger corpus"
                )
            candidates[row, : len(own)] = own
            candidates[row, width : width + len(others)] = others
            is_relevant[row, : len(own)] = is_irrelevant[row, width : width + len(others)] = True
        passages = members[candidates] if members.shape[1] > 1 else members[candidates, 0]
        return Candidates(passages, is_relevant, is_irrelevant)

    def margins(
        self, task: Task, candidates: Candidates, rows: Int[np.ndarray, " texts"], texts: Sequence[str], k: int = 1
    ) -> Float32[np.ndarray, " texts"]:
        """Return the gain of a black-box attacker who asks `texts[i]` instead of query `rows[i]` of the task.

        The gain is the `margin`: positive if no relevant passage stays in the top k. All texts are encoded together;
        each text is one forward pass.
        """
        embeddings = self.encoder.encode_query(texts, progress=False)
        return margin(embeddings, self.corpus(task), Candidates(*(part[rows] for part in candidates)), k)


def padded_together(parts: Sequence[Candidates]) -> list[Candidates]:
    """Pad the candidates of several tasks to common numbers of candidates and of passages per candidate."""
    common: list[int] = np.max([part.passages.shape[1:] for part in parts], axis=0).tolist()
    padded = []
    for part in parts:
        missing = [(0, 0), *((0, n - known) for n, known in zip(common, part.passages.shape[1:], strict=True))]
        marks = (np.pad(mark, missing[:2]) for mark in part[1:])
        padded.append(Candidates(np.pad(part.passages, missing, mode="edge"), *marks))
    return padded


def relevant_passages(task: Task) -> list[Int[np.ndarray, " relevant"]]:
    """Return the relevant passages per query of a task, as positions in its corpus; never empty."""
    is_relevant = task.grade > 0
    passages, query = task.judged_passage[is_relevant], task.judged_query[is_relevant]
    order = np.argsort(query, kind="stable")
    return np.split(passages[order], np.searchsorted(query[order], np.arange(1, len(task.queries))))


def members_of(answers: Int[np.ndarray, " passages"]) -> Int[np.ndarray, "answers members"]:
    """Return the positions of each answer's passages; a row is padded with copies of its first passage.

    Args:
      answers: number of the answer of each passage, without gaps from 0.
    """
    order = np.argsort(answers, kind="stable")
    sizes = np.bincount(answers)
    column = np.arange(sizes.max())
    return order[(np.cumsum(sizes) - sizes)[:, None] + np.where(column < sizes[:, None], column, 0)]


def _distinct(values: Int[np.ndarray, " values"]) -> Int[np.ndarray, " distinct"]:
    """Return the values without repetition, in the order of their first occurrence."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


def margin(
    queries: Float32[np.ndarray, "queries dim"],
    corpus: Float32[np.ndarray, "passages dim"],
    candidates: Candidates,
    k: int,
) -> Float32[np.ndarray, " queries"]:
    """Return, per query, the score of the k-th best irrelevant candidate minus the best relevant score.

    The score of a candidate with several passages is the best score of these passages.
    """
    margins = np.empty(len(queries), np.float32)
    size = max(1, _GATHERED // int(np.prod(candidates.passages.shape[1:])))
    for start in range(0, len(queries), size):
        rows = slice(start, start + size)
        passages, relevant, irrelevant = (part[rows] for part in candidates)
        scores = pair_scores(queries[rows, None], corpus[passages.reshape(len(passages), -1)])
        scores = scores.reshape(*relevant.shape, -1).max(axis=2)
        others = np.sort(np.where(irrelevant, scores, -np.inf), axis=1)[:, -k]
        margins[rows] = others - np.max(scores, axis=1, where=relevant, initial=-np.inf)
    return margins
