"""Load and save weights: convert a Hugging Face checkpoint to the parameter tree and back.

Input: a directory (or hub name) with `config.json` and safetensors files, single or sharded, of any float type. Output:
an `Architecture` and float32 parameters. The tensor names of a checkpoint appear once, in `checkpoint_views` of the
model's family, which maps each name to a numpy view of a parameter array in the checkpoint's orientation. Loading fills
these views, saving reads them.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from jaxretr.files import AnyPath, replaced_file, write_json
from jaxretr.model.architecture import Architecture
from jaxretr.model.families import family_of, read_architecture
from jaxretr.model.functions import Params, param_shapes
from jaxretr.model.hf_layout import DENSE, INDEX, WEIGHTS, check_weights, find_model, read_settings


class CrossEncoderParams(NamedTuple):
    """Parameters of a cross-encoder: an encoder whose dense head is the first half of the classifier, and the rest.

    Attributes:
      encoder: parameters of the encoder.
      out_proj: the last layer, a kernel [hidden, 1] and a bias [1].
    """

    encoder: Params
    out_proj: dict[str, Any]


_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")  # numpy knows bfloat16 because jax imports ml_dtypes
_BLOCK_BYTES = 1 << 24
_ALIGNMENT = 64
_NAMED = 8  # number of names that an error lists


def load_architecture(name_or_path: str | AnyPath) -> Architecture:
    """Return the architecture of a saved model: its config.json, pooling and dense head. No weights are read.

    Raises:
      FileNotFoundError: see `find_model`.
      ValueError: the model belongs to no family of `jaxretr.model.families`, or is a variant that is not supported.
    """
    directory = find_model(name_or_path)
    settings = read_settings(directory)
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        return read_architecture(config, pooling=settings.pooling, dense_head=settings.dense_head)
    except (ValueError, KeyError, OSError, StrictDataclassError) as error:
        raise ValueError(f"{directory / 'config.json'} does not describe a supported encoder: {error}") from error


def load_params(name_or_path: str | AnyPath, architecture: Architecture | None = None) -> tuple[Architecture, Params]:
    """Load a checkpoint into float32 numpy arrays, tensor by tensor, block by block.

    Peak memory is the size of the parameters plus one block of 16 MiB, as stored and converted.

    Args:
      name_or_path: a directory or a hub name.
      architecture: expected architecture; None reads it from the directory.

    Returns:
      The architecture and the parameters. Put the parameters on the device once (`jax.device_put`) before calling
      functions.

    Raises:
      FileNotFoundError: the model does not exist, or it has no safetensors files.
      ValueError: a file is truncated or is not a safetensors file, or tensors are missing, unexpected or have the wrong
        shape or type; the message names them.
    """
    directory = find_model(name_or_path)
    settings = read_settings(directory)
    check_weights(directory, name_or_path, dense=settings.dense)
    architecture = architecture or load_architecture(directory)
    params: Params = jax.tree.map(lambda leaf: _allocate(leaf.shape), param_shapes(architecture))
    tensors = _open_checkpoint(directory, family_of(architecture.model_type).tensor_name)
    _fill(checkpoint_views(architecture, params), tensors, directory)
    if architecture.dense_head:
        if settings.dense is None:
            raise ValueError(f"{directory / 'modules.json'} lists no Dense module, but a dense head is expected")
        _fill(_dense_views(params), _open_checkpoint(settings.dense, str), settings.dense)
    return architecture, params


def load_cross_encoder_params(directory: Path, architecture: Architecture) -> CrossEncoderParams:
    """Load the weights of a cross-encoder into float32 numpy arrays, as `load_params` does.

    The checkpoint has a classifier of two layers: `classifier.dense` is the dense head of `architecture`, and
    `classifier.out_proj` turns its output into one logit.

    Raises:
      ValueError: as `load_params`.
    """
    encoder: Params = jax.tree.map(lambda leaf: _allocate(leaf.shape), param_shapes(architecture))
    params = CrossEncoderParams(encoder, {"kernel": _allocate((architecture.dim, 1)), "bias": _allocate((1,))})
    classifier = {
        "classifier.dense.weight": encoder["dense_head"]["kernel"].T,
        "classifier.dense.bias": encoder["dense_head"]["bias"],
        "classifier.out_proj.weight": params.out_proj["kernel"].T,
        "classifier.out_proj.bias": params.out_proj["bias"],
    }
    tensors = _open_checkpoint(directory, family_of(architecture.model_type).tensor_name)
    _fill(checkpoint_views(architecture, encoder) | classifier, tensors, directory)
    return params


def save_params(directory: str | Path, architecture: Architecture, params: Params) -> None:
    """Write `model.safetensors` (Hugging Face's names, float32) and `config.json` to an existing directory.

    Each file is replaced atomically.
    """
    directory = Path(directory)
    params = jax.tree.map(np.asarray, params)
    _save_tensors(directory / WEIGHTS, checkpoint_views(architecture, params))
    if architecture.dense_head:
        (directory / DENSE).mkdir(exist_ok=True)
        _save_tensors(directory / DENSE / WEIGHTS, _dense_views(params))
    write_json(directory / "config.json", architecture.to_hf_config())


def checkpoint_views(architecture: Architecture, params: Params) -> dict[str, np.ndarray]:
    """Return a view of `params` per Hugging Face tensor name, in Hugging Face's orientation [out, in]."""
    return family_of(architecture.model_type).checkpoint_views(architecture, params)


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    """Return an uninitialized float32 array with the alignment that XLA needs to use it on CPU without a copy."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def _dense_views(params: Params) -> dict[str, np.ndarray]:
    return {"linear.weight": params["dense_head"]["kernel"].T, "linear.bias": params["dense_head"]["bias"]}


@dataclass(frozen=True)
class _Tensor:
    """One tensor in a safetensors file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    def read_into(self, target: np.ndarray) -> None:
        """Fill `target` (any strides) block by block; convert to its dtype.

        Each block maps the file anew. The pages of one mapping stay in memory until it is closed, so a mapping of the
        whole file would add the size of the file to the peak.
        """
        rows = max(1, _BLOCK_BYTES // target[0].nbytes)
        for start in range(0, len(target), rows):
            block = target[start : start + rows]
            with safe_open(self.file, framework="numpy") as file:
                block[...] = file.get_slice(self.name)[start : start + len(block)]


def _open_checkpoint(directory: Path, rename: Callable[[str], str | None]) -> dict[str, _Tensor]:
    """Return the tensors of a checkpoint by the names that `rename` gives them, without those that it maps to None."""
    files = [WEIGHTS] if (directory / WEIGHTS).is_file() else _read_index(directory / INDEX)
    tensors = {}
    for file in files:
        for stored, tensor in _read_header(directory / file).items():
            if name := rename(stored):
                tensors[name] = tensor
    return tensors


def _read_index(path: Path) -> list[str]:
    """Return the file names of the shards."""
    try:
        return sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of safetensors files ({error!r}); download it again") from error


def _read_header(path: Path) -> dict[str, _Tensor]:
    """Return the tensors in a safetensors file."""
    if not path.is_file():
        raise ValueError(f"{path} is listed in {INDEX} but absent; download the checkpoint again")
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: _Tensor(path, name, tensor.get_dtype(), tuple(tensor.get_shape()))
                for name, tensor in slices.items()
            }
    except SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) is truncated, damaged or not a safetensors file ({error}); download it again"
        ) from error


