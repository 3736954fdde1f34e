"""The whole way with the TPU compiler: uv run --extra tpu pytest -m tpu"""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxretr import parallel
from jaxretr.model.functions import functions, param_shapes
from jaxretr.model.fused_attention import fused_attention
from jaxretr.tpu_estimate.chips import Slice, describe
from jaxretr.train.objective import Objective
from tests.tiny import TINY
from tests.train.test_packing import packed
from tests.train.test_step import BATCH, batch

ROOT = Path(__file__).parents[2]
OVERRIDES = ("--config.train.batch_size=16", "--config.model.dtype=bfloat16", "--config.model.dropout=0")

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu comes with the extra tpu"),
]


def compiled(tmp_path: Path, tiny_root: Path, *flags: str) -> dict:
    """What scripts/compile_tpu.py writes for the tiny model."""
    command = [
        *(sys.executable, "scripts/compile_tpu.py", "--config", "configs/hybrid.py"),
        *(f"--config.model.model_name_or_path={tiny_root / 'model'}", "--config.model.query_max_len=8"),
        *("--config.model.passage_max_len=16", f"--json={tmp_path / 'out.json'}", *OVERRIDES, *flags),
    ]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "These figures are bounds, not measurements" in done.stdout
    return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))


def test_all_programs_on_four_chips(tmp_path: Path, tiny_root: Path) -> None:
    results = {result["program"]: result for result in compiled(tmp_path, tiny_root, "--topology=v5e:2x2")["results"]}
    assert set(results) == {"train", "encode", "attack", "attack_bfloat16"}
    for result in results.values():
        memory = result["memory"]
        assert result["devices"] == 4 and result["unknown_loops"] == 0
        assert 0 < memory["arguments"] < memory["total"] < memory["hbm"] == 16 * 2**30
        # The tiny model's products are so small that the compiler makes some of them without its matrix units.
        assert 0 < result["flops"]["compiled"] <= 1.2 * result["flops"]["analytic"]
        assert result["roofline"]["overlapped"]["seconds"] > 0
    train = results["train"]
    assert train["per_device_batch"] == 4 and train["memory"]["aliased"] > 0.9 * train["memory"]["outputs"]
    parameters = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(TINY)))
    reduced = sum(c["payload"] * c["times"] for c in train["collectives"] if c["kind"] == "all-reduce")
    assert parameters <= reduced < 1.2 * parameters, "the gradient once, and little beside it"
    assert not any(results[name]["collectives"] for name in ("encode", "attack", "attack_bfloat16"))


def test_two_cores_of_a_v4_are_one_device(tmp_path: Path, tiny_root: Path) -> None:
    (result,) = compiled(tmp_path, tiny_root, "--topology=v4:2x2x1", "--programs=encode")["results"]
    assert result["devices"] == 4 and result["topology"] == "v4:2x2x1"


def test_packed_rows_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    objective = Objective(functions(TINY, dtype=jnp.bfloat16, remat="dots"), 0.05, True)
    gradient = parallel.pmap(
        lambda params, data, key: parallel.mean(jax.grad(objective, has_aux=True)(params, data, key)[0]),
        in_axes=(None, 0, None),
        out_axes=None,
        devices=describe(Slice.parse("v5e:2x2")),
    )
    data = packed(batch(2), BATCH)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), data)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    compiled = gradient.lower(param_shapes(TINY), shapes, key).compile()
    assert 0 < compiled.memory_analysis().temp_size_in_bytes < 2**30


@pytest.mark.parametrize("length", [40, 2048], ids=["one block", "blocks"])
def test_the_attention_kernels_compile(length: int) -> None:
    """Both passes, with dropout, for heads of 16 and 64 dimensions."""
    devices = describe(Slice.parse("v5e:2x2"))
    for heads, hidden in ((8, 128), (12, 768)):

        def both(qkv, texts, seed, gradient, heads=heads):
            out, backward = jax.vjp(lambda x: fused_attention(x, texts, heads, dropout_rate=0.1, seed=seed), qkv)
            return out, backward(gradient)

        rows = (len(devices), 2, length)
        shapes = [
            jax.ShapeDtypeStruct((*rows, 3 * hidden), jnp.bfloat16),
            jax.ShapeDtypeStruct(rows, jnp.int32),
            jax.ShapeDtypeStruct((), jnp.uint32),
            jax.ShapeDtypeStruct((*rows, hidden), jnp.bfloat16),
        ]
        run = parallel.pmap(both, in_axes=(0, 0, None, 0), devices=devices)
        text = run.lower(*shapes).compile().as_text()
        assert text.count('custom_call_target="tpu_custom_call"') == (2 if length == 40 else 3)
