"""Counts by hand against the products in JAX's own programs."""

import dataclasses
import math

import jax
import pytest

from jaxretr.config import Config, DataConfig, ModelConfig, TrainConfig
from jaxretr.model.functions import functions, param_shapes
from jaxretr.tpu_estimate import flops
from jaxretr.tpu_estimate.programs import ATTACKS, attack_program, encode_program, train_program
from tests.tiny import MODERN, TINY

HEAD = dataclasses.replace(TINY, dense_head=(16, 24))


def products(jaxpr) -> int:
    """Two for each product and sum of every `dot_general`, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * products(inner)
    return total


@pytest.mark.parametrize("architecture", [TINY, HEAD, MODERN])
def test_encoding(architecture) -> None:
    tokens = jax.ShapeDtypeStruct((3, 12), "int32"), jax.ShapeDtypeStruct((3, 12), "bool")
    traced = jax.make_jaxpr(functions(architecture).encode_ids)(param_shapes(architecture), *tokens)
    assert products(traced.jaxpr) == 3 * flops.encode(architecture, 12)


def test_the_programs_are_those_that_run() -> None:
    """They lower for devices that are there, and the counts are of one device."""
    config = Config(
        model=ModelConfig(query_max_len=8, passage_max_len=16, remat="none", dropout=0.1),
        data=DataConfig(num_hard_negatives=1),
        train=TrainConfig(batch_size=32, symmetric=True),
    )
    devices = jax.devices()
    for program in (
        train_program(config, TINY, devices, 4),
        encode_program(config, TINY, devices),
        *(attack_program(config, TINY, devices, name) for name in ATTACKS),
    ):
        assert "num_partitions = 8" in program.lower().as_text()[:200]
        assert program.model_flops > 0 and program.flops >= program.model_flops


@pytest.mark.parametrize(
    ("remat", "chunk_size", "more"), [("none", 0, 0), ("dots", 0, 1), ("full", 0, 2), ("none", 2, 2)]
)
def test_what_is_made_twice(remat: str, chunk_size: int, more: int) -> None:
    config = Config(
        model=ModelConfig(query_max_len=8, passage_max_len=16, remat=remat), train=TrainConfig(chunk_size=chunk_size)
    )
    once = {
        0: 0,
        1: flops.attention(TINY, 8) + flops.attention(TINY, 16),
        2: flops.encode(TINY, 8) + flops.encode(TINY, 16),
    }
    assert flops.recomputed(config, TINY, 4) == 4 * once[more]
