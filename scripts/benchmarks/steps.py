"""Shared by the benchmarks of training steps: synthetic batches, compiled steps, and sides that take turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def made_batch(pairs: int, vocab_size: int, query_length: int, passage_length: int) -> Any:
    """Return random token ids without padding. Passages have distinct contents, so there are no false negatives."""
    from jaxretr.data.batches import PairBatch
    from jaxretr.types import TokenBatch

    rng = np.random.default_rng(0)

    def tokens(*shape: int) -> TokenBatch:
        return TokenBatch(rng.integers(5, vocab_size, shape, np.int32), np.ones(shape, bool))

    numbers = np.arange(pairs, dtype=np.uint32)
    return PairBatch(
        tokens(pairs, query_length), tokens(pairs, 1, passage_length), numbers, numbers[:, None] + np.uint32(pairs)
    )


def make_update(architecture: Any, dtype: str, rate: float = 1e-9, **options: Any) -> tuple[Any, Any]:
    """Return the step of `configs/hybrid.py`, without dropout and for one device, and its optimizer.

    The learning rate is small enough that all sides can train in sequence on the same weights.
    """
    import optax

    from jaxretr.model.functions import functions
    from jaxretr.train.optimizer import adamw
    from jaxretr.train.step import make_step

    optimizer = adamw(optax.constant_schedule(rate), weight_decay=0.01, max_grad_norm=1.0)
    encoder = functions(architecture, dtype=dtype, remat="dots", dropout_rate=0.0)
    return make_step(encoder, optimizer, temperature=0.02, symmetric=True, dropout=False, **options), optimizer


def on_all_devices(step: Any, **options: Any) -> Any:
    """Return the step as training runs it."""
    from jaxretr import parallel

    return parallel.pmap(step, in_axes=(None, 0, None), out_axes=None, donate_argnums=(0,), **options)


def stepping(state: list[Any], step: Any, batch: Any) -> Callable[[], None]:
    """Return a side that makes one update and waits for it. `state` is a list that holds only the newest state."""
    from jaxretr import parallel

    compiled, share = on_all_devices(step), parallel.split(batch)
    key = parallel.replicate(jax.random.key(0, impl="rbg"))

    def side() -> None:
        state[0], metrics = compiled(state[0], share, key)
        jax.block_until_ready((state[0], metrics))

    return side


def first_state(params: Any, optimizer: Any) -> list[Any]:
    """Return a list with the initial training state, for `stepping`."""
    from jaxretr import parallel
    from jaxretr.train.step import TrainState

    return [parallel.replicate(TrainState(np.int32(0), params, optimizer.init(params)))]


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median wall seconds and CPU seconds (all cores) of each side. Two extra rounds compile and warm up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds + 2):
        for name, side in sides.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            side()
            taken[name].append((time.perf_counter() - began, time.process_time() - cpu_began))
    return {name: _medians(some[2:]) for name, some in taken.items()}


def _medians(some: list[tuple[float, float]]) -> tuple[float, float]:
    walls, cpus = zip(*some, strict=True)
    return statistics.median(walls), statistics.median(cpus)
