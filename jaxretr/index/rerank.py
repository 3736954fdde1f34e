"""Rerank the answers of an index with a cross-encoder: score the best candidates again, together with the query.

    options = dataclasses.replace(options, k=candidates(k, None))
    answers = index.search(encoder.encode_query(queries), [options] * len(queries))
    answers = reranked(answers, reranker.predict(pairs(queries, answers)), k)

The filters of the search options select the candidates. The reranker then orders the candidates by its own scores
alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxretr.index.types import Answer
from jaxretr.model.cross_encoder import CrossEncoder
from jaxretr.model.cross_encoder_layout import read_cross_encoder
from jaxretr.model.hf_layout import find_model

CANDIDATES = 50
"""Default number of passages that are reranked per query, or `k` if `k` is larger."""


def load_reranker(model: str, about: Mapping[str, Any], max_length: int) -> CrossEncoder:
    """Load a reranker that computes in the dtype of the index's encoder.

    Args:
      model: directory or hub name.
      about: description of the index (`Index.describe`).
      max_length: limit on the tokens of a pair; the reranker's own limit applies if it is smaller.

    Raises:
      FileNotFoundError: the model does not exist.
      ValueError: the model is not a supported cross-encoder, or `max_length` leaves no space for a text.
    """
    saved = read_cross_encoder(find_model(model)).max_length
    return CrossEncoder.load(model, dtype=about["dtype"], max_length=min(saved, max_length))


def candidates(k: int, rerank: int | None) -> int:
    """Return the number of passages to search for and to rerank per query.

    Args:
      k: number of passages that are returned per query.
      rerank: number of passages to rerank; None for the default.

    Raises:
      ValueError: `rerank` is below `k`.
    """
    if rerank is not None and rerank < k:
        raise ValueError(
            f"rerank is {rerank}, but k is {k}; expected at least k, since all returned passages are scored"
        )
    return max(k, CANDIDATES) if rerank is None else rerank


def pairs(queries: Sequence[str], answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """Return the pairs that a reranker scores: each query with the title and text of each of its passages, in order."""
    return [
        (query, hit.passage.full_text) for query, answer in zip(queries, answers, strict=True) for hit in answer.hits
    ]


def reranked(answers: Sequence[Answer], scores: Float32[np.ndarray, " pairs"], k: int) -> list[Answer]:
    """Return each answer with its best `k` passages by the reranker's score; equal scores keep the order of the search.

    Args:
      answers: answers of the index.
      scores: score of each pair of `pairs`.
      k: number of passages per answer.
    """
    scores_of_answers = np.split(scores, np.cumsum([len(answer.hits) for answer in answers])[:-1])
    return [
        dataclasses.replace(
            answer,
            hits=tuple(
                dataclasses.replace(answer.hits[place], rerank_score=float(own[place]))
                for place in np.argsort(-own, kind="stable")[:k]
            ),
        )
        for answer, own in zip(answers, scores_of_answers, strict=True)
    ]
