"""Updates of the words of a batch alone, against updates of the whole table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxretr import parallel
from jaxretr.data.batches import PairBatch, packing_of
from jaxretr.model.functions import functions, init_params
from jaxretr.tpu_estimate.costs import Costs
from jaxretr.tpu_estimate.hlo import Module
from jaxretr.train.optimizer import adamw
from jaxretr.train.sparse_embeddings import unique_token_ids
from jaxretr.train.step import TrainState, make_step
from jaxretr.types import TokenBatch
from tests.tiny import TINY
from tests.train.test_step import BATCH, batch, shares

OPTIMIZER = adamw(optax.constant_schedule(1e-2), weight_decay=0.1, max_grad_norm=0.5)
KEY = jax.random.key(1)


def begin(vocab_size: int = TINY.vocab_size) -> TrainState:
    params = init_params(dataclasses.replace(TINY, vocab_size=vocab_size), jax.random.key(0))
    return TrainState(jnp.int32(0), params, OPTIMIZER.init(params))


def compiled(sparse: bool, devices: int = 1, *, chunk_size: int = 0, vocab_size: int = TINY.vocab_size):
    step = make_step(
        functions(dataclasses.replace(TINY, vocab_size=vocab_size), dropout_rate=0.2),
        OPTIMIZER,
        temperature=0.05,
        symmetric=True,
        dropout=devices == 1,
        chunk_size=chunk_size,
        sparse_embeddings=sparse,
    )
    return parallel.pmap(
        step, in_axes=(None, 0, None), out_axes=None, donate_argnums=(0,), devices=jax.devices()[:devices]
    )


def run(batches: list[PairBatch], sparse: bool, devices: int = 1, chunk_size: int = 0):
    """The states after each of several updates, and their gradient norms."""
    step, state, states, norms = compiled(sparse, devices, chunk_size=chunk_size), begin(), [], []
    for data in batches:
        share = shares(data, devices)
        state, metrics = step(state, share, KEY)
        states.append(jax.tree.map(np.array, state))
        norms.append(float(metrics.grad_norm))
    return states, norms


def tables(state: TrainState) -> list[np.ndarray]:
    """Words, first and second moments."""
    moments = state.opt_state[1][0]
    return [tree["embeddings"]["word"]["embedding"] for tree in (state.params, moments.mu, moments.nu)]


def with_words(data: PairBatch, words: np.ndarray, *, seed: int = 0) -> PairBatch:
    """The batch with real tokens of `words` alone, each of them at least once."""
    sides, rng = [], np.random.default_rng(seed)
    for side in (data.queries, data.passages):
        real = np.flatnonzero(side.mask)
        drawn = np.concatenate([words, rng.choice(words, len(real) - len(words))])
        ids = side.ids.copy()
        ids.flat[real] = rng.permutation(drawn)
        sides.append(side._replace(ids=ids))
    return data._replace(queries=sides[0], passages=sides[1])


def assert_close(ours, theirs) -> None:
    for params in (getattr(tree, "params", {"layers": tree}) for tree in (ours, theirs)):
        # The loss does not depend on the biases of keys: Adam moves them by what rounding leaves.
        params["layers"]["attention"]["qkv"]["bias"][:, TINY.hidden_size : 2 * TINY.hidden_size] = 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "chunk_size"), [(8, 0), (2, 4)])
def test_where_every_row_occurs_it_is_the_update_of_the_whole_table(devices: int, chunk_size: int) -> None:
    """Both with columns of hard negatives, AdamW, weight decay and clipping, over five updates."""
    every = np.arange(TINY.vocab_size)
    data = batch(3)
    passages = [with_words(data._replace(queries=data.passages), every, seed=seed).passages for seed in range(5)]
    batches = [data._replace(passages=side) for side in passages]
    (ours, our_norms), (theirs, their_norms) = (run(batches, sparse, devices, chunk_size) for sparse in (True, False))
    np.testing.assert_allclose(our_norms, their_norms, rtol=1e-5)
    assert_close(ours[-1], theirs[-1])


def test_absent_rows_keep_every_bit_and_the_others_are_updated_as_with_the_whole_table() -> None:
    first, second = np.arange(4, 40), np.arange(20, 80)
    batches = [with_words(batch(1), words) for words in (first, second)]
    (ours, our_norms), (theirs, their_norms) = (run(batches, sparse) for sparse in (True, False))
    assert our_norms[0] == pytest.approx(their_norms[0], rel=1e-5)  # before clipping, which they share
    assert_close(ours[0].params["layers"], theirs[0].params["layers"])
    before = tables(jax.tree.map(np.array, begin()))
    present = np.append(first, TINY.pad_token_id)
    absent = np.setdiff1d(np.arange(TINY.vocab_size), present)
    for start, our, their in zip(before, tables(ours[0]), tables(theirs[0]), strict=True):
        np.testing.assert_array_equal(our[absent], start[absent])
        np.testing.assert_allclose(our[present], their[present], rtol=1e-5, atol=1e-7)
        assert (our[first] != start[first]).any(axis=1).all()
    gone = np.setdiff1d(first, second)
    for our, later, dense, dense_later in zip(*(tables(s) for s in (*ours, *theirs)), strict=True):
        np.testing.assert_array_equal(later[gone], our[gone])
        assert (dense_later[gone] != dense[gone]).all()  # there momentum and decay go on


@pytest.mark.slow
def test_a_row_that_comes_back_goes_on_from_its_moments() -> None:
    """Against AdamW written out: moments as they were left, their bias corrected by the number of all updates."""
    word = 100
    data = [with_words(batch(1), words, seed=word) for words in (np.arange(90, 101), np.arange(4, 40))]
    states, norms = run([data[0], data[1], data[0]], True)
    (w1, m1, v1), (w2, m2, v2), (w3, m3, v3) = ([table[word] for table in tables(state)] for state in states)
    for left, kept in ((w1, w2), (m1, m2), (v1, v2)):
        np.testing.assert_array_equal(left, kept)
    gradient = (m3 - 0.9 * m1) / 0.1
    assert 0 < np.linalg.norm(gradient) <= 0.5 < norms[2]
    np.testing.assert_allclose(v3, 0.999 * v1 + 0.001 * gradient**2, rtol=1e-3)
    step = (m3 / (1 - 0.9**3)) / (np.sqrt(v3 / (1 - 0.999**3)) + 1e-8) + 0.1 * w1
    np.testing.assert_allclose(w3, w1 - 1e-2 * step, rtol=1e-4)


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (8, 1), (2, 2)])
def test_there_are_as_many_rows_as_ids_can_differ(devices: int, parts: int) -> None:
    """One row per token position that is encoded, and one for the padding of packed texts; at most the vocabulary."""
    data = batch(3)
    short = np.arange(data.queries.mask.shape[-1]) < 5
    data = data._replace(
        **{
            name: TokenBatch(np.where(side.mask & short, side.ids, TINY.pad_token_id), side.mask & short)
            for name, side in (("queries", data.queries), ("passages", data.passages))
        }
    )
    packed = data._replace(packing=packing_of(data, BATCH // devices // parts))
    ids = np.concatenate([side.ids.ravel() for side in (data.queries, data.passages)])

    def rows_of(some: PairBatch, vocab_size: int) -> np.ndarray:
        mapped = parallel.pmap(
            lambda share: unique_token_ids(share, vocab_size), out_axes=None, devices=jax.devices()[:devices]
        )
        return np.asarray(mapped(shares(some, devices)))

    slots = packed.packing.text.size
    assert slots + 1 < ids.size
    for some, most in ((data, ids.size), (packed, slots + 1)):
        for vocab_size in (TINY.vocab_size, 250_000):
            rows = rows_of(some, vocab_size)
            assert len(rows) == min(most, vocab_size)
            np.testing.assert_array_equal(rows[rows < vocab_size], np.unique(ids))


def test_packed_rows_hold_every_id_even_if_no_slot_is_free() -> None:
    """2,048 slots full of tokens that all differ, and padding: 2,049 rows."""
    queries = TokenBatch(np.full((8, 128), 1, np.int32), np.arange(128) < np.full((8, 1), 128))
    passages = TokenBatch(np.full((8, 4, 128), 1, np.int32), np.broadcast_to(np.arange(128) < 32, (8, 4, 128)).copy())
    count = 0
    for side in (queries, passages):
        real = int(side.mask.sum())
        side.ids[side.mask] = np.arange(10 + count, 10 + count + real)
        count += real
    content = np.arange(1, 33, dtype=np.uint32).reshape(8, 4)
    data = PairBatch(queries, passages, np.arange(1, 9, dtype=np.uint32), content)
    data = data._replace(packing=packing_of(data, 8))
    assert data.packing.text.size == count == 2_048
    mapped = parallel.pmap(lambda share: unique_token_ids(share, 250_000), out_axes=None, devices=jax.devices()[:1])
    np.testing.assert_array_equal(np.asarray(mapped(shares(data, 1))), [1, *range(10, 10 + count)])


@pytest.mark.slow
def test_neither_memory_nor_what_devices_send_grows_with_the_vocabulary() -> None:
    def needs(sparse: bool, vocab_size: int) -> tuple[int, float]:
        state = jax.eval_shape(lambda: begin(vocab_size))
        share = jax.tree.map(lambda x: x.reshape(8, BATCH // 8, *x.shape[1:]), batch(1))
        program = compiled(sparse, 8, vocab_size=vocab_size).lower(state, share, KEY).compile()
        costs = Costs.of(Module.parse(program.as_text()))
        return program.memory_analysis().temp_size_in_bytes, costs.sent_bytes

    small, large, dense = needs(True, 1_000), needs(True, 100_000), needs(False, 100_000)
    assert large == pytest.approx(small, rel=0.01)  # nothing the size of a table is made: it is written in place
    rows = 2 * BATCH * 12
    saved = 2 * 7 / 8 * (100_000 - rows) * TINY.hidden_size * 4
    assert dense[1] - large[1] == pytest.approx(saved, rel=0.01)
    assert dense[0] > large[0] + 100_000 * TINY.hidden_size * 4
