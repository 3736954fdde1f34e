"""From embeddings to rankings: exact search over a corpus."""

from jaxretr.retrieval.exact import ranks, search

__all__ = ["ranks", "search"]
