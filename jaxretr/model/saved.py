"""A saved model on disk: the directory layout that transformers and sentence-transformers (3 to 6) read.

In: a directory or a hub name. Out: `SavedSettings`, everything in the layout that is neither weights nor tokenizer.
And the way back: the small JSON files of the layout, and the atomic replacement of a whole directory.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub

from jaxretr.files import AnyPath, as_path, in_bucket, local_copy, upload_directory, write_json
from jaxretr.model.architecture import Architecture, Pooling

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DENSE = "2_Dense"

_DOWNLOADED = [
    "config.json",
    "*.safetensors",
    INDEX,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/*",
    "*_Dense/*",
]
_POOLING_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_OTHER_POOLING_FLAGS = (
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


@dataclass(frozen=True)
class SavedSettings:
    """What a saved model says about itself besides its weights.

    Attributes:
      pooling: mean where the directory does not say, as sentence-transformers assumes.
      dense: the folder of a tanh layer after pooling (LaBSE), None without one.
      dense_head: its (in, out) widths.
      max_seq_length: tokens, special tokens included, often more than the model has positions; None where the
        directory does not say.
      query_prefix, passage_prefix: put before every text; "" where the directory has no prompts.
    """

    pooling: Pooling = "mean"
    dense: Path | None = None
    dense_head: tuple[int, int] | None = None
    max_seq_length: int | None = None
    query_prefix: str = ""
    passage_prefix: str = ""


def find_model(name_or_path: str | AnyPath) -> Path:
    """The local directory of a model: `name_or_path` itself, or a copy of what a bucket or the hub has under that name.

    A directory that exists never touches the network.

    Raises:
      FileNotFoundError: for a path that does not exist, or a name that the hub (or, offline, its cache) lacks.
    """
    directory = local_copy(as_path(name_or_path)).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise FileNotFoundError(
                f"{name_or_path} holds no config.json; expected a Hugging Face model directory with config.json, "
                f"{WEIGHTS} and tokenizer.json"
            )
        return directory
    name = str(name_or_path)
    if directory.is_absolute() or name.startswith((".", "~")) or name.endswith("/") or name.count("/") != 1:
        raise FileNotFoundError(
            f"no model directory at {directory.absolute()}; expected a folder with config.json, {WEIGHTS} and "
            "tokenizer.json, or a hub name such as 'FacebookAI/xlm-roberta-base'"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_DOWNLOADED))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these two
        raise FileNotFoundError(
            f"{name!r} is neither a directory ({directory.absolute()} does not exist) nor to be had from the model "
            f"hub: {error}. Check the name and the network, or give the path of a model directory."
        ) from error


def read_settings(directory: Path) -> SavedSettings:
    """Reads modules.json, the pooling and dense configs, sentence_bert_config.json and the prompts, where present.

    Raises:
      ValueError: for a module or a pooling that `Architecture` cannot express.
    """
    pooling: Pooling = "mean"
    dense = dense_head = None
    modules = _read_json(directory / "modules.json") or []
    for module in modules:
        kind, folder = module["type"].rsplit(".", 1)[-1], directory / module["path"]
        if kind == "Pooling":
            pooling = _read_pooling(folder / "config.json")
        elif kind == "Dense":
            dense, dense_head = folder, _read_dense(folder / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise ValueError(
                f"{directory / 'modules.json'} has a module of type {module['type']!r}; expected Transformer, "
                "Pooling, at most one Dense, Normalize"
            )
    bert_config = _read_json(directory / "sentence_bert_config.json") or {}
    tokenizer_config = _read_json(directory / "tokenizer_config.json") or {}
    prompts = (_read_json(directory / "config_sentence_transformers.json") or {}).get("prompts") or {}
    return SavedSettings(
        pooling=pooling,
        dense=dense,
        dense_head=dense_head,
        max_seq_length=bert_config.get("max_seq_length") or tokenizer_config.get("model_max_length"),
        query_prefix=prompts.get("query") or "",
        passage_prefix=prompts.get("document") or prompts.get("passage") or "",
    )


def write_settings(
    directory: Path,
    architecture: Architecture,
    *,
    max_seq_length: int,
    query_prefix: str,
    passage_prefix: str,
) -> None:
    """Writes the files `read_settings` reads, in the oldest layout, which every version of the readers knows."""
    steps = ["Transformer", "Pooling", *(["Dense"] if architecture.dense_head else []), "Normalize"]
    modules = []
    for index, step in enumerate(steps):
        path = f"{index}_{step}" if index else ""
        modules.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{step}"})
        (directory / path).mkdir(exist_ok=True)
    write_json(directory / "modules.json", modules)
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    write_json(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": architecture.hidden_size,
            **{flag: architecture.pooling == pooling for flag, pooling in _POOLING_FLAGS.items()},
            **dict.fromkeys(_OTHER_POOLING_FLAGS, False),
            "include_prompt": True,
        },
    )
    if architecture.dense_head:
        width_in, width_out = architecture.dense_head
        activation = "torch.nn.modules.activation.Tanh"
        write_json(
            directory / DENSE / "config.json",
            {"in_features": width_in, "out_features": width_out, "bias": True, "activation_function": activation},
        )
    write_json(
        directory / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "3.0.0", "transformers": "4.41.0", "pytorch": "2.3.0"},
            "prompts": {"query": query_prefix, "document": passage_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


@contextmanager
def replaced_directory(path: str | AnyPath) -> Iterator[Path]:
    """A temporary directory that takes the place of `path` when the block ends without an error.

    The rename is atomic: at any moment, also after a crash, `path` is absent, the old model or the new one, whole.
    Of two processes that write the same path at once, one wins. In a bucket, `path` is for a while no model.

    Raises:
      FileExistsError: when `path` exists and is not a saved model: nothing else is ever deleted.
    """
    if in_bucket(path):
        with _replaced_in_bucket(as_path(path)) as new:
            yield new
        return
    path = Path(path).absolute()
    if path.exists() and not (path / "config.json").is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is no saved model (it has no config.json); choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        yield new
        try:
            os.rename(new, path)  # also replaces an empty directory
        except OSError:
            os.rename(path, old)
            try:
                os.rename(new, path)
            except OSError:  # another process put its own there in the meantime
                if not path.exists():
                    os.rename(old, path)
                    raise


@contextmanager
def _replaced_in_bucket(path: AnyPath) -> Iterator[Path]:
    begun = path / ".incomplete"  # so that a model whose upload was interrupted is known for one
    if path.exists() and not (path / "config.json").exists() and not begun.exists():
        raise FileExistsError(f"{path} exists and is no saved model (it has no config.json); choose another path")
    with tempfile.TemporaryDirectory(prefix="jaxretr-") as scratch:
        new = Path(scratch) / path.name
        new.mkdir()
        yield new
        write_json(begun, True)
        upload_directory(new, path, last="config.json")
        begun.unlink()


def _read_pooling(path: Path) -> Pooling:
    config = _read_json(path) or {}
    flags = [flag for flag in (*_POOLING_FLAGS, *_OTHER_POOLING_FLAGS) if config.get(flag)]
    mode = config.get("pooling_mode", _POOLING_FLAGS.get(flags[0]) if len(flags) == 1 else None)
    if mode not in ("mean", "cls", "max"):
        raise ValueError(f"{path} asks for pooling by {mode or flags}; expected one of mean, cls and max")
    if not config.get("include_prompt", True):
        raise ValueError(f"{path} excludes the prompt from pooling; only include_prompt = true is supported")
    return mode


def _read_dense(path: Path) -> tuple[int, int]:
    config = _read_json(path) or {}
    activation = config.get("activation_function", "Tanh")
    if not activation.endswith("Tanh") or not config.get("bias", True) or config.get("use_residual"):
        raise ValueError(f"{path} describes {config}; only a dense layer with bias and tanh is supported")
    return config["in_features"], config["out_features"]


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
