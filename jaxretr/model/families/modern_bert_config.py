"""`ModernBertArchitecture`: the shapes of a ModernBERT encoder, read from and written to `config.json`.

transformers 4 and 5 spell rotary bases and the order of layers differently. Both spellings are read and written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Bool

from jaxretr.model.architecture import Architecture, Pooling

Activation = Literal["gelu", "silu"]

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "pad_token_id",
)
_FULL, _SLIDING = "full_attention", "sliding_attention"
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "norm_bias": (False,),
    "hidden_activation": get_args(Activation),
    "position_embedding_type": ("absolute", "sans_pos"),  # published configs have these values, which have no effect
    "rope_scaling": (),
    "is_decoder": (False,),
}
"""Supported values of fields that may be absent or null."""


@dataclass(frozen=True)
class ModernBertArchitecture(Architecture):
    """A ModernBERT encoder.

    The inherited fields have the meanings of `Architecture`; `layer_norm_eps` is `norm_eps` of the config,
    `hidden_dropout_prob` its `embedding_dropout` and `mlp_dropout`, and `attention_probs_dropout_prob` its
    `attention_dropout`, which also applies to the output of attention.

    Attributes:
      type_vocab_size: 0, since there are no token types.
      activation: activation of the gated half of the feed-forward network.
      global_theta, local_theta: base of the rotary frequencies of layers that attend to the whole text, and of the
        others.
      global_every: layers 0, `global_every`, 2 · `global_every`, … attend to the whole text.
      window: `local_attention` of the config, in tokens: the other layers attend to window / 2 tokens on each side.
    """

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("modernbert",)

    type_vocab_size: int = field(default=0, kw_only=True)
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    activation: Activation = "gelu"
    global_theta: float = 160_000.0
    local_theta: float = 10_000.0
    global_every: int = 3
    window: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim % 2:
            raise ValueError(f"heads have {self.head_dim} dimensions; rotary positions need an even number")

    @property
    def weights_per_layer(self) -> int:
        """Number of entries of a layer's weight matrices: 4 hidden² + 3 hidden · ffn."""
        return 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size

    @property
    def attention_reach(self) -> int:
        """Half of `window`: layers with a window attend to this many tokens on each side."""
        return self.window // 2

    @property
    def global_layers(self) -> Bool[np.ndarray, " layers"]:
        """Which layers attend to the whole text."""
        return np.arange(self.num_hidden_layers) % self.global_every == 0

    @classmethod
    def from_hf_config(
        cls, config: Any, *, pooling: Pooling = "mean", dense_head: tuple[int, int] | None = None
    ) -> "ModernBertArchitecture":
        """Read a configuration in the spelling of transformers 4 or 5.

        Rotary bases are in `global_rope_theta` and `local_rope_theta`, or in `rope_parameters`. The order of layers is
        in `global_attn_every_n_layers` or in `layer_types`. The newer spelling takes precedence. Absent fields have the
        defaults of `ModernBertConfig`.

        Raises:
          ValueError: a size is missing, or a field has a value that these layers do not compute.
        """
        raw: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
        values = {name: value for name, value in raw.items() if value is not None}
        if missing := [name for name in _SIZES if name not in values]:
            raise ValueError(f"config of type 'modernbert' lacks {', '.join(missing)}")
        for name, supported in _SUPPORTED.items():
            if name in values and values[name] not in supported:
                expected = " or ".join(map(repr, supported)) or "none"
                raise ValueError(f"config has {name} {values[name]!r}; only {expected} is supported")
        rates = {name: values.get(name, 0.0) for name in ("embedding_dropout", "mlp_dropout")}
        if len({*rates.values()}) > 1:
            raise ValueError(f"config has the dropout rates {rates}; only equal rates are supported")
        window = values.get("local_attention", 128)
        if not isinstance(window, int) or window < 2:
            raise ValueError(f"config has local_attention {window!r}; expected a window of at least 2 tokens")
        head_dim = values["hidden_size"] // values["num_attention_heads"]
        if values.get("head_dim", head_dim) != head_dim:
            raise ValueError(
                f"config has head_dim {values['head_dim']}; only hidden_size / num_attention_heads is supported"
            )
        return cls(
            model_type="modernbert",
            **{name: values[name] for name in _SIZES},
            layer_norm_eps=values.get("norm_eps", 1e-5),
            hidden_dropout_prob=rates["mlp_dropout"],
            attention_probs_dropout_prob=values.get("attention_dropout", 0.0),
            pooling=pooling,
            dense_head=dense_head,
            activation=values.get("hidden_activation", "gelu"),
            global_theta=_theta(values, _FULL, "global_rope_theta", 160_000.0),
            local_theta=_theta(values, _SLIDING, "local_rope_theta", 10_000.0),
            global_every=_global_every(values),
            window=window,
        )

    def to_hf_config(self) -> dict[str, Any]:
        """Return the content of `config.json` in both spellings.

        The ids of special tokens are null: they are in the files of the tokenizer, and the encoder does not use them.
        """
        return {
            "architectures": ["ModernBertModel"],
            "model_type": self.model_type,
            **{name: getattr(self, name) for name in _SIZES},
            "norm_eps": self.layer_norm_eps,
            "embedding_dropout": self.hidden_dropout_prob,
            "mlp_dropout": self.hidden_dropout_prob,
            "attention_dropout": self.attention_probs_dropout_prob,
            "hidden_activation": self.activation,
            "attention_bias": False,
            "mlp_bias": False,
            "norm_bias": False,
            "local_attention": self.window,
            "global_attn_every_n_layers": self.global_every,
            "layer_types": [_FULL if whole else _SLIDING for whole in self.global_layers],
            "global_rope_theta": self.global_theta,
            "local_rope_theta": self.local_theta,
            "rope_parameters": {
                _FULL: {"rope_type": "default", "rope_theta": self.global_theta},
                _SLIDING: {"rope_type": "default", "rope_theta": self.local_theta},
            },
            **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
            "torch_dtype": "float32",
        }


def _theta(values: Mapping[str, Any], layer_type: str, old_name: str, default: float) -> float:
    """Return the rotary base of a type of layers."""
    by_type = values.get("rope_parameters", {})
    if unknown := sorted({*by_type} - {_FULL, _SLIDING}):
        raise ValueError(f"config has rope_parameters for {', '.join(unknown)}; expected {_FULL} and {_SLIDING}")
    parameters = {"rope_type": "default", "rope_theta": values.get(old_name, default)} | (by_type.get(layer_type) or {})
    theta = parameters.pop("rope_theta")
    if parameters != {"rope_type": "default"}:
        raise ValueError(
            f"config has rope_parameters {parameters} for {layer_type}; only rope_type 'default' is supported"
        )
    if not isinstance(theta, int | float) or theta <= 0:
        raise ValueError(f"config has rope_theta {theta!r} for {layer_type} ({old_name}); expected a positive number")
    return float(theta)


def _global_every(values: Mapping[str, Any]) -> int:
    """Return n so that every n-th layer, from the first on, attends to the whole text."""
    layers = values["num_hidden_layers"]
    if "layer_types" not in values:
        every = values.get("global_attn_every_n_layers", 3)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"config has global_attn_every_n_layers {every!r}; expected at least 1")
        return every
    types = list(values["layer_types"])
    for every in range(1, layers + 1):
        if types == [_SLIDING if i % every else _FULL for i in range(layers)]:
            return every
    raise ValueError(
        f"config has layer_types {types}; expected {layers} types, {_FULL} for every n-th layer from the first on and "
        f"{_SLIDING} for the others"
    )
