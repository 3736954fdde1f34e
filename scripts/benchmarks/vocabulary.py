"""Time of a training step as the vocabulary grows, with and without `train.sparse_embeddings`.

The same encoder has word tables of 5,000, 50,000 and 250,000 rows; batches draw tokens from the first 5,000. Each ratio
is to the smallest table with the same kind of embeddings.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
from benchmarks.steps import first_state, in_turns, made_batch, make_update, stepping

from jaxretr.files import path_flag

ROWS = (5_000, 50_000, 250_000)


def run(model: Path, pairs: int, query_length: int, passage_length: int, dtype: str, rounds: int) -> None:
    from jaxretr import parallel
    from jaxretr.model.functions import init_params
    from jaxretr.model.weights import load_params

    parallel.initialize()
    architecture, _ = load_params(model)
    batch = made_batch(pairs, ROWS[0], query_length, passage_length)
    for sparse in (False, True):
        sides = {}
        for rows in ROWS:
            sized = dataclasses.replace(architecture, vocab_size=rows)
            step, optimizer = make_update(sized, dtype, sparse_embeddings=sparse)
            state = first_state(init_params(sized, jax.random.key(0)), optimizer)
            sides[f"{'sparse' if sparse else 'dense'} {rows:>7,}"] = stepping(state, step, batch)
        medians = in_turns(sides, rounds)
        first = next(iter(medians.values()))
        for name, (wall, cpu) in medians.items():
            ratios = wall / first[0], cpu / first[1]
            print("{} rows  {:6.3f} s a step  to 5,000 rows: {:.2f} (CPU time {:.2f})".format(name, wall, *ratios))


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=path_flag, required=True, help="a saved model, for its architecture")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="default: %(default)s")
    for name, size in {"pairs": 32, "query_length": 32, "passage_length": 64, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default: %(default)s")
