"""A saved model on disk: the directory layout that transformers and sentence-transformers (3 to 6) read.

Input: a directory or a hub name. Output: `SavedSettings`, everything in the layout except weights and tokenizer. The
module also writes the small JSON files of the layout and replaces a whole directory atomically.
"""

import errno
import glob
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from jaxretr.files import (
    AnyPath,
    as_path,
    exchange,
    in_bucket,
    local_copy,
    make_directory,
    sync_directory,
    sync_tree,
    upload_directory,
    write_json,
)
from jaxretr.model.architecture import Architecture, Pooling
from jaxretr.model.layout_files import (
    MODULES,
    OTHER_POOLING_FLAGS,
    POOLING_FLAGS,
    PROMPTS,
    TRANSFORMER,
    read_dense,
    read_length,
    read_modules,
    read_pooling,
    read_prompts,
)

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
    MODULES,
    *TRANSFORMER,
    PROMPTS,
    "*_Pooling/*",
    "*_Dense/*",
    "README.md",
]
_ATTEMPTS = 100
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOENT)
"""Errors of `exchange` after which `_publish` falls back to two renames: `exchange` is not supported, or one of the
names no longer exists."""


@dataclass(frozen=True)
class SavedSettings:
    """The settings of a saved model besides its weights.

    Attributes:
      pooling: pooling mode; mean if the directory does not say, as in sentence-transformers.
      dense: folder of a tanh layer after pooling (LaBSE); None without such a layer.
      dense_head: (in, out) widths of that layer.
      max_seq_length: maximum number of tokens per text, including special tokens; None if the directory does not say.
        Many models give more tokens than they have positions.
      query_prefix, passage_prefix: text put before every query or passage; "" if the directory has no prompts.
      notes: sentences about settings in the directory that the encoder ignores.
    """

    pooling: Pooling = "mean"
    dense: Path | None = None
    dense_head: tuple[int, int] | None = None
    max_seq_length: int | None = None
    query_prefix: str = ""
    passage_prefix: str = ""
    notes: tuple[str, ...] = ()


def find_model(name_or_path: str | AnyPath) -> Path:
    """Return the local directory of a model: `name_or_path` itself, or a local copy from a bucket or the hub.

    For a directory that exists on a disk, there is no network access.

    Raises:
      FileNotFoundError: the path does not exist, or the hub (offline: its cache) does not have the name.
    """
    directory = local_copy(as_path(name_or_path))
    _recover(directory)
    if directory.is_dir():
        _check_config(directory, name_or_path)
        return directory
    name = str(name_or_path)
    if directory.is_absolute() or name.startswith((".", "~")) or name.endswith("/") or name.count("/") != 1:
        raise FileNotFoundError(
            f"no model directory at {directory.absolute()}; expected a folder with config.json, {WEIGHTS} and "
            "tokenizer.json, or a hub name such as 'FacebookAI/xlm-roberta-base'"
        )
    try:
        directory = Path(huggingface_hub.snapshot_download(name, allow_patterns=_DOWNLOADED))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these two
        raise FileNotFoundError(
            f"{name!r} is neither a directory ({directory.absolute()} does not exist) nor available from the model "
            f"hub: {error}. Check the name and the network, or give the path of a model directory."
        ) from error
    _check_config(directory, name)
    return directory


def _check_config(directory: Path, name: str | AnyPath) -> None:
    if not (directory / "config.json").is_file():
        read_modules(directory)  # raises a more precise error if the config is in another folder
        raise FileNotFoundError(
            f"{name} has no config.json; expected a Hugging Face model directory with config.json, {WEIGHTS} and "
            "tokenizer.json"
        )


def check_weights(
    directory: Path, name: str | AnyPath, *, dense: Path | None = None, converter: str = "SentenceTransformer"
) -> None:
    """Check that a model has weights in safetensors files.

    Args:
      directory: directory of the model, as `find_model` returns it.
      name: name under which `find_model` found it.
      dense: folder of the dense head, which has weights, too; None without such a head.
      converter: class of sentence-transformers that can convert the model.

    Raises:
      FileNotFoundError: the model has no such weights. If it has weights in another format, the message gives a command
        that converts them.
    """
    for folder in (directory, dense or directory):
        if not any((folder / file).is_file() for file in (WEIGHTS, INDEX)):
            break
    else:
        return
    other_formats = sorted(path.name for path in folder.glob("pytorch_model*.bin*"))
    where = str(folder)
    if not other_formats and not as_path(name).exists():
        where = str(name)
        with suppress(OSError, ValueError):  # without network, only the downloaded files are known
            other_formats = sorted(
                file for file in huggingface_hub.list_repo_files(where) if file.startswith("pytorch_model")
            )
    if not other_formats:
        raise FileNotFoundError(f"{where} has no weights; expected {WEIGHTS}, or {INDEX} and its shards")
    source, converted = directory if in_bucket(name) else as_path(name), f"models/{as_path(name).name}-safetensors"
    code = f"from sentence_transformers import {converter} as C; C({str(source)!r}).save_pretrained({converted!r})"
    raise FileNotFoundError(
        f"{where} has no {WEIGHTS}, only {other_formats[0]}, which needs PyTorch. Convert the model once, in "
        f"an environment with the package sentence-transformers, and give {converted} instead: python -c "
        f"{shlex.quote(code)}"
    )


