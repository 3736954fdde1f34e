"""The architecture of a model, without its weights and without access to a hub.

Input: a `model_name_or_path`. Output: an `Architecture`, from a directory on disk or from the table of published
models.
"""

import dataclasses
import json
from pathlib import Path
from typing import cast

from jaxretr.config import MINI_ENCODER, ModelConfig
from jaxretr.files import as_path
from jaxretr.model.architecture import Architecture, Pooling
from jaxretr.model.families import read_architecture
from jaxretr.model.families.modern_bert_config import ModernBertArchitecture
from jaxretr.model.hf_layout import read_settings

_BASE = Architecture(
    model_type="xlm-roberta",
    vocab_size=250_002,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3_072,
    max_position_embeddings=514,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    pad_token_id=1,
)
_LARGE = dataclasses.replace(
    _BASE, hidden_size=1_024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4_096
)
_MINI = dataclasses.replace(_BASE, vocab_size=250_037, hidden_size=384, intermediate_size=1_536)
_LABSE = dataclasses.replace(
    _BASE,
    model_type="bert",
    vocab_size=501_153,
    max_position_embeddings=512,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
    pad_token_id=0,
    pooling="cls",
    dense_head=(768, 768),
)
_MMBERT = ModernBertArchitecture(
    model_type="modernbert",
    vocab_size=256_000,
    hidden_size=768,
    num_hidden_layers=22,
    num_attention_heads=12,
    intermediate_size=1_152,
    max_position_embeddings=8_192,
    layer_norm_eps=1e-5,
    pad_token_id=0,
    local_theta=160_000.0,
)
_MMBERT_SMALL = dataclasses.replace(_MMBERT, hidden_size=384, num_attention_heads=6)

PUBLISHED: dict[str, Architecture] = {
    "FacebookAI/xlm-roberta-base": _BASE,
    "FacebookAI/xlm-roberta-large": _LARGE,
    "intfloat/multilingual-e5-base": _BASE,
    "intfloat/multilingual-e5-large": _LARGE,
    "sentence-transformers/LaBSE": _LABSE,
    MINI_ENCODER: _MINI,
    "jhu-clsp/mmBERT-small": _MMBERT_SMALL,
    "jhu-clsp/mmBERT-base": _MMBERT,
}
"""Architectures of published models, from their config.json; mmBERT's from its paper (arXiv 2509.06888)."""


def architecture_of(model: ModelConfig) -> Architecture:
    """Return the architecture of the encoder that a run with this config trains.

    Raises:
      ValueError: the model is neither a directory with a config.json nor in the table.
    """
    directory = Path(as_path(model.model_name_or_path))
    if (directory / "config.json").is_file():
        settings = read_settings(directory)
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        architecture = read_architecture(config, pooling=settings.pooling, dense_head=settings.dense_head)
    elif model.model_name_or_path in PUBLISHED:
        architecture = PUBLISHED[model.model_name_or_path]
    else:
        raise ValueError(
            f"the architecture of model.model_name_or_path={model.model_name_or_path!r} is unknown; expected a "
            f"directory with a config.json, or one of {', '.join(PUBLISHED)}"
        )
    return dataclasses.replace(architecture, pooling=cast(Pooling, model.pooling)) if model.pooling else architecture
