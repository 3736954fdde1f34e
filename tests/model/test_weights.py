import dataclasses
import json
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxretr.model.functions import param_shapes
from jaxretr.model.weights import load_architecture, load_params, save_params


@pytest.fixture
def saved(tmp_path, architecture, params):
    save_params(tmp_path, architecture, params)
    return tmp_path


def assert_same(params, expected, **tolerance):
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 0} | tolerance)), params, expected)


def rewrite(directory, change):
    """Applies `change` to the dict of tensors of a checkpoint."""
    tensors = load_file(directory / "model.safetensors")
    save_file(change(tensors), directory / "model.safetensors")


def test_round_trip_is_exact(saved, architecture, params):
    assert load_architecture(saved) == architecture
    loaded_architecture, loaded = load_params(saved)
    assert loaded_architecture == architecture
    assert_same(loaded, params)


def test_names_and_orientation_are_hugging_faces(saved, params):
    tensors = load_file(saved / "model.safetensors")
    assert len(tensors) == 5 + 16 * 2
    layer = params["layers"]
    np.testing.assert_array_equal(tensors["encoder.layer.1.intermediate.dense.weight"], layer["ffn_in"]["kernel"][1].T)
    np.testing.assert_array_equal(
        tensors["encoder.layer.0.attention.self.key.bias"], layer["attention"]["qkv"]["bias"][0, 16:32]
    )
    with (saved / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["__metadata__"] == {"format": "pt"}
    assert json.loads((saved / "config.json").read_text())["architectures"] == ["XLMRobertaModel"]
    assert not list(saved.glob("*.tmp"))


@pytest.mark.parametrize(
    ("dtype", "atol"), [(np.float64, 0), (np.float16, 1e-3), (ml_dtypes.bfloat16, 1e-2)], ids=["f64", "f16", "bf16"]
)
def test_any_float_type_becomes_float32(saved, params, dtype, atol):
    rewrite(saved, lambda tensors: {name: tensor.astype(dtype) for name, tensor in tensors.items()})
    _, loaded = load_params(saved)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    assert_same(loaded, params, atol=atol)


def test_prefix_old_names_and_known_extras(saved, params):
    def change(tensors):
        tensors = {f"roberta.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in tensors.items()}
        extras = {
            "roberta.embeddings.position_ids": np.arange(66),
            "roberta.pooler.dense.weight": np.zeros((16, 16), np.float32),
            "lm_head.bias": np.zeros(131, np.float32),
        }
        return tensors | extras

    rewrite(saved, change)
    assert_same(load_params(saved)[1], params)


def test_shards(saved, params):
    tensors = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == shard}, saved / shard)
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load_params(saved)[1], params)
    (saved / shard).unlink()
    with pytest.raises(ValueError, match=f"{shard} is listed in .* but absent"):
        load_params(saved)


def test_dense_head(tmp_path, architecture):
    architecture = dataclasses.replace(architecture, model_type="bert", pooling="cls", dense_head=(16, 5))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), param_shapes(architecture))
    save_params(tmp_path, architecture, params)
    np.testing.assert_array_equal(
        load_file(tmp_path / "2_Dense" / "model.safetensors")["linear.weight"], params["dense_head"]["kernel"].T
    )
    with pytest.raises(ValueError, match="lists no Dense module"):
        load_params(tmp_path, architecture)
    modules = [{"path": "1_Pooling", "type": "x.Pooling"}, {"path": "2_Dense", "type": "x.Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "2_Dense" / "config.json").write_text('{"in_features": 16, "out_features": 5}')
    loaded_architecture, loaded = load_params(tmp_path)
    assert loaded_architecture == architecture
    assert_same(loaded, params)


@pytest.mark.parametrize("kept", [0, 4, 500, -4])
def test_truncated_file(saved, kept):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="truncated"):
        load_params(saved)


def test_file_of_another_kind(saved):
    (saved / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"\x80pickled")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_params(saved)


def test_tensors_of_another_model_are_named(saved, architecture):
    def change(tensors):
        tensors["transformer.h.0.attn"] = tensors.pop("encoder.layer.1.output.dense.bias")
        tensors["encoder.layer.0.output.dense.bias"] = np.zeros(7, np.float32)
        return tensors

    rewrite(saved, change)
    with pytest.raises(ValueError) as error:
        load_params(saved)
    message = str(error.value)
    assert "missing: encoder.layer.1.output.dense.bias" in message
    assert "unexpected: transformer.h.0.attn" in message
    assert "encoder.layer.0.output.dense.bias is F32[7], expected a float [16]" in message


def test_config_of_another_family(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"model_type": "distilbert"}))
    with pytest.raises(ValueError, match="'distilbert'; expected one of"):
        load_params(saved)


def test_pickled_weights_only(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        load_params(saved)


def test_no_weights(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors"):
        load_params(saved)


MEASURE = r"""
import re, sys
from jaxretr.model.weights import load_architecture, load_params
# Not ru_maxrss, which a child process inherits from its parent.
peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
architecture = load_architecture(sys.argv[1])
load_params(sys.argv[2])  # whatever the first call brings along (compilers, imports)
before = peak()
params = load_params(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory(saved, tmp_path_factory, architecture):
    directory = tmp_path_factory.mktemp("large")
    large = dataclasses.replace(
        architecture, vocab_size=60_000, hidden_size=512, intermediate_size=2048, num_hidden_layers=6
    )
    save_params(directory, large, jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), param_shapes(large)))
    size = (directory / "model.safetensors").stat().st_size
    assert size > 190e6
    command = [sys.executable, "-c", MEASURE, str(directory), str(saved)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert size <= grown <= 1.5 * size