def read_settings(directory: Path) -> SavedSettings:
    """Read modules.json and the files that it names, sentence_bert_config.json and the prompts, if present.

    Raises:
      ValueError: `Architecture` cannot express a setting, or a file is absent or damaged.
    """
    modules = read_modules(directory)
    prompts, length = read_prompts(directory, normalized="Normalize" in modules), read_length(directory)
    notes = [*prompts.notes, *length.notes]
    if modules and "Pooling" not in modules:
        notes.append(f"{MODULES} lists no Pooling module; mean pooling is used")
    return SavedSettings(
        pooling=read_pooling(modules["Pooling"]) if "Pooling" in modules else "mean",
        dense=modules.get("Dense"),
        dense_head=read_dense(modules["Dense"]) if "Dense" in modules else None,
        max_seq_length=length.tokens,
        query_prefix=prompts.query,
        passage_prefix=prompts.passage,
        notes=tuple(notes),
    )


def write_settings(
    directory: Path,
    architecture: Architecture,
    *,
    max_seq_length: int,
    query_prefix: str,
    passage_prefix: str,
) -> None:
    """Write the files that `read_settings` reads, in the oldest layout, which every version of the readers supports."""
    steps = ["Transformer", "Pooling", *(["Dense"] if architecture.dense_head else []), "Normalize"]
    modules = []
    for index, step in enumerate(steps):
        path = f"{index}_{step}" if index else ""
        modules.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{step}"})
        (directory / path).mkdir(exist_ok=True)
    write_json(directory / MODULES, modules)
    write_json(directory / TRANSFORMER[0], {"max_seq_length": max_seq_length, "do_lower_case": False})
    write_json(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": architecture.hidden_size,
            **{flag: architecture.pooling == pooling for flag, pooling in POOLING_FLAGS.items()},
            **dict.fromkeys(OTHER_POOLING_FLAGS, False),
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
        directory / PROMPTS,
        {
            "__version__": {"sentence_transformers": "3.0.0", "transformers": "4.41.0", "pytorch": "2.3.0"},
            "prompts": {"query": query_prefix, "document": passage_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


@contextmanager
def replaced_directory(path: str | AnyPath) -> Iterator[Path]:
    """Yield a temporary directory that replaces `path` when the block ends without an error.

    After an exception, a kill or a power cut at any moment, `path` is either absent, the complete old model or the
    complete new one. If two processes write to `path` at once, one of them wins. File systems that cannot exchange two
    names (NFS) need two renames. A kill between them leaves the old model beside `path`, and the next `find_model` or
    `replaced_directory` restores it. In a bucket, `path` is not a model during the upload.

    Raises:
      FileExistsError: `path` exists and is not a saved model; only saved models are ever deleted.
    """
    if in_bucket(path):
        with _replaced_in_bucket(as_path(path)) as new:
            yield new
        return
    path = Path(as_path(path)).resolve()
    _recover(path)
    _check_replaceable(path)
    make_directory(path.parent)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        sync_tree(new)
        _publish(new, path)
        sync_directory(path.parent)
    finally:
        _recover(path)
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(new: Path, path: Path) -> None:
    """Rename `new` to `path`; a model that exists at `path` is moved into the parent of `new`."""
    for attempt in range(_ATTEMPTS):
        try:
            os.rename(new, path)  # also replaces an empty directory
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        _check_replaceable(path)
        try:
            exchange(new, path)
            return
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
        with suppress(FileNotFoundError):
            os.rename(path, new.with_name(f"old{attempt}"))
    raise FileExistsError(f"other processes keep writing to {path}; let only one process write to it")


def _recover(path: Path) -> None:
    """Restore the model that `_publish` moved away, if `_publish` could not put the new model in its place."""
    if not path.exists():
        for old in sorted(path.parent.glob(f".{glob.escape(path.name)}.*/old*")):
            with suppress(OSError):  # another process restored it, or this process has no write access
                os.rename(old, path)


def _check_replaceable(path: Path) -> None:
    if path.exists() and not (path / "config.json").is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not a saved model (it has no config.json); choose another path")


@contextmanager
def _replaced_in_bucket(path: AnyPath) -> Iterator[Path]:
    marker = path / ".incomplete"  # marks a model whose upload was interrupted
    if path.exists() and not (path / "config.json").exists() and not marker.exists():
        raise FileExistsError(f"{path} exists and is not a saved model (it has no config.json); choose another path")
    with tempfile.TemporaryDirectory(prefix="jaxretr-") as scratch:
        new = Path(scratch) / path.name
        new.mkdir()
        yield new
        write_json(marker, True)
        upload_directory(new, path, last="config.json")
        marker.unlink(missing_ok=True)
