"""Modules that encoders of every family are made of: linear layers, LayerNorm, self-attention, GELU.

Input and output: token vectors [batch, length, hidden]. Matrix products are computed in the compute dtype; biases are
added, and statistics and activations computed, in float32. The modules hold no state besides parameters. A family of
encoders (`jaxretr.model.families`) arranges them into layers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Key

from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import OUTPUT as ATTENTION_OUTPUT
from jaxretr.model.attention import AttentionOn, Texts, attend
from jaxretr.model.matmul import matmul
from jaxretr.model.rotary import Rotary, near, rotate

INIT = nnx.initializers.normal(0.02)
"""Initial values of tables and matrices."""


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


def split_key(key: Key[Array, ""] | None, count: int) -> Key[Array, " count"] | list[None]:
    """Return `count` keys, or as many times None without a key."""
    return [None] * count if key is None else jax.random.split(key, count)


class Linear(nnx.Linear):
    """A linear layer. The bias is added in float32, and its gradient is summed in float32."""

    def __init__(self, inputs: int, outputs: int, dtype: DTypeLike, *, use_bias: bool = True, rngs: nnx.Rngs):
        super().__init__(inputs, outputs, use_bias=use_bias, dtype=dtype, kernel_init=INIT, rngs=rngs)

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)  # CPUs sum over one axis faster than over two
        y = matmul(rows, self.kernel[...].astype(self.dtype))
        if self.bias is not None:
            y = (y.astype(jnp.float32) + self.bias[...]).astype(self.dtype)
        return y.reshape(*x.shape[:-1], -1)


class SelfAttention(nnx.Module):
    """Bidirectional multi-head self-attention; one weight matrix projects to queries, keys and values together."""

    def __init__(
        self,
        architecture: Architecture,
        dtype: DTypeLike,
        attention: AttentionOn,
        *,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        a = architecture
        self.architecture = a
        self.attention = attention
        self.qkv = Linear(a.hidden_size, 3 * a.hidden_size, dtype, use_bias=use_bias, rngs=rngs)
        self.output = Linear(a.hidden_size, a.hidden_size, dtype, use_bias=use_bias, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length hidden"],
        texts: Texts,
        key: Key[Array, ""] | None,
        rotary: Rotary | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Return the output of attention, before dropout.

        Args:
          x: input of the projections.
          texts: which positions attend to each other.
          key: dropout key of the attention probabilities; None for no dropout.
          rotary: rotates queries and keys, and limits how far a position attends; None for neither.
        """
        a = self.architecture
        qkv, window = self.qkv(x), None
        if rotary is not None:
            qkv, window = rotate(qkv, rotary, a.num_attention_heads), near(rotary)
        attended = attend(
            *self.attention, qkv, texts, a.num_attention_heads, a.attention_probs_dropout_prob, key, window
        )
        if self.attention.implementation != "xla":
            attended = checkpoint_name(attended, ATTENTION_OUTPUT)
        return self.output(attended)


def layer_norm(architecture: Architecture, dtype: DTypeLike, *, use_bias: bool = True, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return the LayerNorm of token vectors.

    The fast variance, E[x²] - E[x]², loses precision if the mean is large. XLM-R's outlier dimensions make it large.
    """
    return nnx.LayerNorm(
        architecture.hidden_size,
        epsilon=architecture.layer_norm_eps,
        use_bias=use_bias,
        dtype=dtype,
        use_fast_variance=False,
        rngs=rngs,
    )
