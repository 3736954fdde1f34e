"""From texts to rankings: embeddings on disk, and exact search over a corpus."""

from jaxretr.retrieval.embeddings import Embeddings, Encode, Rows, embed
from jaxretr.retrieval.exact import ranks, search

__all__ = ["Embeddings", "Encode", "Rows", "embed", "ranks", "search"]
