"""Fused attention in Pallas's interpreter against plain attention: values, gradients, texts, dropout."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr.model import fused_attention as fused
from jaxretr.model import fused_blocks
from jaxretr.model.attention import XLA, AttentionOn, attend, resolve_attention
from jaxretr.model.functions import functions, init_params
from jaxretr.model.fused_tiles import kept
from jaxretr.types import Packing
from tests.tiny import TINY

HEADS, LENGTH, HIDDEN = 2, 40, 32
WIDE = dataclasses.replace(TINY, hidden_size=128, num_attention_heads=4)
INTERPRETED = AttentionOn("fused", "cpu")
TEXTS = np.zeros((2, LENGTH), np.int32)
TEXTS[0, 13:30], TEXTS[0, 30:], TEXTS[1, 25:] = 1, -1, 3


@pytest.fixture(params=["one block", "blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one block, and of five."""
    if request.param == "blocks":
        monkeypatch.setattr(fused, "WHOLE", 8)
        monkeypatch.setattr(fused_blocks, "BLOCK", 8)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def by_hand(qkv: jax.Array, texts: np.ndarray, keep: np.ndarray | None = None, dropped: int = 0) -> jax.Array:
    """Attention head by head, written out."""
    q, k, v = jnp.split(qkv, 3, axis=-1)
    outputs = []
    for head in range(HEADS):
        part = slice(head * HIDDEN // HEADS, (head + 1) * HIDDEN // HEADS)
        scores = jnp.einsum("rqd,rkd->rqk", q[..., part], k[..., part], precision="highest")
        scores = scores / math.sqrt(HIDDEN // HEADS)
        probabilities = jax.nn.softmax(jnp.where(texts[:, :, None] == texts[:, None, :], scores, -jnp.inf))
        if keep is not None:
            probabilities = jnp.where(keep[:, head], probabilities * 256 / (256 - dropped), 0)
        outputs.append(jnp.einsum("rqk,rkd->rqd", probabilities, v[..., part], precision="highest"))
    return jnp.concatenate(outputs, axis=-1)


def value_and_gradient(function, qkv: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """The output, and the gradient of a fixed linear function of it."""
    out, backward = jax.vjp(function, qkv)
    return np.asarray(out), np.asarray(backward(normal(1, *out.shape))[0])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("rate", "length"), [(0.0, LENGTH), (0.25, 37)])
def test_values_and_gradients_are_those_of_attention_by_hand(rate: float, length: int) -> None:
    """With dropout, both passes drop what the hash says: other entries in the backward pass would change it."""
    qkv, seed, dropped = normal(0, 2, length, 3 * HIDDEN), jnp.uint32(7), round(256 * rate)
    at, texts = jnp.arange(length, dtype=jnp.int32), TEXTS[:, :length]
    keep = np.stack(
        [[kept(seed, row, head, at[:, None], at[None], dropped) for head in range(HEADS)] for row in range(2)]
    )
    found = value_and_gradient(
        lambda x: fused.fused_attention(
            x, jnp.asarray(texts), HEADS, dropout_rate=rate, seed=seed if rate else None, interpret=True
        ),
        qkv,
    )
    expected = value_and_gradient(lambda x: by_hand(x, texts, keep if rate else None, dropped), qkv)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_padding_does_not_change_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of 37 tokens fits into scratch memory as one block, but not with the 48 tokens that a block needs."""
    monkeypatch.setattr(fused_blocks, "BLOCK", 32)
    monkeypatch.setattr(fused, "LARGE_MEMORY", fused._whole_memory(40, 3 * HIDDEN, 4))
    qkv, texts = normal(0, 2, 37, 3 * HIDDEN), TEXTS[:, :37]
    found = value_and_gradient(lambda x: fused.fused_attention(x, jnp.asarray(texts), HEADS, interpret=True), qkv)
    for ours, theirs in zip(found, value_and_gradient(lambda x: by_hand(x, texts), qkv), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.usefixtures("blocks")
def test_a_text_is_not_reached_by_another() -> None:
    qkv = normal(0, 2, LENGTH, 3 * HIDDEN)
    changed = qkv.at[0, 13:30].add(1.0)
    run = jax.jit(lambda x: fused.fused_attention(x, jnp.asarray(TEXTS), HEADS, interpret=True))
    before, after = np.asarray(run(qkv)), np.asarray(run(changed))
    np.testing.assert_array_equal(before[0, :13], after[0, :13])
    np.testing.assert_array_equal(before[1], after[1])
    assert (before[0, 13:30] != after[0, 13:30]).any(axis=-1).all()


def test_dropout_keeps_its_share_without_patterns() -> None:
    at = jnp.arange(256, dtype=jnp.int32)
    keep = np.stack(
        [
            np.asarray(kept(jnp.uint32(seed), row, head, at[:, None], at[None], 64))
            for seed, row, head in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
        ]
    ).astype(float)
    error = math.sqrt(0.25 * 0.75 / 256**2)
    assert np.abs(keep.mean(axis=(1, 2)) - 0.75).max() < 4 * error
    assert np.abs(keep.mean(axis=1) - 0.75).max() < 5 * math.sqrt(0.25 * 0.75 / 256), "no column is kept more often"
    assert np.abs(keep.mean(axis=2) - 0.75).max() < 5 * math.sqrt(0.25 * 0.75 / 256), "no row is kept more often"
    correlations = np.corrcoef(keep.reshape(4, -1))[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 5 / 256, "heads, rows and seeds drop other entries"
    shifted = [np.corrcoef(keep[0, :, :-1].ravel(), keep[0, :, 1:].ravel())[0, 1]]
    shifted += [np.corrcoef(keep[0, :-1].ravel(), keep[0, 1:].ravel())[0, 1]]
    shifted += [np.corrcoef(keep[0, :-1, :-1].ravel(), keep[0, 1:, 1:].ravel())[0, 1]]
    assert np.abs(shifted).max() < 5 / 256, "neighbors are independent"


def test_the_encoder_is_the_same_with_either_attention() -> None:
    """Embeddings of texts alone and of packed texts with their gradients, with rows of padding."""
    params = init_params(TINY, jax.random.key(0))
    rng = np.random.default_rng(3)
    ids = jnp.asarray(rng.integers(4, 100, (3, 12)), jnp.int32)
    mask = jnp.asarray(np.arange(12) < np.array([[12], [5], [0]]))
    text = np.full((2, 12), -1, np.int32)
    text[0], text[1, :5] = 0, 1
    packing = Packing(jnp.asarray(text), jnp.asarray([0, 12, 17], jnp.int32))

    def embeddings(attention: AttentionOn, packed: bool):
        encoder = functions(TINY, attention=attention, remat="dots")

        def run(params):
            words = encoder.embed_tokens(params, ids)
            if packed:
                return encoder.encode_packed(params, [words], [mask], packing)[0]
            return encoder.encode(params, words, mask)

        if not packed:
            return jax.jit(run)(params), {}
        return jax.jit(lambda p: (run(p), jax.grad(lambda p: jnp.sum(run(p) * normal(4, 3, TINY.dim)))(p)))(params)

    for packed in (False, True):
        (found, found_grads), (expected, expected_grads) = (embeddings(one, packed) for one in (INTERPRETED, XLA))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        if not packed:
            continue
        scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_grads))
        for ours, theirs in zip(jax.tree.leaves(found_grads), jax.tree.leaves(expected_grads), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)


def test_cudnn_does_not_drop_probabilities() -> None:
    with pytest.raises(ValueError, match="does not drop attention probabilities, but the rate is 0.1"):
        attend("fused", "gpu", normal(0, 2, LENGTH, 3 * HIDDEN), jnp.asarray(TEXTS), HEADS, 0.1, jax.random.key(0))


@pytest.mark.parametrize("texts", [np.ones((2, LENGTH), bool), TEXTS], ids=["mask", "texts"])
def test_both_implementations_take_masks_and_texts(texts: np.ndarray) -> None:
    qkv = normal(0, 2, LENGTH, 3 * HIDDEN)
    found, expected = (attend(*one, qkv, jnp.asarray(texts), HEADS, 0.0, None) for one in (INTERPRETED, XLA))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("asked", "platform", "changes", "found", "reason"),
    [
        ("xla", "tpu", {}, "xla", ""),
        ("auto", "tpu", {}, "fused", ""),
        ("auto", "cpu", {}, "xla", ""),
        ("auto", "gpu", {}, "xla", ""),
        ("fused", "gpu", {"dtype": "bfloat16"}, "fused", ""),
        ("auto", "tpu", {"second_derivatives": True}, "xla", "second derivatives"),
    ],
)
def test_the_implementation_for_a_platform(asked: str, platform: str, changes: dict, found: str, reason: str) -> None:
    chosen, said = resolve_attention(asked, platform, WIDE, **{"dtype": "float32"} | changes)
    assert chosen.implementation == found and reason in said and bool(said) == bool(reason)


@pytest.mark.parametrize(
    ("platform", "changes", "reason"),
    [
        ("cpu", {}, "cpu devices have no fused kernel"),
        ("tpu", {"second_derivatives": True}, "second derivatives are needed"),
        ("gpu", {}, "cuDNN's kernel does not support float32"),
        ("gpu", {"dtype": "bfloat16", "attention_dropout": 0.1}, "without dropout"),
    ],
)
def test_fused_is_an_error_where_it_is_not_available(platform: str, changes: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=f"attention 'fused' is not available: .*{reason}.*; use 'auto' or 'xla'"):
        resolve_attention("fused", platform, WIDE, **{"dtype": "float32"} | changes)


def test_sizes_without_a_kernel() -> None:
    chosen, said = resolve_attention("auto", "tpu", WIDE, "float32", device_kind="TPU v4")
    assert chosen == XLA and "16 MiB of scratch memory" in said
    chosen, said = resolve_attention("auto", "tpu", TINY, "float32")
    assert chosen == XLA and "hidden size 16 is not a multiple of 128" in said
    with pytest.raises(ValueError, match="does not support heads of 256 dimensions"):
        resolve_attention("fused", "gpu", dataclasses.replace(WIDE, hidden_size=1024), "bfloat16")
