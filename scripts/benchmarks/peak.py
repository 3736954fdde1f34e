"""The share of the machine's own matrix multiplication speed that training and encoding reach.

The peak is measured in turns with the rest: XLA multiplies square matrices of `--size` in float32 and bfloat16. The
multiplications of a step and of encoding are counted by formula (`jaxretr.tpu_estimate.flops`); a gradient counts as
three forward passes, and recomputation does not count. Texts have no padding.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.steps import first_state, in_turns, made_batch, make_update, stepping

from jaxretr.files import path_flag


def run(model: Path, pairs: int, query_length: int, passage_length: int, size: int, rounds: int) -> None:
    from jaxretr import parallel
    from jaxretr.config import Config, ModelConfig, TrainConfig
    from jaxretr.model.encode import Encoder
    from jaxretr.model.functions import functions
    from jaxretr.tpu_estimate import flops

    parallel.initialize()
    encoder = Encoder.load(model)
    architecture = encoder.functions.architecture
    config = Config(
        model=ModelConfig(query_max_len=query_length, passage_max_len=passage_length),
        train=TrainConfig(batch_size=pairs, symmetric=True),
    )
    batch = made_batch(pairs, architecture.vocab_size, query_length, passage_length)
    texts = parallel.split(jax.tree.map(lambda leaf: leaf[:, 0], batch.passages))
    work = {
        "product": 2 * size**3,
        "train": flops.train(config, architecture, pairs, 1),
        "encode": pairs * flops.encode(architecture, passage_length),
    }
    params = parallel.replicate(encoder.params)
    sides = {}
    for dtype in ("float32", "bfloat16"):
        step, optimizer = make_update(architecture, dtype, sparse_embeddings=True)
        square = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)), dtype)
        encode = parallel.pmap(functions(architecture, dtype=dtype).encode_ids, in_axes=(None, 0, 0))
        sides |= {
            f"product {dtype}": partial(_waiting, jax.jit(jnp.matmul), square, square),
            f"train {dtype}": stepping(first_state(jax.tree.map(jnp.copy, params), optimizer), step, batch),
            f"encode {dtype}": partial(_waiting, encode, params, *texts),
        }
    for name, (wall, _) in in_turns(sides, rounds).items():
        kind, dtype = name.split()
        rate = work[kind] / wall
        if kind == "product":
            peak = rate
        print(f"{dtype:9} {kind:8} {wall:7.3f} s  {rate / 1e9:7.1f} GFLOP/s  share of the product: {rate / peak:.2f}")


def _waiting(run: Any, *arguments: Any) -> None:
    run(*arguments).block_until_ready()


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=path_flag, required=True, help="a saved model")
    for name, size in {"pairs": 32, "query_length": 32, "passage_length": 128, "size": 2048, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default: %(default)s")
