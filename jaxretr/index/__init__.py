"""Passages and their embeddings → an index on disk; queries → answers, also while it is updated.

`build` makes the directory that `layout` describes, `Index` opens it, `search` finds the answers, `shards` puts several
indexes together.
"""

from jaxretr.index.index import Index
from jaxretr.index.types import Answer, Hit, IndexedPassage, Searchable, SearchOptions

__all__ = ["Answer", "Hit", "Index", "IndexedPassage", "SearchOptions", "Searchable"]
