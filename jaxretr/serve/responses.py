"""Models of responses for the OpenAPI description, and functions that build the responses.

The models are never instantiated: the functions build equal JSON directly from the index's answers, without a copy.
"""

import base64
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict
from starlette import responses

from jaxretr.index.types import Answer, Hit, MetadataValue, Quarantined


class JSONResponse(responses.JSONResponse):
    """A response in UTF-8 JSON. Lone surrogates, which UTF-8 cannot encode, are written as JSON escapes."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Found(_Answer):
    """A passage of an answer; `rerank_score` is absent unless the request asks to rerank."""

    id: str
    score: float
    rerank_score: float | None = None
    language: str
    title: str
    text: str
    metadata: dict[str, MetadataValue]


class Hits(_Answer):
    """Passages for one query, best first; without the passages of shards that did not answer."""

    hits: list[Found]
    degraded: bool
    missing_shards: list[int]


class SearchAnswer(Hits):
    """The answer to a request with "query"."""

    took_ms: float


class SearchAnswers(_Answer):
    """The answers to a request with "queries"."""

    answers: list[Hits]
    took_ms: float


class Embedding(_Answer):
    """The embedding of one text, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(_Answer):
    """Number of tokens encoded, prefixes and special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(_Answer):
    """Embeddings in OpenAI's format."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(_Answer):
    """A model in OpenAI's format."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(_Answer):
    """A list of models in OpenAI's format."""

    object: Literal["list"]
    data: list[Model]


class Rank(_Answer):
    """A text and its score, in the format of text-embeddings-inference; `text` is absent unless it is requested."""

    index: int
    score: float
    text: str | None = None


class Document(_Answer):
    """The text of a document."""

    text: str


class RerankResult(_Answer):
    """A document and its score, in the format of Cohere and Jina; `document` is absent unless it is requested."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankResults(_Answer):
    """Documents in order of relevance, in the format of Cohere and Jina."""

    model: str
    results: list[RerankResult]
    usage: Usage


class Upserted(_Answer):
    """Number of passages added or replaced; they are on disk.

    If the index has a gate, `quarantined` has the ids of the passages among them that are stored, but not served. The
    field is absent if there are none.
    """

    upserted: int
    quarantined: list[str] = []


class Deleted(_Answer):
    """Number of passages that existed and were deleted."""

    deleted: int


class Verdict(_Answer):
    """Why a passage is quarantined: it answers more sentinel queries than other passages of its language.

    `score` is `count`, the number of sentinel queries that the passage answers, plus a tie-break below 1. `language` is
    null if the passages of all languages set the threshold. `sentinels` has the queries that the passage answers best.
    """

    count: int
    score: float
    threshold: float
    language: str | None
    sentinels: list[str]


class QuarantinedPassage(_Answer):
    """A passage that is stored, but not served."""

    id: str
    language: str
    title: str
    text: str
    metadata: dict[str, MetadataValue]
    verdict: Verdict


class Quarantine(_Answer):
    """Quarantined passages in order of id; `next` is the value of `after` for the next page, null on the last page."""

    passages: list[QuarantinedPassage]
    next: str | None


class Released(_Answer):
    """Number of passages that were quarantined and are served now."""

    released: int


class Compaction(_Answer):
    """The index is being rebuilt in the background; the counts of `since_built` in /info drop when it is done."""

    compaction: Literal["begun"]


class Info(_Answer):
    """The served models and index, and the limits on requests; `reranker` is null without a reranker."""

    model: str
    reranker: str | None
    dim: int
    passages: int
    languages: dict[str, int]
    lexical: bool
    since_built: dict[Literal["upserted", "deleted"], int]
    writable: bool
    limits: dict[str, int]


class Status(_Answer):
    """The state of the service."""

    status: Literal["alive", "ready"]


class Problem(_Answer):
    """What is wrong, and how to correct it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Answer):
    """An error in OpenAI's format."""

    error: Problem


def found(hit: Hit) -> dict[str, Any]:
    """Return a `Found`."""
    passage = hit.passage
    return {
        "id": passage.id,
        "score": float(hit.score),
        **({} if hit.rerank_score is None else {"rerank_score": hit.rerank_score}),
        "language": passage.language,
        "title": passage.title,
        "text": passage.text,
        "metadata": dict(passage.metadata),
    }


def quarantine(page: Sequence[Quarantined], limit: int) -> dict[str, Any]:
    """Return a `Quarantine` for at most `limit` passages; a further passage in `page` shows that there are more."""
    passages = [
        {
            "id": one.passage.id,
            "language": one.passage.language,
            "title": one.passage.title,
            "text": one.passage.text,
            "metadata": dict(one.passage.metadata),
            "verdict": dataclasses.asdict(one.verdict),
        }
        for one in page[:limit]
    ]
    return {"passages": passages, "next": page[limit - 1].passage.id if len(page) > limit else None}


def hits(answer: Answer) -> dict[str, Any]:
    """Return a `Hits`."""
    missing = list(answer.missing_shards)
    return {"hits": [found(hit) for hit in answer.hits], "degraded": bool(missing), "missing_shards": missing}


def embeddings(
    vectors: Float32[np.ndarray, "texts dim"], *, encoding_format: str, model: str, tokens: int
) -> dict[str, Any]:
    """Return an `Embeddings`; base64 encodes the float32 values bit for bit."""
    if encoding_format == "base64":
        rows: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    else:
        rows = vectors.tolist()
    data = [{"object": "embedding", "index": number, "embedding": row} for number, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def ranks(scores: Sequence[float], order: Sequence[int], texts: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return a `Rank` per index in `order`, with its text if `texts` are given."""
    return [
        {"index": index, "score": float(scores[index]), **({} if texts is None else {"text": texts[index]})}
        for index in order
    ]


def rerank_results(
    scores: Sequence[float], order: Sequence[int], texts: Sequence[str] | None, *, model: str, tokens: int
) -> dict[str, Any]:
    """Return `RerankResults` with the indices in `order`, and with the texts if `texts` are given."""
    results = [
        {
            "index": index,
            "relevance_score": float(scores[index]),
            **({} if texts is None else {"document": {"text": texts[index]}}),
        }
        for index in order
    ]
    return {"model": model, "results": results, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
