"""`Architecture`: a hashable description of everything that an encoder's shapes depend on.

Input: a Hugging Face configuration (`config.json`) of the XLM-R or BERT family. Output: an `Architecture`, which can be
written as such a configuration again. Other families derive a class from it (`jaxretr.model.families`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

Pooling = Literal["mean", "cls", "max"]

_HF_CLASS = {"xlm-roberta": "XLMRobertaModel", "bert": "BertModel"}
_READ = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)


@dataclass(frozen=True)
class Architecture:
    """A post-norm transformer encoder of the XLM-R or BERT family, its pooling and its optional dense head.

    The fields from `vocab_size` to `attention_probs_dropout_prob` have the same names and meanings as in a Hugging Face
    `config.json`. The activation is always the exact GELU, as in every model of these families.

    Attributes:
      model_type: type of the model, one of `MODEL_TYPES`; it decides the numbering of positions (see
        `position_offset`) and the tensor names in a checkpoint.
      pooling: how token vectors become one vector; `cls` takes the vector of the first token.
      dense_head: (in, out) widths of a tanh layer after pooling, as in LaBSE; None without such a layer.
    """

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("xlm-roberta", "bert")
    """The values of `model_type` that the class describes."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    pad_token_id: int
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    pooling: Pooling = "mean"
    dense_head: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.model_type not in self.MODEL_TYPES:
            raise ValueError(f"model_type {self.model_type!r} is not supported; expected one of {self.MODEL_TYPES}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling {self.pooling!r} is not supported; expected one of {get_args(Pooling)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.dense_head is not None and self.dense_head[0] != self.hidden_size:
            raise ValueError(f"dense_head takes {self.dense_head[0]} inputs, but hidden_size is {self.hidden_size}")

    @property
    def position_offset(self) -> int:
        """Position of the first token: `pad_token_id + 1` in XLM-R (fairseq's numbering), 0 in BERT."""
        return self.pad_token_id + 1 if self.model_type == "xlm-roberta" else 0

    @property
    def max_length(self) -> int:
        """Longest sequence that the position table supports, in tokens, special tokens included."""
        return self.max_position_embeddings - self.position_offset

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def weights_per_layer(self) -> int:
        """Number of entries of a layer's weight matrices: 4 hidden² + 2 hidden · ffn."""
        return 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size

    @property
    def attention_reach(self) -> int | None:
        """Largest distance of two positions that attend to each other in layers with a window; None without windows."""
        return None

    @property
    def dim(self) -> int:
        """Width of a sentence embedding."""
        return self.dense_head[1] if self.dense_head else self.hidden_size

    @classmethod
    def from_hf_config(
        cls, config: Any, *, pooling: Pooling = "mean", dense_head: tuple[int, int] | None = None
    ) -> "Architecture":
        """Read a Hugging Face configuration: a `PretrainedConfig` or the content of a `config.json`.

        Raises:
          ValueError: the model belongs to another family, a field is missing, or the model is a variant that these
            layers do not compute (a different activation, relative positions, a decoder).
        """
        values: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
        model_type = values.get("model_type")
        if model_type not in cls.MODEL_TYPES:
            raise ValueError(f"config has model_type {model_type!r}; expected one of {cls.MODEL_TYPES}")
        missing = [name for name in _READ if values.get(name) is None]
        if missing:
            raise ValueError(f"config of type {model_type!r} lacks {', '.join(missing)}")
        for name, supported in (("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("is_decoder", False)):
            if values.get(name, supported) != supported:
                raise ValueError(f"config has {name} {values[name]!r}; only {supported!r} is supported")
        return cls(
            model_type=model_type, pooling=pooling, dense_head=dense_head, **{name: values[name] for name in _READ}
        )

    def to_hf_config(self) -> dict[str, Any]:
        """Return the content of `config.json`; pooling and dense head are stored in other files."""
        return {
            "architectures": [_HF_CLASS[self.model_type]],
            "model_type": self.model_type,
            **{name: getattr(self, name) for name in _READ},
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "torch_dtype": "float32",
        }
