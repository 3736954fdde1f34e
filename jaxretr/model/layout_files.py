"""Strict readers of the JSON files beside the weights of a saved model, in the layout of sentence-transformers.

Input: a directory. Output: the settings that an encoder supports, and notes about settings that it ignores. If one file
names another file, that file must exist. A null counts as an absent value. A value of the wrong type is an error.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxretr.model.architecture import Pooling

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
TRANSFORMER = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
TOKENIZER = "tokenizer_config.json"

POOLING_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
OTHER_POOLING_FLAGS = (
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)

ENCODER_SETTINGS = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
"""Settings of the Transformer module of an encoder."""

_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # the first of these names that exists is used
_UNLIMITED = 1 << 31  # tokens; transformers writes 1e30 for "no limit"


class Prompts(NamedTuple):
    """Prefixes of queries and passages, and notes about settings in the file that have no effect."""

    query: str
    passage: str
    notes: tuple[str, ...]


class Length(NamedTuple):
    """Maximum number of tokens per text (None if no file says it), and notes about settings that have no effect."""

    tokens: int | None
    notes: tuple[str, ...]


def read_modules(directory: Path) -> dict[str, Path]:
    """Return the folder of each module in modules.json by its kind, in order; empty without modules.json.

    Raises:
      ValueError: `Architecture` cannot express a module, or the modules are in the wrong order.
    """
    path = directory / MODULES
    folders: dict[str, Path] = {}
    for module in read_json(path, list) or []:
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise ValueError(f"{path} lists {module!r}; expected an object with the type and the path of a module")
        kind, folder = module["type"].rsplit(".", 1)[-1], directory / str(module.get("path") or "")
        if kind not in _ORDER or kind in folders:
            raise ValueError(
                f"{path} has a {'second ' if kind in folders else ''}module of type {module['type']!r}; expected "
                "Transformer, Pooling, at most one Dense, Normalize"
            )
        folders[kind] = folder
    if list(folders) != sorted(folders, key=_ORDER.index):
        raise ValueError(f"{path} orders its modules {', '.join(folders)}; expected the order {', '.join(_ORDER)}")
    if (folder := folders.get("Transformer", directory)) != directory:
        raise ValueError(
            f"{path} keeps the transformer in {folder.name}; expected it in the directory itself. Save the model again "
            "with sentence-transformers 3 or later, which moves it"
        )
    return folders


def read_pooling(folder: Path) -> Pooling:
    """Return the pooling mode of the Pooling module in a folder.

    Raises:
      ValueError: `Architecture` cannot express the pooling.
    """
    path = folder / "config.json"
    config = _read_named(path)
    flags = [flag for flag in (*POOLING_FLAGS, *OTHER_POOLING_FLAGS) if config.get(flag)]
    mode = config.get("pooling_mode") or (POOLING_FLAGS.get(flags[0]) if len(flags) == 1 else None)
    if mode not in ("mean", "cls", "max"):
        raise ValueError(f"{path} asks for pooling by {mode or flags}; expected one of mean, cls and max")
    if config.get("include_prompt") not in (None, True):
        raise ValueError(f"{path} excludes the prompt from pooling; only include_prompt = true is supported")
    return mode


def read_dense(folder: Path) -> tuple[int, int]:
    """Return the (in, out) widths of the Dense module in a folder.

    Raises:
      ValueError: the module is not a layer with bias and tanh.
    """
    path = folder / "config.json"
    config = _read_named(path)
    activation = config.get("activation_function") or "Tanh"
    if not str(activation).endswith("Tanh") or config.get("bias") is False or config.get("use_residual"):
        raise ValueError(f"{path} describes {config}; only a dense layer with bias and tanh is supported")
    first, last = config.get("in_features"), config.get("out_features")
    if not (isinstance(first, int) and isinstance(last, int) and min(first, last) > 0):
        raise ValueError(f"{path} gives the widths {(first, last)}; expected in_features and out_features")
    return first, last


def read_prompts(directory: Path, *, normalized: bool) -> Prompts:
    """Choose prompts as sentence-transformers does: by name, else the default prompt.

    Args:
      directory: directory of the model.
      normalized: whether the model normalizes its embeddings.

    Raises:
      ValueError: a prompt is not a string, the default prompt does not exist, or the model is not a bi-encoder or
        truncates its embeddings.
    """
    path = directory / PROMPTS
    config = {name: value for name, value in (read_json(path, dict) or {}).items() if value is not None}
    saved = config.pop("prompts", {})
    if not isinstance(saved, dict) or not all(isinstance(text, str | None) for text in saved.values()):
        raise ValueError(f"{path} has the prompts {saved!r}; expected an object of names and texts")
    prompts = {name: text for name, text in saved.items() if text is not None}
    default = config.pop("default_prompt_name", None)
    if default is not None and default not in prompts:
        raise ValueError(f"{path} names the default prompt {default!r}; its prompts are {', '.join(prompts) or 'none'}")
    if (kind := config.pop("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise ValueError(f"{path} describes a {kind}; expected a SentenceTransformer with one dense vector per text")
    if config.get("truncate_dim"):
        raise ValueError(
            f"{path} cuts embeddings to {config['truncate_dim']} dimensions; only full embeddings are supported"
        )

    names = [
        next((name for name in candidates if name in prompts), default) for candidates in (("query",), _PASSAGE_PROMPTS)
    ]
    notes = []
    if unused := [name for name, text in prompts.items() if text and name not in names]:
        notes.append(f"the prompts {', '.join(unused)} in {path.name} are not used")
    similarity = config.pop("similarity_fn_name", "cosine")
    if similarity != "cosine" and not (normalized and similarity in ("dot", "euclidean")):  # these rank like cosine
        notes.append(f"{path.name} asks for the similarity {similarity}; cosine similarity is used")
    if unknown := sorted(name for name, value in config.items() if value and name != "__version__"):
        notes.append(f"{', '.join(unknown)} in {path.name} has no effect")
    query, passage = ("" if name is None else prompts[name] for name in names)
    return Prompts(query, passage, tuple(notes))


def read_length(directory: Path, supported: Mapping[str, Any] = ENCODER_SETTINGS) -> Length:
    """Return the maximum length of the Transformer module, or else of the tokenizer.

    Args:
      directory: directory of the model.
      supported: further settings of the Transformer module that have no effect because they describe what the model
        does anyway.

    Raises:
      ValueError: the length is not a number of tokens, or the model needs lower-casing that its tokenizer does not do.
    """
    path = next((directory / name for name in TRANSFORMER if (directory / name).is_file()), directory / TRANSFORMER[0])
    config = {name: value for name, value in (read_json(path, dict) or {}).items() if value is not None}
    tokenizer = read_json(directory / TOKENIZER, dict) or {}
    tokens = _tokens(path, "max_seq_length", config.pop("max_seq_length", None))
    if tokens is None:
        tokens = _tokens(directory / TOKENIZER, "model_max_length", tokenizer.get("model_max_length"))
    if config.pop("do_lower_case", False) and not tokenizer.get("do_lower_case"):
        raise ValueError(
            f"{path} asks to lower-case texts, but the tokenizer does not lower-case them; only do_lower_case = false "
            "is supported with such a tokenizer"
        )
    notes = []
    if unknown := sorted(name for name, value in config.items() if value and supported.get(name) != value):
        notes.append(f"{', '.join(unknown)} in {path.name} has no effect")
    if tokenizer.get("truncation_side") == "left":
        notes.append(f"{TOKENIZER} asks to keep the end of long texts; the encoder keeps the beginning")
    return Length(tokens, tuple(notes))


def _tokens(path: Path, name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise ValueError(f"{path} has {name} = {value!r}; expected a number of tokens")
    return None if math.isinf(value) or value >= _UNLIMITED else int(value)


def _read_named(path: Path) -> dict[str, Any]:
    config = read_json(path, dict)
    if config is None:
        raise ValueError(f"{path.parent.parent / MODULES} names {path}, which is absent; download the model again")
    return config


def read_json(path: Path, kind: type) -> Any:
    """Return the content of a JSON file; None if the file is absent or contains null."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, kind | None):
        expected = "an object" if kind is dict else "a list"
        raise ValueError(f"{path} contains a {type(content).__name__}, expected {expected}")
    return content
