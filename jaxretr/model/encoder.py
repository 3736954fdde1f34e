"""The transformer encoder as a Flax NNX module, for every family of `jaxretr.model.families`.

Input: word embeddings (or token ids) and a mask of the real tokens. Output: hidden states, and pooled and normalized
sentence embeddings. The layers' parameters are stacked along a leading `layers` axis and applied by `jax.lax.scan`, so
compile time does not grow with depth. The modules hold no state besides parameters: dropout is a pure function of the
key passed to the call, and without a key there is no dropout.

`jaxretr.model.functions` wraps these modules into the pure functions that all other code calls.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import NEVER, XLA, AttentionOn, Texts
from jaxretr.model.attention import OUTPUT as ATTENTION_OUTPUT
from jaxretr.model.families import family_of
from jaxretr.model.layers import INIT, split_key
from jaxretr.types import Packing

Remat = Literal["none", "dots", "full"]

_KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(ATTENTION_OUTPUT),
)
"""With `remat="dots"`, the backward pass keeps products with weights and the output of fused attention."""
_SMALLEST_NORM = 1e-12


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
        family = family_of(architecture.model_type)
        self.embeddings = family.embeddings(architecture, dtype, rngs=rngs)
        self.layers = nnx.vmap(lambda rngs: family.layer(architecture, dtype, attention, rngs=rngs))(
            rngs.split(architecture.num_hidden_layers)
        )
        if architecture.dense_head:
            self.dense_head = nnx.Linear(*architecture.dense_head, kernel_init=INIT, rngs=rngs)

    def embed_tokens(self, ids: Int[Array, "batch length"]) -> Float32[Array, "batch length hidden"]:
        """Return the word embeddings alone: without position, token type and LayerNorm."""
        return self.embeddings.word(ids)

    def normalize_embeds(
        self,
        embeds: Float[Array, "batch length hidden"],
        positions: Int[Array, "#batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the input of the first layer: position and token type added, if the family has them; LayerNorm."""
        length = positions.shape[1]
        if length > self.architecture.max_length:
            raise ValueError(
                f"a batch of {length} tokens is longer than the model's {self.architecture.max_length} positions; "
                "truncate the texts to that many tokens"
            )
        return self.embeddings(embeds, positions, key)

    def positions(self, mask: Bool[Array, "batch length"]) -> Int[Array, "#batch length"]:
        """Return the positions of a batch with one text per row."""
        return self.embeddings.positions(mask)

    def transform(
        self,
        x: Float[Array, "batch length hidden"],
        texts: Texts,
        positions: Int[Array, "#batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the last layer's token vectors; the vectors of padding have no meaning.

        Args:
          x: input of the first layer, see `normalize_embeds`.
          texts: which positions attend to each other.
          positions: positions as in `normalize_embeds`.
          key: dropout key; None for no dropout.
        """
        graph, parameters = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.architecture.num_hidden_layers)

        def scan(step: Callable[..., Any], state: Any, per_layer: Any = None) -> Any:
            def run(state, layer):  # type: ignore[no-untyped-def]
                parameters, key, constants = layer
                return step(nnx.merge(graph, parameters), state, key, constants), None

            if self.remat != "none":
                run = jax.checkpoint(run, policy=_KEPT if self.remat == "dots" else None)
            return jax.lax.scan(run, state, (parameters, keys, per_layer))[0]

        return family_of(self.architecture.model_type).transform(self.architecture, scan, x, texts, positions)

    def hidden_states(
        self,
        embeds: Float[Array, "batch length hidden"],
        mask: Bool[Array, "batch length"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the last layer's token vectors; the vectors of padding are finite but have no meaning."""
        embeddings_key, layers_key = split_key(key, 2)
        positions = self.positions(mask)
        return self.transform(self.normalize_embeds(embeds, positions, embeddings_key), mask, positions, layers_key)

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
        embeddings_key, layers_key = split_key(key, 2)
        text, start = packing
        # Padding gathers an arbitrary token; no real token attends to padding.
        place = jnp.where(text >= 0, jnp.arange(text.size).reshape(text.shape) - start[text], -1)
        lengths = np.repeat([mask.shape[1] for mask in masks], [len(mask) for mask in masks])
        first = jnp.asarray(np.cumsum(lengths) - lengths, jnp.int32)
        tokens = jnp.concatenate([side.reshape(-1, side.shape[-1]) for side in embeds])
        packed = tokens[first[text] + place]

        positions = self.embeddings.packed_positions(place)
        x = self.normalize_embeds(packed, positions, embeddings_key)
        hidden = self.transform(x, text, positions, layers_key).reshape(text.size, -1)

        starts = jnp.split(start, np.cumsum([len(mask) for mask in masks])[:-1])
        pooled = [
            self.pool(hidden[begin[:, None] + jnp.arange(mask.shape[1])], mask)
            for begin, mask in zip(starts, masks, strict=True)
        ]
        return [self.normalize_pooled(side) for side in pooled]
