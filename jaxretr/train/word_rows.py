"""Updates of those word embeddings alone whose tokens a batch has.

In: a training state with the whole table and a batch. Out: the same with a table of the few rows that occur, small
enough to be differentiated, sent between devices, clipped and updated at once; and the way back. Nothing between the
two knows of it, whatever the optimiser.

The absent rows have no gradient, so loss, gradient and clipping are what they are with the whole table. AdamW is lazy:
a row's moments and its weight decay stand still while its token is absent, where the dense one goes on moving it by
its fading momentum. A row that occurs is updated as there, its bias corrected by the number of all updates. Where
every row occurs every time, the two are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxretr import parallel
from jaxretr.data.batches import PairBatch


def occurring(batch: PairBatch, vocab_size: int) -> Int32[Array, " rows"]:
    """The ids of all tokens of the global batch, ascending, each once; inside `parallel.pmap`.

    The number of rows is the largest number of ids that can differ: the token positions that are encoded, at most
    `vocab_size`. `vocab_size`, which is no id, fills the rows that are left.
    """
    own = jnp.concatenate([batch.queries.ids.ravel(), batch.passages.ids.ravel()])
    ids = parallel.gather(own)
    most = min(ids.size, vocab_size)
    if batch.packing:  # every real token has a place in the shared rows; all others are padding, which is one id
        devices = ids.size // own.size
        most = min(most, devices * batch.packing.text.size + 1)
    return jnp.unique(ids, size=most, fill_value=vocab_size)


def renumbered(batch: PairBatch, rows: Int32[Array, " rows"]) -> PairBatch:
    """The batch with places in `rows` for ids."""
    queries, passages = (
        side._replace(ids=jnp.searchsorted(rows, side.ids).astype(jnp.int32))
        for side in (batch.queries, batch.passages)
    )
    return batch._replace(queries=queries, passages=passages)


def take[State](state: State, rows: Int32[Array, " rows"]) -> State:
    """The state with `rows` of the word embeddings, and of what the optimiser holds of them, for all of them."""
    return _map_tables(lambda table: jnp.take(table, rows, axis=0, mode="clip"), state)


def put[State](state: State, rows: Int32[Array, " rows"], after: State) -> State:
    """`after`, with its rows put into the tables of `state`: in place where `state` is donated."""
    return _map_tables(
        lambda table, updated: table.at[rows].set(updated, mode="drop", indices_are_sorted=True),
        state,
        after,
        otherwise=lambda _, updated: updated,
    )


def _map_tables(table: Any, *trees: Any, otherwise: Any = lambda leaf: leaf) -> Any:
    """Maps the tables of word embeddings by one function and all other leaves by another."""

    def mapped(path: tuple[Any, ...], *leaves: Any) -> Any:
        names = [getattr(part, "key", None) for part in path[-3:]]
        return (table if names == ["embeddings", "word", "embedding"] else otherwise)(*leaves)

    return jax.tree_util.tree_map_with_path(mapped, *trees)
