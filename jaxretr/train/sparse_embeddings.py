"""Update only the word embeddings whose tokens occur in a batch.

Input: a training state with the whole table, and a batch. Output: the state with a table of the few occurring rows, and
the inverse. The small table is cheap to differentiate, to reduce over devices, to clip and to update. The optimizer
does not know about it.

An absent row has no gradient, so loss, gradient and clipping are the same as with the whole table. AdamW is lazy: the
moments and the weight decay of a row pause while its token is absent, whereas dense AdamW keeps moving the row by its
decaying momentum. An occurring row is updated as in dense AdamW, with the bias correction of the global step. If every
row occurs in every batch, both are identical.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxretr import parallel
from jaxretr.data.batches import PairBatch


def unique_token_ids(batch: PairBatch, vocab_size: int) -> Int32[Array, " rows"]:
    """Return the distinct token ids of the global batch in ascending order; must run inside `parallel.pmap`.

    The number of rows is an upper bound on the number of distinct ids: the number of encoded token positions, at most
    `vocab_size`. The remaining rows hold `vocab_size`, which is not an id.
    """
    local_ids = jnp.concatenate([batch.queries.ids.ravel(), batch.passages.ids.ravel()])
    ids = parallel.gather(local_ids)
    most = min(ids.size, vocab_size)
    if batch.packing:  # every real token has a place in the shared rows; padding adds one id
        devices = ids.size // local_ids.size
        most = min(most, devices * batch.packing.text.size + 1)
    return jnp.unique(ids, size=most, fill_value=vocab_size)


def remap_ids(batch: PairBatch, rows: Int32[Array, " rows"]) -> PairBatch:
    """Return the batch with positions in `rows` instead of ids."""
    queries, passages = (
        side._replace(ids=jnp.searchsorted(rows, side.ids).astype(jnp.int32))
        for side in (batch.queries, batch.passages)
    )
    return batch._replace(queries=queries, passages=passages)


def gather_rows[State](state: State, rows: Int32[Array, " rows"]) -> State:
    """Return the state with only `rows` of the word embeddings and of their optimizer state."""
    return _map_tables(lambda table: jnp.take(table, rows, axis=0, mode="clip"), state)


def scatter_rows[State](state: State, rows: Int32[Array, " rows"], after: State) -> State:
    """Return `after`, with its rows written into the tables of `state`: in place if `state` is donated."""
    return _map_tables(
        lambda table, updated: table.at[rows].set(updated, mode="drop", indices_are_sorted=True),
        state,
        after,
        otherwise=lambda _, updated: updated,
    )


def _map_tables(table: Any, *trees: Any, otherwise: Any = lambda leaf: leaf) -> Any:
    """Map the word-embedding tables by one function and all other leaves by another."""

    def mapped(path: tuple[Any, ...], *leaves: Any) -> Any:
        names = [getattr(part, "key", None) for part in path[-3:]]
        return (table if names == ["embeddings", "word", "embedding"] else otherwise)(*leaves)

    return jax.tree_util.tree_map_with_path(mapped, *trees)
