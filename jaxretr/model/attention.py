"""Multi-head self-attention between projections, by one of several implementations.

Input: queries, keys and values of all heads side by side, [batch, length, 3 × hidden], and which positions attend to
each other. Output: [batch, length, hidden].

| implementation | |
|---|---|
| `xla` | plain matrix products and a softmax; every device, dtype and derivative |
| `fused` | one kernel on TPU (`jaxretr.model.fused_attention`), cuDNN on GPU; first derivatives only |
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxretr.model.architecture import Architecture
from jaxretr.model.matmul import matmul, matmul_transposed

Attention = Literal["xla", "fused"]
"""An implementation of attention."""


class AttentionOn(NamedTuple):
    """An implementation of attention on a platform: "tpu", "gpu", or "cpu", where a fused kernel is interpreted."""

    implementation: Attention
    platform: str


XLA = AttentionOn("xla", "")
OUTPUT = "attention"
"""Name of the output of fused attention, which the backward pass keeps instead of running the kernel again."""

Texts = Bool[Array, "batch length"] | Int[Array, "batch length"]
"""Which positions attend to each other: a mask of real tokens, to which all positions attend; or, in rows that several
texts share, the text of each position (-1 for padding), and each text attends to itself."""

_NEVER = np.float32(np.finfo(np.float32).min)  # finite in place of -inf: rows without a real token stay finite


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zero entries with probability `rate` and scale the others by 1 / (1 - `rate`); the identity without a key.

    One random byte decides about each entry, so `rate` is rounded to a multiple of 1/256. Drawing random numbers is the
    main cost of dropout, and bytes take a fifth of the time of `jax.random.bernoulli`'s floats.
    """
    dropped = round(256 * rate)
    if key is None or dropped == 0:
        return x
    words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
    bytes_ = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(bytes_ >= dropped, x * (256 / (256 - dropped)), 0)


def attend(
    implementation: Attention,
    platform: str,
    qkv: Float[Array, "batch length qkv"],
    texts: Texts,
    heads: int,
    dropout_rate: float,
    key: Key[Array, ""] | None,
) -> Float[Array, "batch length hidden"]:
    """Return the output of multi-head attention.

    Args:
      implementation: `xla` or `fused`.
      platform: platform of the devices, for `fused`: "tpu", "gpu", or "cpu" for Pallas's interpreter.
      qkv: queries, keys and values of all heads.
      texts: which positions attend to each other.
      heads: number of heads.
      dropout_rate: probability of dropping an attention probability.
      key: dropout key; None for no dropout. The implementations drop different entries.
    """
    if implementation == "xla":
        return _xla(qkv, texts, heads, dropout_rate, key)
    if platform == "gpu":
        return _cudnn(qkv, texts, heads)
    from jaxretr.model.fused_attention import fused_attention  # importing Pallas takes a third of a second

    ids = jnp.where(texts, 0, -1) if texts.dtype == jnp.bool_ else texts
    seed = None if key is None else jax.random.bits(key, (), jnp.uint32)
    return fused_attention(
        qkv, ids.astype(jnp.int32), heads, dropout_rate=dropout_rate, seed=seed, interpret=platform == "cpu"
    )


def resolve_attention(
    asked: str,
    platform: str,
    architecture: Architecture,
    dtype: str,
    *,
    attention_dropout: float = 0.0,
    second_derivatives: bool = False,
) -> tuple[AttentionOn, str]:
    """Return the implementation to use, and why it is not the fused one, if a TPU has to do without it.

    `auto` is the fused kernel on TPU. On GPU it is `xla`: no GPU has measured cuDNN's kernel for short rows yet.

    Args:
      asked: `auto`, `xla` or `fused`.
      platform: platform of the devices: "tpu", "gpu" or "cpu".
      architecture: the encoder.
      dtype: compute dtype.
      attention_dropout: probability of dropping attention probabilities.
      second_derivatives: whether something differentiates a gradient, as VAT does.

    Raises:
      ValueError: `fused` is asked for where it is not available; the message says why.
    """
    if asked == "xla":
        return XLA, ""
    fused = AttentionOn("fused", platform)
    reasons = {
        "second derivatives are needed, and the fused kernels have first derivatives only": second_derivatives,
        f"{platform} devices have no fused kernel": platform not in ("tpu", "gpu"),
        f"the hidden size {architecture.hidden_size} is not a multiple of 128, the width of a TPU register": (
            platform == "tpu" and architecture.hidden_size % 128 != 0
        ),
        f"cuDNN's kernel takes no heads of {architecture.head_dim} dimensions": (
            platform == "gpu" and (architecture.head_dim % 8 != 0 or architecture.head_dim > 128)
        ),
        f"cuDNN's kernel takes no {dtype}": platform == "gpu" and dtype != "bfloat16",
        "cuDNN's kernel is used without dropout of attention probabilities": platform == "gpu"
        and attention_dropout > 0,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), "")
    if asked == "fused":
        if reason:
            raise ValueError(f"attention 'fused' is not available: {reason}; use 'auto' or 'xla'")
        return fused, ""
    return (fused, "") if platform == "tpu" and not reason else (XLA, reason if platform == "tpu" else "")


def _xla(
    qkv: Float[Array, "batch length qkv"],
    texts: Texts,
    heads: int,
    dropout_rate: float,
    key: Key[Array, ""] | None,
) -> Float[Array, "batch length hidden"]:
    batch, length, width = qkv.shape
    dim = width // 3 // heads
    q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, dim), (2, 3), (0, 2))
    attended = texts[:, None] if texts.dtype == jnp.bool_ else texts[:, :, None] == texts[:, None, :]
    scores = matmul_transposed(q / math.sqrt(dim), k, jnp.float32)
    probabilities = jax.nn.softmax(jnp.where(attended[:, None], scores, _NEVER))
    probabilities = dropout(probabilities, dropout_rate, key).astype(qkv.dtype)
    return jnp.swapaxes(matmul(probabilities, v), 1, 2).reshape(batch, length, -1)


def _cudnn(qkv: Float[Array, "batch length qkv"], texts: Texts, heads: int) -> Float[Array, "batch length hidden"]:
    """Return attention by cuDNN's kernel, on even lengths and with a whole mask [batch, 1, length, length].

    The kernel failed with a mask of [batch, 1, 1, length] (jax issue 28974).
    """
    batch, length, _ = qkv.shape
    ids = jnp.where(texts, 0, -1) if texts.dtype == jnp.bool_ else texts
    missing = length % 2
    qkv = jnp.pad(qkv, [(0, 0), (0, missing), (0, 0)])
    ids = jnp.pad(ids, [(0, 0), (0, missing)], constant_values=-1)
    q, k, v = jnp.moveaxis(qkv.reshape(batch, length + missing, 3, heads, -1), 2, 0)
    mask = (ids[:, :, None] == ids[:, None, :])[:, None]
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    return out.reshape(batch, length + missing, -1)[:, :length]
