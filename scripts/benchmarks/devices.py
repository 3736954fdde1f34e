"""Bytes that a device sends in one training step on eight devices, against the theoretical minimum.

The step is compiled for virtual devices of this machine, and its collectives are read from the program that XLA leaves.
The minimum: every parameter's gradient is reduced over all devices (sending 2 (n - 1) / n of its bytes); the embeddings
of the global batch are gathered once and their gradients scattered back ((n - 1) / n each). With
`train.sparse_embeddings`, the gradient of the word table covers only the tokens of the batch.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
from benchmarks.steps import made_batch, make_update, on_all_devices

from jaxretr.files import path_flag

DEVICES = 8


def run(model: Path, pairs: int, query_length: int, passage_length: int, dtype: str) -> None:
    from jaxretr.model.functions import param_shapes
    from jaxretr.model.weights import load_params
    from jaxretr.tpu_estimate.costs import Costs
    from jaxretr.tpu_estimate.hlo import Module
    from jaxretr.train.step import TrainState

    if jax.device_count() < DEVICES:
        raise SystemExit(f"{jax.device_count()} devices; set JAX_NUM_CPU_DEVICES={DEVICES}")
    architecture, _ = load_params(model)
    params = param_shapes(architecture)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((DEVICES, leaf.shape[0] // DEVICES, *leaf.shape[1:]), leaf.dtype),
        made_batch(pairs, architecture.vocab_size, query_length, passage_length),
    )
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    print(f"{count:,} parameters, {pairs} pairs on {DEVICES} devices")
    for sparse in (False, True):
        step, optimizer = make_update(architecture, dtype, sparse_embeddings=sparse)
        state = jax.eval_shape(lambda p: TrainState(jnp.int32(0), p, optimizer.init(p)), params)  # noqa: B023
        compiled = on_all_devices(step, devices=jax.devices()[:DEVICES]).lower(state, batch, key).compile()
        costs = Costs.of(Module.parse(compiled.as_text()))
        tokens = pairs * (query_length + passage_length)
        saved = max(0, architecture.vocab_size - tokens) if sparse else 0
        share = (DEVICES - 1) / DEVICES
        least = 2 * share * 4 * (count - saved * architecture.hidden_size)
        least += 2 * share * 4 * 2 * pairs * architecture.dim
        print(
            f"{'sparse' if sparse else 'dense':6}  sent {costs.sent_bytes / 1e6:9.1f} MB  "
            f"least {least / 1e6:9.1f} MB  sent to least: {costs.sent_bytes / least:.3f}"
        )
        for collective, times in sorted(costs.collectives.items(), key=lambda item: -item[0].sent * item[1])[:6]:
            print(f"          {times:3} x {collective.kind:18} of {collective.payload / 1e6:9.2f} MB")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=path_flag, required=True, help="a saved model, for its architecture")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="default: %(default)s")
    for name, size in {"pairs": 256, "query_length": 32, "passage_length": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default: %(default)s")
