"""The transformer encoder of the XLM-R and BERT families as Flax NNX modules.

Input: word embeddings (or token ids) and a mask of the real tokens. Output: hidden states, and pooled and normalized
sentence embeddings. The layers' parameters are stacked along a leading `layers` axis and applied by `jax.lax.scan`, so
compile time does not grow with depth. The modules hold no state besides parameters: dropout is a pure function of the
key passed to the call, and without a key there is no dropout.

`jaxretr.model.functions` wraps these modules into the pure functions that all other code calls.
"""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import NEVER, XLA, AttentionOn, Texts, attend, dropout
from jaxretr.model.attention import OUTPUT as ATTENTION_OUTPUT
from jaxretr.model.matmul import matmul
from jaxretr.types import Packing

Remat = Literal["none", "dots", "full"]

_KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT),
)
"""With `remat="dots"`, the backward pass keeps products with weights and the output of fused attention."""
_INIT = nnx.initializers.normal(0.02)
_SMALLEST_NORM = 1e-12


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact Gaussian error linear unit, x Φ(x) (Hendrycks and Gimpel, arXiv 1606.08415).

    The derivative Φ(x) + x φ(x) is written out, which halves the cost of differentiating `jax.nn.gelu` on CPU.
    Intermediate values are float32, which halves the cost again for bfloat16 inputs.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    return 0.5 * (1 + jax.lax.erf(x * np.float32(math.sqrt(0.5))))


@gelu.defjvp
def _gelu_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * np.float32(math.sqrt(0.5 / math.pi))
    return gelu(x), tangent * (_normal_cdf(wide) + wide * density).astype(x.dtype)


def _split(key: Key[Array, ""] | None, count: int) -> Key[Array, " count"] | list[None]:
    return [None] * count if key is None else jax.random.split(key, count)


class Embeddings(nnx.Module):
    """Word, position and token-type embeddings: their sum, normalized."""

    def __init__(self, architecture: Architecture, dtype: DTypeLike, *, rngs: nnx.Rngs):
        a = architecture
        self.architecture = a
        self.dtype = dtype
        self.word = nnx.Embed(a.vocab_size, a.hidden_size, embedding_init=_INIT, rngs=rngs)
        self.position = nnx.Embed(a.max_position_embeddings, a.hidden_size, embedding_init=_INIT, rngs=rngs)
        self.token_type = nnx.Embed(a.type_vocab_size, a.hidden_size, embedding_init=_INIT, rngs=rngs)
        self.norm = _layer_norm(a, jnp.float32, rngs)

    def __call__(
        self,
        embeds: Float[Array, "batch length hidden"],
        positions: Int[Array, "batch length"],
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length hidden"]:
        length = positions.shape[1]
        if length > self.architecture.max_length:
            raise ValueError(
                f"a batch of {length} tokens is longer than the model's {self.architecture.max_length} positions; "
                "truncate the texts to that many tokens"
            )
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


class Linear(nnx.Linear):
    """A linear layer. The bias is added in float32, and its gradient is summed in float32."""

    def __init__(self, inputs: int, outputs: int, dtype: DTypeLike, *, rngs: nnx.Rngs):
        super().__init__(inputs, outputs, dtype=dtype, kernel_init=_INIT, rngs=rngs)

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)  # CPUs sum over one axis faster than over two
        y = matmul(rows, self.kernel[...].astype(self.dtype)).astype(jnp.float32) + self.bias[...]
        return y.astype(self.dtype).reshape(*x.shape[:-1], -1)


