"""Embed texts into files, and search a corpus exactly."""

from jaxretr.retrieval.embeddings import Embeddings, Encode, Rows, embed
from jaxretr.retrieval.exact import ranks, search

__all__ = ["Embeddings", "Encode", "Rows", "embed", "ranks", "search"]
