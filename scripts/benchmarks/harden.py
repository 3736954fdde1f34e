"""One step of each hardening method, against the clean step, in one process on the same weights.

The steps take turns and learn nothing (learning rate 0), so every step uses the same parameters. Token ids are random,
without padding; remat is "dots" and dropout is off. A ratio is the number of clean steps that one step costs. On a
machine with other load, compare the CPU times.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from jaxretr.files import path_flag

CLEAN = "clean"


def run(model: Path, pairs: int, query_length: int, passage_length: int, rounds: int) -> None:
    import optax

    from jaxretr import parallel
    from jaxretr.data.batches import PairBatch, Translations
    from jaxretr.model.encode import Encoder
    from jaxretr.model.functions import functions
    from jaxretr.train import hardening
    from jaxretr.train.step import TrainState, make_step
    from jaxretr.types import TokenBatch

    encoder = Encoder.load(model)
    architecture = encoder.functions.architecture
    rng = np.random.default_rng(0)

    def tokens(*shape: int) -> TokenBatch:
        return TokenBatch(rng.integers(5, architecture.vocab_size, shape, np.int32), np.ones(shape, bool))

    first, others = np.arange(pairs, dtype=np.uint32), np.arange(pairs, 3 * pairs, dtype=np.uint32).reshape(-1, 2)
    far = np.uint32(3 * pairs)  # passages have distinct contents: no false negatives
    batch = PairBatch(tokens(pairs, query_length), tokens(pairs, 1, passage_length), first, first[:, None] + far)
    batches = {
        "typos": batch._replace(typo_queries=tokens(pairs, query_length)),
        "translations, 2 others": batch._replace(
            translations=Translations(
                tokens(pairs, 2, query_length), tokens(pairs, 2, passage_length), others, others + far
            )
        ),
    }
    budget = hardening.Budget(0.1, "token_l2", tuple(sorted(encoder.tokenizer.all_special_ids)))
    methods = {
        CLEAN: None,
        "fgm": partial(hardening.fgm, budget=budget, weight=1.0),
        "pgd, 3 steps": partial(hardening.pgd, budget=budget, steps=3, weight=1.0),
        "freelb, 3 steps": partial(hardening.freelb, budget=budget, steps=3),
        "vat, 1 iteration": partial(hardening.vat, budget=budget, steps=1, weight=1.0),
        "typos": partial(hardening.self_teaching, weight=1.0),
        "translations, 2 others": hardening.worst_translations,
    }
    optimizer, compute = optax.sgd(0.0), functions(architecture, remat="dots", dropout_rate=0.0)
    settings = {"temperature": 0.02, "symmetric": True, "dropout": False}
    axes = {"in_axes": (None, 0, None), "out_axes": None, "donate_argnums": (0,)}
    steps = {
        name: parallel.pmap(make_step(compute, optimizer, hardening=method, **settings), **axes)
        for name, method in methods.items()
    }
    state = parallel.replicate(TrainState(np.int32(0), encoder.params, optimizer.init(encoder.params)))
    key = parallel.replicate(jax.random.key(0, impl="rbg"))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(rounds + 1):  # the first round compiles
        for name, step in steps.items():
            share = parallel.split(batches.get(name, batch))
            began, cpu_began = time.perf_counter(), time.process_time()
            state, metrics = step(state, share, key)
            jax.block_until_ready(metrics)
            seconds[name].append((time.perf_counter() - began, time.process_time() - cpu_began))
    medians = {name: tuple(map(statistics.median, zip(*taken[1:], strict=True))) for name, taken in seconds.items()}
    for name, (wall, cpu) in medians.items():
        ratios = wall / medians[CLEAN][0], cpu / medians[CLEAN][1]
        print("{:22} {:6.2f} s {:6.2f} CPU s  to clean: {:.2f} (CPU time {:.2f})".format(name, wall, cpu, *ratios))


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=path_flag, required=True, help="a saved model")
    for name, size in {"pairs": 8, "query_length": 32, "passage_length": 64, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default: %(default)s")
