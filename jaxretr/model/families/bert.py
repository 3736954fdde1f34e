"""Encoders of the XLM-R and BERT families: post-norm layers, and learned embeddings of positions and token types."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import AttentionOn, Texts, dropout
from jaxretr.model.families.interface import Family, Scan
from jaxretr.model.layers import INIT, Linear, SelfAttention, gelu, layer_norm, split_key

_UNUSED = re.compile(r"(pooler|lm_head|cls)\.|embeddings\.(position_ids|token_type_ids)$")


class Embeddings(nnx.Module):
    """Word, position and token-type embeddings: their sum, normalized."""

    def __init__(self, architecture: Architecture, dtype: DTypeLike, *, rngs: nnx.Rngs):
        a = architecture
        self.architecture = a
        self.dtype = dtype
        self.word = nnx.Embed(a.vocab_size, a.hidden_size, embedding_init=INIT, rngs=rngs)
        self.position = nnx.Embed(a.max_position_embeddings, a.hidden_size, embedding_init=INIT, rngs=rngs)
        self.token_type = nnx.Embed(a.type_vocab_size, a.hidden_size, embedding_init=INIT, rngs=rngs)
        self.norm = layer_norm(a, jnp.float32, rngs=rngs)

    def __call__(
        self,
        embeds: Float[Array, "batch length hidden"],
        positions: Int[Array, "batch length"],
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length hidden"]:
        x = embeds + self.position(positions) + self.token_type.embedding[0]
        return dropout(self.norm(x), self.architecture.hidden_dropout_prob, key).astype(self.dtype)

    def positions(self, mask: Bool[Array, "batch length"]) -> Int[Array, "batch length"]:
        """Return the position ids: 0, 1, 2, … for BERT.

        For XLM-R, real tokens count up from `pad_token_id` + 1, and padding gets `pad_token_id`.
        """
        if self.architecture.model_type == "bert":
            return jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        return jnp.cumsum(mask, axis=1) * mask + self.architecture.pad_token_id

    def packed_positions(self, place: Int[Array, "rows row_length"]) -> Int[Array, "rows row_length"]:
        """Return the position ids of packed rows.

        Args:
          place: index of each token in its text, 0, 1, 2, …; -1 for padding.
        """
        if self.architecture.model_type == "bert":
            return jnp.maximum(place, 0)
        return place + 1 + self.architecture.pad_token_id


class Layer(nnx.Module):
    """One transformer block: attention and feed-forward network, each followed by residual connection and LayerNorm."""

    def __init__(self, architecture: Architecture, dtype: DTypeLike, attention: AttentionOn, *, rngs: nnx.Rngs):
        a = architecture
        self.dropout_rate = a.hidden_dropout_prob
        self.attention = SelfAttention(a, dtype, attention, rngs=rngs)
        self.attention_norm = layer_norm(a, dtype, rngs=rngs)
        self.ffn_in = Linear(a.hidden_size, a.intermediate_size, dtype, rngs=rngs)
        self.ffn_out = Linear(a.intermediate_size, a.hidden_size, dtype, rngs=rngs)
        self.ffn_norm = layer_norm(a, dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length hidden"],
        texts: Texts,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length hidden"]:
        probabilities_key, attention_key, ffn_key = split_key(key, 3)
        attention_output = self.attention(x, texts, probabilities_key)
        x = self.attention_norm(x + dropout(attention_output, self.dropout_rate, attention_key))
        transformed = self.ffn_out(gelu(self.ffn_in(x)))
        return self.ffn_norm(x + dropout(transformed, self.dropout_rate, ffn_key))


def transform(
    architecture: Architecture,
    scan: Scan,
    x: Float[Array, "batch length hidden"],
    texts: Texts,
    positions: Int[Array, "#batch length"],
) -> Float[Array, "batch length hidden"]:
    """Apply the layers. Positions are part of their input, so the layers do not need them."""
    return scan(lambda layer, x, key, _: layer(x, texts, key), x)


def checkpoint_views(architecture: Architecture, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return a view of `params` per tensor name of `XLMRobertaModel` and `BertModel`."""
    embeddings, layers = params["embeddings"], params["layers"]
    views = {
        "embeddings.word_embeddings.weight": embeddings["word"]["embedding"],
        "embeddings.position_embeddings.weight": embeddings["position"]["embedding"],
        "embeddings.token_type_embeddings.weight": embeddings["token_type"]["embedding"],
        "embeddings.LayerNorm.weight": embeddings["norm"]["scale"],
        "embeddings.LayerNorm.bias": embeddings["norm"]["bias"],
    }
    linears = {
        "attention.output.dense": layers["attention"]["output"],
        "intermediate.dense": layers["ffn_in"],
        "output.dense": layers["ffn_out"],
    }
    norms = {"attention.output.LayerNorm": layers["attention_norm"], "output.LayerNorm": layers["ffn_norm"]}
    qkv, hidden = layers["attention"]["qkv"], architecture.hidden_size
    for i in range(architecture.num_hidden_layers):
        prefix = f"encoder.layer.{i}."
        for part, name in enumerate(("query", "key", "value")):
            columns = slice(part * hidden, (part + 1) * hidden)
            views[f"{prefix}attention.self.{name}.weight"] = qkv["kernel"][i, :, columns].T
            views[f"{prefix}attention.self.{name}.bias"] = qkv["bias"][i, columns]
        for name, linear in linears.items():
            views[f"{prefix}{name}.weight"] = linear["kernel"][i].T
            views[f"{prefix}{name}.bias"] = linear["bias"][i]
        for name, norm in norms.items():
            views[f"{prefix}{name}.weight"] = norm["scale"][i]
            views[f"{prefix}{name}.bias"] = norm["bias"][i]
    return views


def tensor_name(stored: str) -> str | None:
    """Return a tensor's name without the prefix of a model with a head, in the current spelling of LayerNorm."""
    name = re.sub(r"^(roberta|bert)\.", "", stored)
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return None if _UNUSED.match(name) else name


BERT = Family(Architecture, Embeddings, Layer, transform, checkpoint_views, tensor_name)
