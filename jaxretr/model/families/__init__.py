"""Families of encoders: what their configs, modules and tensors look like.

| file | models |
|---|---|
| `bert.py` | XLM-R, multilingual-e5, LaBSE, MiniLM |
| `modern_bert.py`, `modern_bert_config.py` | ModernBERT, mmBERT, granite-embedding r2 |
| `interface.py` | what a family defines |
"""

from collections.abc import Mapping
from typing import Any

from jaxretr.model.architecture import Architecture, Pooling
from jaxretr.model.families.bert import BERT
from jaxretr.model.families.interface import Family
from jaxretr.model.families.modern_bert import MODERN_BERT

FAMILIES = (BERT, MODERN_BERT)


def family_of(model_type: str) -> Family:
    """Return the family of a `model_type`.

    Raises:
      ValueError: no family has this type.
    """
    for family in FAMILIES:
        if model_type in family.architecture.MODEL_TYPES:
            return family
    known = tuple(name for family in FAMILIES for name in family.architecture.MODEL_TYPES)
    raise ValueError(f"config has model_type {model_type!r}; expected one of {known}")


def read_architecture(
    config: Any, *, pooling: Pooling = "mean", dense_head: tuple[int, int] | None = None
) -> Architecture:
    """Read a Hugging Face configuration: a `PretrainedConfig` or the content of a `config.json`.

    Raises:
      ValueError: the model belongs to no family, a field is missing, or the layers of its family do not compute this
        variant; the message names the field.
    """
    values: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    family = family_of(str(values.get("model_type")))
    return family.architecture.from_hf_config(values, pooling=pooling, dense_head=dense_head)
