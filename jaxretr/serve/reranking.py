"""Requests to rerank: the candidates of a search, and the texts of a client.

Input: checked requests. Output: reranked answers, or JSON values. The scores come from micro-batches that the service
shares with all requests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxretr.index.rerank import CANDIDATES, candidates, pairs, reranked
from jaxretr.index.types import Answer
from jaxretr.model.cross_encoder import CrossEncoder, activate, descending
from jaxretr.serve import responses
from jaxretr.serve.errors import ServiceError
from jaxretr.serve.options import ServiceOptions
from jaxretr.serve.requests import SearchRequest
from jaxretr.serve.rerank_requests import RerankDocuments, RerankTexts

NO_RERANKER = "texts cannot be reranked: the service was started without --reranker"

Pairs = Sequence[tuple[str, str]]


class Reranking:
    """Answers requests to rerank.

    Args:
      reranker: the cross-encoder.
      options: limits, and the reranker's name.
      score: returns the logits of pairs, in their order; it waits for the device.
    """

    def __init__(
        self, reranker: CrossEncoder, options: ServiceOptions, score: Callable[[Pairs], Awaitable[np.ndarray]]
    ):
        self.reranker = reranker
        self._options = options
        self._score = score

    def encode(self, to_score: Pairs, batch_size: int) -> Float32[np.ndarray, " pairs"]:
        """Return the logits of a micro-batch; runs in the thread that owns the device."""
        return self.reranker.predict(to_score, activation="identity", batch_size=batch_size, progress=False)

    def candidates(self, request: SearchRequest) -> int:
        """Return the number of passages to rerank per query of a search.

        Raises:
          ServiceError: 422 if the number is below k, or if the request has too many pairs.
        """
        most, queries = self._options.max_texts, len(request.texts)
        if request.rerank is True:
            number = max(request.k, min(CANDIDATES, most))
        else:
            try:
                number = candidates(request.k, request.rerank or None)
            except ValueError as error:
                raise ServiceError(422, str(error), param="rerank") from error
        if queries * number > most:
            raise ServiceError(
                422,
                f"{queries} queries with {number} passages to rerank give {queries * number} pairs; expected at most "
                f"{most} pairs per request",
                param="rerank",
            )
        return number

    async def answers(self, queries: Sequence[str], answers: Sequence[Answer], k: int) -> list[Answer]:
        """Return the answers of a search with the best `k` passages by the reranker's scores."""
        logits = await self._logits(pairs(queries, answers))
        return reranked(answers, activate(logits, self.reranker.activation), k)

    async def texts(self, request: RerankTexts) -> list[dict[str, Any]]:
        """Return a `Rank` per text, best first.

        Raises:
          ServiceError: 422 if a pair is too long and the request does not allow truncation.
        """
        to_score = [(request.query, text) for text in request.texts]
        if not request.truncate:
            await asyncio.to_thread(self._check_lengths, to_score)
        logits = await self._logits(to_score)
        scores = activate(logits, "identity" if request.raw_scores else "sigmoid").tolist()
        return responses.ranks(scores, descending(logits), request.texts if request.return_text else None)

    async def documents(self, request: RerankDocuments) -> dict[str, Any]:
        """Return `RerankResults`."""
        texts = request.texts
        to_score = [(request.query, text) for text in texts]
        logits = await self._logits(to_score)
        return responses.rerank_results(
            activate(logits, "sigmoid").tolist(),
            descending(logits)[: request.top_n],
            texts if request.return_documents else None,
            model=self._options.reranker,
            tokens=await asyncio.to_thread(self._count_tokens, to_score),
        )

    async def _logits(self, to_score: Pairs) -> Float32[np.ndarray, " pairs"]:
        """Return the logit of each pair. Pairs of about equal length are scored together, so that little is padded."""
        logits = np.empty(len(to_score), np.float32)
        order = sorted(range(len(to_score)), key=lambda index: -len(to_score[index][1]))
        if order:
            logits[order] = await self._score([to_score[index] for index in order])
        return logits

    def _check_lengths(self, to_score: Pairs) -> None:
        for index, pair in enumerate(self.reranker.tokenization.pairs(to_score)):
            if pair.truncated:
                raise ServiceError(
                    422,
                    f"texts.{index}: query and text have more than {self.reranker.max_length} tokens together, "
                    "special tokens included; shorten them, or allow truncation with truncate = true",
                    param=f"texts.{index}",
                )

    def _count_tokens(self, to_score: Pairs) -> int:
        return sum(len(pair.ids) for pair in self.reranker.tokenization.pairs(to_score))