class SelfAttention(nnx.Module):
    """Bidirectional multi-head self-attention; one weight matrix projects to queries, keys and values together."""

    def __init__(self, architecture: Architecture, dtype: DTypeLike, attention: AttentionOn, *, rngs: nnx.Rngs):
        a = architecture
        self.architecture = a
        self.attention = attention
        self.qkv = Linear(a.hidden_size, 3 * a.hidden_size, dtype, rngs=rngs)
        self.output = Linear(a.hidden_size, a.hidden_size, dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch length hidden"], texts: Texts, key: Key[Array, ""] | None
    ) -> Float[Array, "batch length hidden"]:
        a = self.architecture
        attended = attend(
            *self.attention, self.qkv(x), texts, a.num_attention_heads, a.attention_probs_dropout_prob, key
        )
        if self.attention.implementation != "xla":
            attended = checkpoint_name(attended, ATTENTION_OUTPUT)
        return self.output(attended)


class Layer(nnx.Module):
    """One transformer block: attention and feed-forward network, each followed by residual connection and LayerNorm."""

    def __init__(self, architecture: Architecture, dtype: DTypeLike, attention: AttentionOn, *, rngs: nnx.Rngs):
        a = architecture
        self.dropout_rate = a.hidden_dropout_prob
        self.attention = SelfAttention(a, dtype, attention, rngs=rngs)
        self.attention_norm = _layer_norm(a, dtype, rngs)
        self.ffn_in = Linear(a.hidden_size, a.intermediate_size, dtype, rngs=rngs)
        self.ffn_out = Linear(a.intermediate_size, a.hidden_size, dtype, rngs=rngs)
        self.ffn_norm = _layer_norm(a, dtype, rngs)

    def __call__(
        self,
        x: Float[Array, "batch length hidden"],
        texts: Texts,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch length hidden"]:
        probabilities_key, attention_key, ffn_key = _split(key, 3)
        attention_output = self.attention(x, texts, probabilities_key)
        x = self.attention_norm(x + dropout(attention_output, self.dropout_rate, attention_key))
        transformed = self.ffn_out(gelu(self.ffn_in(x)))
        return self.ffn_norm(x + dropout(transformed, self.dropout_rate, ffn_key))


class Transformer(nnx.Module):
    """The complete encoder, from token ids to unit sentence embeddings.

    Args:
      architecture: shapes, dropout rates and pooling.
      dtype: compute dtype of the matrix products (float32 or bfloat16). Parameters, softmax, LayerNorm statistics,
        pooling and normalization are always float32.
      remat: what the backward pass recomputes: `none`; `dots`, everything except the matrix products with weights (the
        fastest on CPU, where memory traffic costs more than arithmetic); `full`, everything inside a layer.
      attention: implementation of attention, and the platform it runs on.
    """

    def __init__(
        self,
        architecture: Architecture,
        dtype: DTypeLike = jnp.float32,
        remat: Remat = "none",
        attention: AttentionOn = XLA,
        *,
        rngs: nnx.Rngs,
    ):
        self.architecture = architecture
        self.remat = remat
        self.embeddings = Embeddings(architecture, dtype, rngs=rngs)
        self.layers = nnx.vmap(lambda rngs: Layer(architecture, dtype, attention, rngs=rngs))(
            rngs.split(architecture.num_hidden_layers)
        )
        if architecture.dense_head:
            self.dense_head = nnx.Linear(*architecture.dense_head, kernel_init=_INIT, rngs=rngs)

    def embed_tokens(self, ids: Int[Array, "batch length"]) -> Float32[Array, "batch length hidden"]:
        """Return the word embeddings alone: without position, token type and LayerNorm."""
        return self.embeddings.word(ids)

    def normalize_embeds(
        self,
        embeds: Float[Array, "batch length hidden"],
        mask: Bool[Array, "batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the input of the first layer: word, position and token-type embeddings added, then LayerNorm."""
        return self.embeddings(embeds, self.embeddings.positions(mask), key)

    def transform(
        self,
        x: Float[Array, "batch length hidden"],
        texts: Texts,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the last layer's token vectors; the vectors of padding have no meaning.

        Args:
          x: input of the first layer, see `normalize_embeds`.
          texts: which positions attend to each other.
          key: dropout key; None for no dropout.
        """
        graph, parameters = nnx.split(self.layers)

        def step(x, layer):  # type: ignore[no-untyped-def]
            parameters, key = layer
            return nnx.merge(graph, parameters)(x, texts, key), None

        if self.remat != "none":
            policy = _KEPT if self.remat == "dots" else None
            step = jax.checkpoint(step, policy=policy)
        keys = None if key is None else jax.random.split(key, self.architecture.num_hidden_layers)
        return jax.lax.scan(step, x, (parameters, keys))[0]

    def hidden_states(
        self,
        embeds: Float[Array, "batch length hidden"],
        mask: Bool[Array, "batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the last layer's token vectors; the vectors of padding are finite but have no meaning."""
        embeddings_key, layers_key = _split(key, 2)
        return self.transform(self.normalize_embeds(embeds, mask, embeddings_key), mask, layers_key)

    def pool(
        self, hidden: Float[Array, "batch length hidden"], mask: Bool[Array, "batch length"]
    ) -> Float32[Array, "batch dim"]:
        """Return one vector per text, before normalization. Rows without a real token (batch padding) give zero."""
        hidden = hidden.astype(jnp.float32)
        real = mask[:, :, None]
        match self.architecture.pooling:
            case "mean":
                pooled = jnp.sum(hidden * real, axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1)
            case "cls":
                pooled = hidden[:, 0]
            case "max":
                pooled = jnp.max(jnp.where(real, hidden, NEVER), axis=1)
        if self.architecture.dense_head:
            pooled = jnp.tanh(self.dense_head(pooled))
        return jnp.where(mask.any(axis=1, keepdims=True), pooled, 0)

    def normalize_pooled(self, pooled: Float32[Array, "batch dim"]) -> Float32[Array, "batch dim"]:
        """Scale vectors to unit length; zero stays zero."""
        squared_norm = jnp.sum(pooled * pooled, axis=1, keepdims=True)
        return pooled * jax.lax.rsqrt(jnp.maximum(squared_norm, _SMALLEST_NORM**2))

    def encode(
        self,
        embeds: Float[Array, "batch length hidden"],
        mask: Bool[Array, "batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float32[Array, "batch dim"]:
        """Return sentence embeddings of unit length; zero for rows without a real token."""
        return self.normalize_pooled(self.pool(self.hidden_states(embeds, mask, key), mask))

    def encode_packed(
        self,
        embeds: Sequence[Float[Array, "_ _ hidden"]],
        masks: Sequence[Bool[Array, "_ _"]],
        packing: Packing,
        key: Key[Array, ""] | None = None,
    ) -> list[Float32[Array, "_ dim"]]:
        """Return what `encode` returns for each batch of texts, computed on rows that several texts share."""
        embeddings_key, layers_key = _split(key, 2)
        text, start = packing
        # Padding gathers an arbitrary token; no real token attends to padding.
        place = jnp.where(text >= 0, jnp.arange(text.size).reshape(text.shape) - start[text], -1)
        lengths = np.repeat([mask.shape[1] for mask in masks], [len(mask) for mask in masks])
        first = jnp.asarray(np.cumsum(lengths) - lengths, jnp.int32)
        tokens = jnp.concatenate([side.reshape(-1, side.shape[-1]) for side in embeds])
        packed = tokens[first[text] + place]

        x = self.embeddings(packed, self.embeddings.packed_positions(place), embeddings_key)
        hidden = self.transform(x, text, layers_key).reshape(text.size, -1)

        starts = jnp.split(start, np.cumsum([len(mask) for mask in masks])[:-1])
        pooled = [
            self.pool(hidden[begin[:, None] + jnp.arange(mask.shape[1])], mask)
            for begin, mask in zip(starts, masks, strict=True)
        ]
        return [self.normalize_pooled(side) for side in pooled]


def _layer_norm(architecture: Architecture, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, E[x²] - E[x]², loses precision if the mean is large. XLM-R's outlier dimensions make it large.
    return nnx.LayerNorm(
        architecture.hidden_size, epsilon=architecture.layer_norm_eps, dtype=dtype, use_fast_variance=False, rngs=rngs
    )
