"""Multi-head self-attention between projections, by one of several implementations.

Input: queries, keys and values of all heads side by side, [batch, length, 3 × hidden], and which positions attend to
each other. Output: [batch, length, hidden].

| implementation | |
|---|---|
| `xla` | plain matrix products and a softmax; every device, dtype and derivative, and windows |
| `fused` | one kernel on TPU (`jaxretr.model.fused_attention`), cuDNN on GPU; first derivatives only, no windows |
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key

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
"""Name of the output of fused attention, which the backward pass keeps. For rows of one block, it then does not run the
kernel again."""

Texts = Bool[Array, "batch length"] | Int[Array, "batch length"]
"""Which positions attend to each other: a mask of real tokens, to which all positions attend; or, in rows that several
texts share, the text of each position (-1 for padding), and each text attends to itself."""

NEVER = np.float32(np.finfo(np.float32).min)
"""Stands for -inf in scores: it is finite, so rows without a real token stay finite."""


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zero entries with probability `rate` and scale the others by 1 / (1 - `rate`); the identity without a key.

    One random byte decides about each entry, so `rate` is rounded to a multiple of 1/256. Drawing random numbers is the
    main cost of dropout, and bytes take a fifth of the time of `jax.random.bernoulli`'s floats.
    """
    dropped = dropped_of_256(rate)
    if key is None or dropped == 0:
        return x
    words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
    bytes_ = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(bytes_ >= dropped, x * (256 / (256 - dropped)), 0)


def dropped_of_256(rate: float) -> int:
    """Return the dropped share of a dropout rate in 256ths; at least one entry of 256 is kept."""
    return min(255, round(256 * rate))


def attend(
    implementation: Attention,
    platform: str,
    qkv: Float[Array, "batch length qkv"],
    texts: Texts,
    heads: int,
    dropout_rate: float,
    key: Key[Array, ""] | None,
    window: Bool[Array, "#batch length length"] | None = None,
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
      window: pairs of positions that are near enough to attend to each other; None for all. Only `xla` has windows.

    Raises:
      ValueError: a fused kernel is asked for a window, or cuDNN's kernel to drop probabilities.
    """
    if implementation == "xla":
        return _xla(qkv, texts, heads, dropout_rate, key, window)
    if window is not None:
        raise ValueError("the fused kernels do not compute attention within a window; use 'xla'")
    if platform == "gpu":
        if key is not None and dropped_of_256(dropout_rate):
            raise ValueError(
                f"cuDNN's kernel does not drop attention probabilities, but the rate is {dropout_rate}; use 'xla', or "
                "train without dropout"
            )
        return _cudnn(qkv, _ids(texts), heads)
    from jaxretr.model.fused_attention import fused_attention  # importing Pallas takes a third of a second

    seed = None if key is None else jax.random.bits(key, (), jnp.uint32)
    return fused_attention(qkv, _ids(texts), heads, dropout_rate=dropout_rate, seed=seed, interpret=platform == "cpu")


def resolve_attention(
    asked: str,
    platform: str,
    architecture: Architecture,
    dtype: str,
    *,
    device_kind: str = "",
    attention_dropout: float = 0.0,
    second_derivatives: bool = False,
) -> tuple[AttentionOn, str]:
    """Return the implementation to use, and the reason if `auto` falls back to `xla` on a TPU (otherwise "").

    `auto` is the fused kernel on TPU. On GPU it is `xla`: cuDNN's kernel has not been measured on short rows yet.

    Args:
      asked: `auto`, `xla` or `fused`.
      platform: platform of the devices: "tpu", "gpu" or "cpu".
      architecture: the encoder.
      dtype: compute dtype.
      device_kind: kind of the devices, as JAX names it, such as "TPU v4".
      attention_dropout: probability of dropping attention probabilities.
      second_derivatives: whether something differentiates a gradient, as VAT does.

    Raises:
      ValueError: `fused` is requested but not available; the message says why.
    """
    if asked == "xla":
        return XLA, ""
    reasons = {
        f"some layers attend to at most {architecture.attention_reach} tokens on each side, and the fused kernels have "
        "no windows": architecture.attention_reach is not None,
        "second derivatives are needed, and the fused kernels have first derivatives only": second_derivatives,
        "a TPU v4 core has only 16 MiB of scratch memory": "v4" in device_kind,
        f"{platform} devices have no fused kernel": platform not in ("tpu", "gpu"),
        f"the hidden size {architecture.hidden_size} is not a multiple of 128, the width of a TPU register": (
            platform == "tpu" and architecture.hidden_size % 128 != 0
        ),
        f"cuDNN's kernel does not support heads of {architecture.head_dim} dimensions": (
            platform == "gpu" and (architecture.head_dim % 8 != 0 or architecture.head_dim > 128)
        ),
        f"cuDNN's kernel does not support {dtype}": platform == "gpu" and dtype != "bfloat16",
        "cuDNN's kernel is used without dropout of attention probabilities": platform == "gpu"
        and attention_dropout > 0,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), "")
    if asked == "auto" and platform != "tpu":
        return XLA, ""
    if not reason:
        return AttentionOn("fused", platform), ""
    if asked == "fused":
        raise ValueError(f"attention 'fused' is not available: {reason}; use 'auto' or 'xla'")
    return XLA, reason


def _ids(texts: Texts) -> Int32[Array, "batch length"]:
    """Return the text of each position; a mask has one text per row, and -1 for padding."""
    return (jnp.where(texts, 0, -1) if texts.dtype == jnp.bool_ else texts).astype(jnp.int32)


def _xla(
    qkv: Float[Array, "batch length qkv"],
    texts: Texts,
    heads: int,
    dropout_rate: float,
    key: Key[Array, ""] | None,
    window: Bool[Array, "#batch length length"] | None,
) -> Float[Array, "batch length hidden"]:
    batch, length, width = qkv.shape
    dim = width // 3 // heads
    q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, dim), (2, 3), (0, 2))
    attended = texts[:, None] if texts.dtype == jnp.bool_ else texts[:, :, None] == texts[:, None, :]
    if window is not None:
        attended = attended & window
    scores = matmul_transposed(q / math.sqrt(dim), k, jnp.float32)
    probabilities = jax.nn.softmax(jnp.where(attended[:, None], scores, NEVER))
    probabilities = dropout(probabilities, dropout_rate, key).astype(qkv.dtype)
    return jnp.swapaxes(matmul(probabilities, v), 1, 2).reshape(batch, length, -1)


def _cudnn(
    qkv: Float[Array, "batch length qkv"], ids: Int32[Array, "batch length"], heads: int
) -> Float[Array, "batch length hidden"]:
    """Return attention by cuDNN's kernel, on even lengths and with a whole mask [batch, 1, length, length].

    The kernel failed with a mask of [batch, 1, 1, length] (jax issue 28974).
    """
    batch, length, _ = qkv.shape
    missing = length % 2
    qkv = jnp.pad(qkv, [(0, 0), (0, missing), (0, 0)])
    ids = jnp.pad(ids, [(0, 0), (0, missing)], constant_values=-1)
    q, k, v = jnp.moveaxis(qkv.reshape(batch, length + missing, 3, heads, -1), 2, 0)
    mask = (ids[:, :, None] == ids[:, None, :])[:, None]
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    return out.reshape(batch, length + missing, -1)[:, :length]
