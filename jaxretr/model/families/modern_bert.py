"""Encoders of the ModernBERT family (Warner et al. 2024, arXiv 2412.13663): mmBERT, granite-embedding r2.

Pre-norm layers without biases; rotary positions instead of a position table; a gated feed-forward network; and
attention within a window in most layers. `jaxretr.model.families.modern_bert_config` describes their shapes.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxretr.model.attention import AttentionOn, Texts, dropout
from jaxretr.model.families.interface import Family, Scan
from jaxretr.model.families.modern_bert_config import ModernBertArchitecture
from jaxretr.model.layers import INIT, Linear, SelfAttention, gelu, layer_norm, split_key
from jaxretr.model.rotary import Rotary, frequencies

_UNUSED = re.compile(r"(head|decoder|classifier)\.")


class Embeddings(nnx.Module):
    """Word embeddings, normalized."""

    def __init__(self, architecture: ModernBertArchitecture, dtype: DTypeLike, *, rngs: nnx.Rngs):
        a = architecture
        self.dropout_rate = a.hidden_dropout_prob
        self.dtype = dtype
        self.word = nnx.Embed(a.vocab_size, a.hidden_size, embedding_init=INIT, rngs=rngs)
        self.norm = layer_norm(a, jnp.float32, use_bias=False, rngs=rngs)

    def __call__(
        self,
        embeds: Float[Array, "batch length hidden"],
        positions: Int[Array, "#batch length"],
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the normalized embeddings; the layers, not the embeddings, depend on positions."""
        return dropout(self.norm(embeds), self.dropout_rate, key).astype(self.dtype)

    def positions(self, mask: Bool[Array, "batch length"]) -> Int[Array, "1 length"]:
        """Return the positions 0, 1, 2, …, the same in every row."""
        return jnp.arange(mask.shape[1])[None]

    def packed_positions(self, place: Int[Array, "rows row_length"]) -> Int[Array, "rows row_length"]:
        """Return the positions of packed rows, which start at 0 for each text.

        Args:
          place: index of each token in its text, 0, 1, 2, …; -1 for padding.
        """
        return jnp.maximum(place, 0)


class Layer(nnx.Module):
    """One transformer block: attention and gated feed-forward network, each added to its input.

    Each block normalizes its output for the block that follows. So `output_norm` of layer i is the `attn_norm` of layer
    i + 1 in a checkpoint, and that of the last layer is the `final_norm`. The first layer reads normalized embeddings
    and has no `attn_norm` of its own.
    """

    def __init__(
        self, architecture: ModernBertArchitecture, dtype: DTypeLike, attention: AttentionOn, *, rngs: nnx.Rngs
    ):
        a = architecture
        self.architecture = a
        self.attention = SelfAttention(a, dtype, attention, use_bias=False, rngs=rngs)
        self.ffn_norm = layer_norm(a, dtype, use_bias=False, rngs=rngs)
        self.ffn_in = Linear(a.hidden_size, 2 * a.intermediate_size, dtype, use_bias=False, rngs=rngs)
        self.ffn_out = Linear(a.intermediate_size, a.hidden_size, dtype, use_bias=False, rngs=rngs)
        self.output_norm = layer_norm(a, dtype, use_bias=False, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length hidden"],
        normalized: Float[Array, "batch length hidden"],
        texts: Texts,
        rotary: Rotary,
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "batch length hidden"], Float[Array, "batch length hidden"]]:
        """Return the sum of all blocks so far, and the same normalized."""
        a = self.architecture
        probabilities_key, attention_key, ffn_key = split_key(key, 3)
        attention_output = self.attention(normalized, texts, probabilities_key, rotary)
        x = x + dropout(attention_output, a.attention_probs_dropout_prob, attention_key)
        activated, gate = jnp.split(self.ffn_in(self.ffn_norm(x)), 2, axis=-1)
        activated = gelu(activated) if a.activation == "gelu" else _silu(activated)
        x = x + self.ffn_out(dropout(activated * gate, a.hidden_dropout_prob, ffn_key))
        return x, self.output_norm(x)


def _silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sigmoid linear unit x / (1 + exp(-x)), computed in float32."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def transform(
    architecture: ModernBertArchitecture,
    scan: Scan,
    x: Float[Array, "batch length hidden"],
    texts: Texts,
    positions: Int[Array, "#batch length"],
) -> Float[Array, "batch length hidden"]:
    """Apply the layers, each with its own rotary frequencies and reach."""
    a = architecture
    whole_text, window = (frequencies(theta, a.head_dim) for theta in (a.global_theta, a.local_theta))
    rotary_of_layers = (
        np.where(a.global_layers[:, None], whole_text, window),
        np.where(a.global_layers, a.max_position_embeddings, a.attention_reach).astype(np.int32),
    )

    def step(layer: Layer, state: Any, key: Key[Array, ""] | None, rotary_of_layer: tuple[Array, Array]) -> Any:
        x, normalized = state
        return layer(x, normalized, texts, Rotary(positions, *rotary_of_layer), key)

    return scan(step, (x, x), rotary_of_layers)[1]


def checkpoint_views(architecture: ModernBertArchitecture, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return a view of `params` per tensor name of `ModernBertModel`."""
    embeddings, layers = params["embeddings"], params["layers"]
    views = {
        "embeddings.tok_embeddings.weight": embeddings["word"]["embedding"],
        "embeddings.norm.weight": embeddings["norm"]["scale"],
    }
    linears = {
        "attn.Wqkv": layers["attention"]["qkv"],
        "attn.Wo": layers["attention"]["output"],
        "mlp.Wi": layers["ffn_in"],
        "mlp.Wo": layers["ffn_out"],
    }
    last = architecture.num_hidden_layers - 1
    for i in range(architecture.num_hidden_layers):
        for name, linear in linears.items():
            views[f"layers.{i}.{name}.weight"] = linear["kernel"][i].T
        views[f"layers.{i}.mlp_norm.weight"] = layers["ffn_norm"]["scale"][i]
        following = "final_norm" if i == last else f"layers.{i + 1}.attn_norm"
        views[f"{following}.weight"] = layers["output_norm"]["scale"][i]
    return views


def tensor_name(stored: str) -> str | None:
    """Return a tensor's name without the prefix of a model with a head."""
    name = stored.removeprefix("model.")
    return None if _UNUSED.match(name) else name


MODERN_BERT = Family(ModernBertArchitecture, Embeddings, Layer, transform, checkpoint_views, tensor_name)
