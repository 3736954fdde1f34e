"""BM25 as a reference: a collection comes in, two encoding functions go out, whose inner product is BM25's score.

Terms are the tokens of an encoder's vocabulary, whatever the language: no analyser of any language is needed, and what
languages share (names, numbers) meets across them.
"""

from collections.abc import Callable, Iterable

import bm25s
import numpy as np
from jaxtyping import Float32

from jaxretr.types import RetrievalSet


class BM25Encoder:
    """Passages as the weights of the collection's query terms (Lucene's BM25, k1 1.2, b .75), queries as their terms.

    Inverse document frequencies are those of the pool of all languages.

    Args:
      collection: its passages are the pool, its queries the terms that get a column.
      tokenization: from texts to token ids.
    """

    def __init__(self, collection: RetrievalSet, tokenization: Callable[[list[str]], list[list[int]]]):
        self._tokenization = tokenization
        read = [passage.full_text for passage in collection.take_passages(range(len(collection.passages)))]
        documents = tokenization(read)
        asked = {token for ids in tokenization([query.text for query in collection.queries]) for token in ids}
        terms = sorted(asked & {token for ids in documents for token in ids})
        self._column = {token: column for column, token in enumerate(terms)}
        index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        index.index([[str(token) for token in ids] for ids in documents], show_progress=False)
        weights = np.stack([index.get_scores([str(token)]) for token in terms], axis=1).astype(np.float32)
        self._weights = dict(zip(read, weights, strict=True))

    def encode_document(self, texts: Iterable[str]) -> Float32[np.ndarray, "passages terms"]:
        """Rows of the collection's own passages."""
        return np.stack([self._weights[text] for text in texts])

    def encode_query(self, texts: Iterable[str]) -> Float32[np.ndarray, "queries terms"]:
        """1 for each term that a query has."""
        rows = self._tokenization(list(texts))
        encoded = np.zeros((len(rows), len(self._column)), np.float32)
        for row, ids in enumerate(rows):
            encoded[row, [self._column[token] for token in ids if token in self._column]] = 1
        return encoded
