"""An index of passages and their embeddings on disk, which can be searched while it is updated.

`build` writes the directory that `layout` describes, `Index` opens it, `search` answers queries, and `shards` combines
several indexes.
"""

from jaxretr.index.index import Index
from jaxretr.index.types import Answer, Hit, IndexedPassage, LexicalQuery, Searchable, SearchOptions

__all__ = ["Answer", "Hit", "Index", "IndexedPassage", "LexicalQuery", "SearchOptions", "Searchable"]
