"""The programs of a run that are compiled for a slice: one update, encoding, one gradient attack in two dtypes.

Input: a config, an architecture, devices and texts per device. Output: `Program`s to lower, with shapes as arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxretr import parallel
from jaxretr.attack.gradient import InfoNCE, QueryObjective, Target
from jaxretr.attack.gradient.attack import GradientAttack, on_one_device
from jaxretr.attack.gradient.objective import SplitEncoder
from jaxretr.attack.gradient.pgd import PGD
from jaxretr.attack.victim import HARD_NEGATIVES
from jaxretr.config import Config
from jaxretr.data.batches import PairBatch, Translations
from jaxretr.data.packing import pack
from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import AttentionOn, resolve_attention
from jaxretr.model.functions import functions, param_shapes
from jaxretr.run import make_update
from jaxretr.tpu_estimate import flops
from jaxretr.types import Packing, TokenBatch

ENCODED_TOKENS = 32 * 128
"""Number of tokens that a device encodes at once, as in `Encoder.encode_query`."""

ATTACKS = {
    "attack": GradientAttack(PGD, steps=20),
    "attack_bfloat16": GradientAttack(PGD, steps=20, dtype="bfloat16"),
}
_ATTACKED_TOKENS = 8 * 128
_SPECIAL_IDS = (0, 1, 2, 3)  # placeholders: the number of special ids affects only a few comparisons


@dataclass(frozen=True)
class Program:
    """A program to compile.

    Attributes:
      name: `train`, `encode`, or a name in `ATTACKS`.
      what: description of one device's share.
      batch: pairs or texts per device.
      lower: traces and lowers the program.
      model_flops: operations in the model's matrix products, for one device and one run, by formula.
      flops: `model_flops` plus deliberate recomputation; None if no formula covers it.
    """

    name: str
    what: str
    batch: int
    lower: Callable[[], jax.stages.Lowered]
    model_flops: int
    flops: int | None


def train_program(config: Config, architecture: Architecture, devices: Sequence[jax.Device], batch: int) -> Program:
    """Return the program of one update with `batch` pairs on each device, at the full lengths of the config."""
    update = make_update(config, architecture, _SPECIAL_IDS, devices)
    state = jax.eval_shape(update.initial_state, param_shapes(architecture))
    step = update.over_devices(devices)
    key = jax.eval_shape(lambda: jax.random.key(config.seed, impl="rbg"))
    columns = 1 + config.data.num_hard_negatives
    model_flops = flops.train(config, architecture, batch, len(devices))
    return Program(
        "train",
        f"{batch} pairs of {config.model.query_max_len} and {columns} x {config.model.passage_max_len} tokens, "
        f"{config.model.dtype}, remat {config.model.remat}, chunk_size {config.train.chunk_size}"
        + (", sharded optimizer" if update.sharding else ""),
        batch,
        lambda: step.lower(state, pair_batch(config, len(devices), batch), key),
        model_flops,
        None if config.hardening.method else model_flops + flops.recomputed(config, architecture, batch),
    )


def encode_program(config: Config, architecture: Architecture, devices: Sequence[jax.Device]) -> Program:
    """Return the program that encodes passages of full length."""
    length = config.model.passage_max_len
    batch = max(1, ENCODED_TOKENS // length)
    attention = _attention(config, architecture, devices[0], config.model.dtype)
    encoder = functions(architecture, dtype=config.model.dtype, attention=attention)
    run = parallel.pmap(encoder.encode_ids, in_axes=(None, 0, 0), devices=devices)
    tokens = _tokens(len(devices), batch, length)
    operations = batch * flops.encode(architecture, length)
    return Program(
        "encode",
        f"{batch} texts of {length} tokens, {config.model.dtype}",
        batch,
        lambda: run.lower(param_shapes(architecture), *tokens),
        operations,
        operations,
    )


def attack_program(config: Config, architecture: Architecture, devices: Sequence[jax.Device], name: str) -> Program:
    """Return the program of an attack in `ATTACKS` on queries of full length."""
    attack = ATTACKS[name]
    length = config.model.query_max_len
    batch, candidates = max(1, _ATTACKED_TOKENS // length), HARD_NEGATIVES + 1
    encoder = functions(architecture, attention=_attention(config, architecture, devices[0], "float32"))
    objective = QueryObjective(SplitEncoder(encoder), InfoNCE(config.train.temperature))
    attacked = on_one_device(attack, objective, _target, _SPECIAL_IDS)
    run = parallel.pmap(attacked, in_axes=(None, 0, 0, 0, 0, 0), devices=devices)
    rows = (len(devices), batch)
    marks = _array((*rows, candidates), jnp.bool_)
    fixed = (_array((*rows, candidates, architecture.dim), jnp.float32), marks, marks)
    keys = jax.eval_shape(lambda: jnp.broadcast_to(jax.random.key(0), rows))
    operations = flops.pgd(architecture, length, batch, attack.steps)
    return Program(
        name,
        f"{attack.algorithm.name} of {attack.steps} steps on {batch} queries of {length} tokens, {attack.dtype}",
        batch,
        lambda: run.lower(param_shapes(architecture), *_tokens(*rows, length), fixed, _array(rows, jnp.float32), keys),
        operations,
        operations,
    )


def pair_batch(config: Config, devices: int, batch: int) -> PairBatch:
    """Return the shapes of a batch that `jaxretr.data.batches` reads for this config, with a leading devices axis."""
    tokens, rows = partial(_tokens, devices, batch), (devices, batch)
    queries, passages = config.model.query_max_len, config.model.passage_max_len
    columns = 1 + config.data.num_hard_negatives
    translations = config.hardening.translations
    return PairBatch(
        queries=tokens(queries),
        passages=tokens(columns, passages),
        query_content=_array(rows, jnp.uint32),
        passage_content=_array((*rows, columns), jnp.uint32),
        packing=_packing(config, devices, batch),
        typo_queries=tokens(queries) if config.hardening.method == "typos" else None,
        translations=Translations(
            tokens(translations, queries),
            tokens(translations, passages),
            *[_array((*rows, translations), jnp.uint32)] * 2,
        )
        if config.hardening.method == "translations"
        else None,
    )


def _attention(config: Config, architecture: Architecture, device: jax.Device, dtype: str) -> AttentionOn:
    return resolve_attention(
        config.model.attention, device.platform, architecture, dtype, device_kind=device.device_kind
    )[0]


def _packing(config: Config, devices: int, batch: int) -> Packing | None:
    """Return the shapes of the shared rows of a batch whose texts all have their full length; None if not packed."""
    if config.hardening.method in ("typos", "translations"):
        return None
    pairs, columns = config.train.chunk_size or batch, 1 + config.data.num_hard_negatives
    lengths = [config.model.query_max_len] * pairs + [config.model.passage_max_len] * (columns * pairs)
    text, start = pack([lengths] * (batch // pairs), max(lengths))
    return Packing(_array((devices, *text.shape), jnp.int32), _array((devices, *start.shape), jnp.int32))


def _target(params: Any, mask: jax.Array, fixed: Any) -> Target:
    return Target(params, mask, *fixed)


def _tokens(*shape: int) -> TokenBatch:
    return TokenBatch(_array(shape, jnp.int32), _array(shape, jnp.bool_))


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