def _fill(views: dict[str, np.ndarray], tensors: dict[str, _Tensor], directory: Path) -> None:
    """Fill the views from the tensors of the same names, after checking that names, shapes and types match."""
    missing = sorted(views.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - views.keys())
    misfits = [
        f"{name} is {tensor.dtype}{list(tensor.shape)}, expected a float {list(views[name].shape)}"
        for name, tensor in tensors.items()
        if name in views and (tensor.shape != views[name].shape or tensor.dtype not in _FLOAT_TYPES)
    ]
    problems = [
        f"{what}: {', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("with a wrong shape or type", misfits))
        if names
    ]
    if problems:
        remedy = "Check that both belong to the same model, with the same head."
        if any(name.startswith("classifier.") for name in unexpected):
            remedy = "A model with a classifier scores pairs of texts: load it with CrossEncoder, or with --reranker."
        raise ValueError(f"the weights in {directory} do not fit its config.json; {'; '.join(problems)}. {remedy}")
    for name, view in views.items():
        tensors[name].read_into(view)


def _save_tensors(path: Path, views: dict[str, np.ndarray]) -> None:
    """Write a safetensors file tensor by tensor, so that memory never holds a second copy of the parameters.

    `safetensors.numpy.save_file` needs all tensors contiguous at once, which copies every transposed matrix.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, view in views.items():
        header[name] = {"dtype": "F32", "shape": view.shape, "data_offsets": (offset, offset + 4 * view.size)}
        offset += 4 * view.size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format requires aligned data
    with replaced_file(path) as partial, partial.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for view in views.values():
            file.write(np.ascontiguousarray(view, np.float32).data)
