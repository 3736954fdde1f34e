"""BM25 as a reference.

Input: a collection. Output: two encoding functions, whose inner product is BM25's score.

Terms are the tokens of an encoder's vocabulary in every language. So no language needs an analyzer, and words that
languages share (names, numbers) match across them.
"""

from collections.abc import Callable, Iterable

import bm25s
import numpy as np
from jaxtyping import Float32

from jaxretr.types import RetrievalSet


class BM25Encoder:
    """Encode passages as the BM25 weights of the collection's query terms, and queries as their terms.

    The weights are defined as in Lucene's BM25 with k1 1.2 and b .75. Inverse document frequencies are computed over
    the pool of all languages.

    Args:
      collection: collection whose passages are the pool; each term of its queries gets a column.
      tokenization: maps texts to token ids.
    """

    def __init__(self, collection: RetrievalSet, tokenization: Callable[[list[str]], list[list[int]]]):
        self._tokenization = tokenization
        texts = [passage.full_text for passage in collection.take_passages(range(len(collection.passages)))]
        documents = tokenization(texts)
        query_terms = {token for ids in tokenization([query.text for query in collection.queries]) for token in ids}
        terms = sorted(query_terms & {token for ids in documents for token in ids})
        self._column = {token: column for column, token in enumerate(terms)}
        index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        index.index([[str(token) for token in ids] for ids in documents], show_progress=False)
        weights = np.stack([index.get_scores([str(token)]) for token in terms], axis=1).astype(np.float32)
        self._weights = dict(zip(texts, weights, strict=True))

    def encode_document(self, texts: Iterable[str]) -> Float32[np.ndarray, "passages terms"]:
        """Return the BM25 weights of passages, which must belong to the collection."""
        return np.stack([self._weights[text] for text in texts])

    def encode_query(self, texts: Iterable[str]) -> Float32[np.ndarray, "queries terms"]:
        """Return 1 for each term that occurs in a query, else 0."""
        rows = self._tokenization(list(texts))
        encoded = np.zeros((len(rows), len(self._column)), np.float32)
        for row, ids in enumerate(rows):
            encoded[row, [self._column[token] for token in ids if token in self._column]] = 1
        return encoded
