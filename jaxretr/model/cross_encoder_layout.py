"""A saved cross-encoder on disk: its settings besides weights and tokenizer.

Input: a directory that transformers or sentence-transformers (2 to 6) wrote. Output: `CrossEncoderSettings`. If a
setting would change the scores and is not supported, reading raises an error that names the setting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import transformers

from jaxretr.model.architecture import Architecture
from jaxretr.model.layout_files import MODULES, PROMPTS, read_json, read_length, read_modules

Activation = Literal["sigmoid", "identity"]
"""Function from the classifier's output (the logit) to the score."""

_ACTIVATIONS: dict[str, Activation] = {"Sigmoid": "sigmoid", "Identity": "identity"}  # by their names in torch.nn
_SETTINGS = {
    "transformer_task": "sequence-classification",
    "module_output_name": "scores",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
}


@dataclass(frozen=True)
class CrossEncoderSettings:
    """The settings of a saved cross-encoder.

    Attributes:
      architecture: shapes of the encoder. The first half of the classifier is its dense head: a tanh layer of the width
        of the encoder on the vector of the first token.
      activation: function from the logit to the score; the sigmoid if no file says it, as in sentence-transformers.
      max_length: maximum number of tokens per pair, including special tokens: the saved number, or the number of the
        model's positions if it is smaller.
      notes: sentences about settings that have no effect.
    """

    architecture: Architecture
    activation: Activation
    max_length: int
    notes: tuple[str, ...]


def read_cross_encoder(directory: Path) -> CrossEncoderSettings:
    """Read config.json, modules.json, the prompts and the maximum length of a cross-encoder.

    Raises:
      ValueError: the model is not an XLM-R encoder with a classifier of one label, or a file has a setting that is not
        supported.
    """
    config = _read_config(directory)
    if list(read_modules(directory)) not in ([], ["Transformer"]):
        raise ValueError(f"{directory / MODULES} has further modules; a cross-encoder has only the module Transformer")
    saved = {name: value for name, value in (read_json(directory / PROMPTS, dict) or {}).items() if value is not None}
    notes = _check_saved(directory / PROMPTS, saved)
    length = read_length(directory, _SETTINGS)
    width = config.get("hidden_size", 0)
    try:
        architecture = Architecture.from_hf_config(config, pooling="cls", dense_head=(width, width))
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'} does not describe a supported encoder: {error}") from error
    max_length = min(length.tokens or architecture.max_length, architecture.max_length)
    return CrossEncoderSettings(
        architecture, _activation(directory, config, saved), max_length, (*notes, *length.notes)
    )


def _read_config(directory: Path) -> Mapping[str, Any]:
    """Return the content of config.json, with transformers' defaults, after checking type and number of labels."""
    path = directory / "config.json"
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} does not describe a supported cross-encoder: {error}") from error
    if config.model_type != "xlm-roberta":
        raise ValueError(
            f"{path} has model_type {config.model_type!r}; expected 'xlm-roberta', as in BAAI/bge-reranker-base. "
            "Cross-encoders of other families are not supported"
        )
    if config.num_labels != 1:
        raise ValueError(
            f"{path} has {config.num_labels} labels (num_labels, or the size of id2label); expected 1 label, the "
            "relevance. Classifiers with several labels cannot rank passages"
        )
    return config.to_dict()


def _check_saved(path: Path, saved: Mapping[str, Any]) -> tuple[str, ...]:
    """Return notes about the settings of sentence-transformers that have no effect."""
    if (kind := saved.get("model_type", "CrossEncoder")) != "CrossEncoder":
        raise ValueError(f"{path} describes a {kind}; expected a CrossEncoder")
    if (prompt := saved.get("default_prompt_name")) is not None:
        raise ValueError(f"{path} puts the prompt {prompt!r} before each pair; prompts are not supported here")
    known = {"__version__", "model_type", "activation_fn"}
    unknown = sorted(name for name, value in saved.items() if value and name not in known)
    return (f"{', '.join(unknown)} in {path.name} has no effect",) if unknown else ()


def _activation(directory: Path, config: Mapping[str, Any], saved: Mapping[str, Any]) -> Activation:
    """Return the saved activation: of sentence-transformers 5.4, else of 4.0, else of 2 and 3, else the default."""
    path, name = PROMPTS, saved.get("activation_fn")
    if name is None:
        path = "config.json"
        of_version_4 = config.get("sentence_transformers")
        if isinstance(of_version_4, dict) and "activation_fn" in of_version_4:
            name = of_version_4["activation_fn"]
        else:
            name = config.get("sbert_ce_default_activation_function")
    if name is None:
        return "sigmoid"
    package, _, function = str(name).rpartition(".")
    if not (package == "torch.nn" or package.startswith("torch.nn.modules.")) or function not in _ACTIVATIONS:
        raise ValueError(
            f"{directory / path} has the activation {name!r}; expected torch.nn's {' or '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[function]
