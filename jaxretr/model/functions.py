"""Pure functions of (parameters, inputs, key), which training, retrieval, evaluation and attacks all call.

Input: an `Architecture` and how to compute (dtype, rematerialization, dropout). Output: `EncoderFunctions`. Parameters
are a plain nested dict of float32 arrays that does not depend on how to compute: one dict serves training with dropout
and encoding in bfloat16.

    encoder = functions(architecture, dtype=jnp.bfloat16)
    params = init_params(architecture, jax.random.key(0))
    embeddings = encoder.encode_ids(params, ids, mask)
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import XLA, AttentionOn, resolve_attention
from jaxretr.model.encoder import Remat, Transformer
from jaxretr.types import Packing

Params = dict[str, Any]
"""Nested dict of arrays; the leaves of `params["layers"]` have a leading `layers` axis."""


@dataclass(frozen=True)
class EncoderFunctions:
    """An encoder without its parameters. It is hashable, so functions may close over it or take it as a static
    argument.

    Attributes:
      architecture: determines the shapes of the parameters.
      dtype: name of the compute dtype.
      remat: what the backward pass recomputes, see `Transformer`.
      dropout_rate: replaces both dropout rates of the architecture unless None. Without a key there is no dropout.
      attention: implementation of attention, see `jaxretr.model.attention`.
    """

    architecture: Architecture
    dtype: str
    remat: Remat
    dropout_rate: float | None
    attention: AttentionOn = XLA

    def embed_tokens(self, params: Params, ids: Int[Array, "batch length"]) -> Float32[Array, "batch length hidden"]:
        """Return the word embeddings of token ids, before position, token type and LayerNorm."""
        return self._module(params).embed_tokens(ids)

    def encode(
        self,
        params: Params,
        embeds: Float[Array, "batch length hidden"],
        mask: Bool[Array, "batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float32[Array, "batch dim"]:
        """Return unit sentence embeddings from word embeddings.

        Args:
          params: parameters of `architecture`.
          embeds: word embeddings as `embed_tokens` returns them.
          mask: True for real tokens. A row without real tokens is batch padding: its embedding and its gradients are
            zero.
          key: dropout key; None encodes deterministically. Equal keys drop equal entries.

        Raises:
          ValueError: traced with more tokens than the model has positions.
        """
        return self._module(params).encode(embeds, mask, key)

    def encode_ids(
        self,
        params: Params,
        ids: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float32[Array, "batch dim"]:
        """Return unit sentence embeddings from token ids: `encode` of `embed_tokens`."""
        return self.encode(params, self.embed_tokens(params, ids), mask, key)

    def encode_packed(
        self,
        params: Params,
        embeds: Sequence[Float[Array, "_ _ hidden"]],
        masks: Sequence[Bool[Array, "_ _"]],
        packing: Packing,
        key: Key[Array, ""] | None = None,
    ) -> list[Float32[Array, "_ dim"]]:
        """Return what `encode` returns for each batch of texts, without computing on the padding of the batches.

        Args:
          params: parameters of `architecture`.
          embeds, masks: as for `encode`, for one or several batches; each batch is right-padded to its own length.
          packing: assignment of the texts to shared rows.
          key: dropout key; it drops different entries than the same key does in `encode`.

        Raises:
          ValueError: traced with rows longer than the model has positions.
        """
        return self._module(params).encode_packed(embeds, masks, packing, key)

    def normalize_embeds(
        self, params: Params, embeds: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length hidden"]:
        """Return the input of the first layer, in the compute dtype: position and token type added, then LayerNorm.

        ModernBERT has neither position nor token type here, only LayerNorm.
        """
        module = self._module(params)
        return module.normalize_embeds(embeds, module.positions(mask))

    def encode_normalized(
        self, params: Params, normalized: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]
    ) -> Float32[Array, "batch dim"]:
        """Return unit sentence embeddings from the output of `normalize_embeds`: `encode` without its first step."""
        module = self._module(params)
        hidden = module.transform(normalized, mask, module.positions(mask))
        return module.normalize_pooled(module.pool(hidden, mask))

    def hidden_states(
        self,
        params: Params,
        embeds: Float[Array, "batch length hidden"],
        mask: Bool[Array, "batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the last layer's token vectors in the compute dtype, before pooling."""
        return self._module(params).hidden_states(embeds, mask, key)

    def pool(
        self, params: Params, hidden: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]
    ) -> Float32[Array, "batch dim"]:
        """Return one vector per text from its token vectors, dense head included, before normalization."""
        return self._module(params).pool(hidden, mask)

    def _module(self, params: Params) -> Transformer:
        return nnx.merge(_graph(self), params)


def functions(
    architecture: Architecture,
    *,
    dtype: DTypeLike = jnp.float32,
    remat: Remat = "none",
    dropout_rate: float | None = None,
    attention: AttentionOn = XLA,
) -> EncoderFunctions:
    """Return the pure functions of an encoder.

    Args:
      architecture: shapes, pooling and default dropout rates.
      dtype: compute dtype, float32 or bfloat16.
      remat: `none`, `dots` (recommended for training) or `full`, see `Transformer`.
      dropout_rate: one rate for hidden states and attention probabilities; None uses the architecture's two rates.
      attention: implementation of attention, see `jaxretr.model.attention.resolve_attention`.

    Raises:
      ValueError: the dtype or remat policy is not supported, or the rate is outside [0, 1).
    """
    name = jnp.dtype(dtype).name
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {name!r} is not supported; expected 'float32' or 'bfloat16'")
    if remat not in ("none", "dots", "full"):
        raise ValueError(f"remat {remat!r} is not supported; expected 'none', 'dots' or 'full'")
    if dropout_rate is not None and not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate is {dropout_rate}; expected 0 <= rate < 1")
    return EncoderFunctions(architecture, name, remat, dropout_rate, attention)


def local_functions(architecture: Architecture, *, dtype: DTypeLike, attention: str = "auto") -> EncoderFunctions:
    """Return the pure functions of an encoder with the attention that suits the devices of this process.

    Args:
      architecture: shapes and pooling.
      dtype: compute dtype, float32 or bfloat16.
      attention: "auto", "xla" or "fused", see `jaxretr.model.attention.resolve_attention`.

    Raises:
      ValueError: the dtype is not supported, or "fused" is requested but not available.
    """
    encoder = functions(architecture, dtype=dtype)
    device = jax.local_devices()[0]
    chosen, _ = resolve_attention(
        attention, device.platform, architecture, encoder.dtype, device_kind=device.device_kind
    )
    return dataclasses.replace(encoder, attention=chosen)


def init_params(architecture: Architecture, key: Key[Array, ""]) -> Params:
    """Return random float32 parameters: N(0, 0.02²) for tables and matrices, zero biases, unit LayerNorm scales."""
    return nnx.to_pure_dict(nnx.state(Transformer(architecture, rngs=nnx.Rngs(key))))


def param_shapes(architecture: Architecture) -> Params:
    """Return the tree of parameters as `jax.ShapeDtypeStruct`s, without allocating arrays."""
    return jax.eval_shape(lambda: init_params(architecture, jax.random.key(0)))


@lru_cache(maxsize=32)
def _graph(encoder: EncoderFunctions) -> nnx.GraphDef[Transformer]:
    architecture = encoder.architecture
    if (rate := encoder.dropout_rate) is not None:
        architecture = dataclasses.replace(architecture, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    abstract = nnx.eval_shape(
        lambda: Transformer(architecture, jnp.dtype(encoder.dtype), encoder.remat, encoder.attention, rngs=nnx.Rngs(0))
    )
    return nnx.split(abstract)[0]
