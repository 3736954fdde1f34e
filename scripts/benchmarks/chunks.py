"""Gradient caching: one step over eight times the pairs, encoded in chunks, against plain steps.

The loss sees eight times the negatives; memory stays that of one chunk. The ratio compares time per pair: the second
forward pass of the encoder alone adds a third to the computation of a plain step.
"""

import argparse
from pathlib import Path

from benchmarks.steps import first_state, in_turns, made_batch, make_update, stepping

from jaxretr.files import path_flag

TIMES = 8


def run(model: Path, pairs: int, query_length: int, passage_length: int, dtype: str, rounds: int) -> None:
    from jaxretr import parallel
    from jaxretr.model.encode import Encoder

    parallel.initialize()
    encoder = Encoder.load(model)
    architecture = encoder.functions.architecture
    plain_step, optimizer = make_update(architecture, dtype)
    chunked_step, _ = make_update(architecture, dtype, chunk_size=pairs)
    state = first_state(encoder.params, optimizer)
    sides = {
        name: stepping(state, step, made_batch(size, architecture.vocab_size, query_length, passage_length))
        for name, step, size in (("plain", plain_step, pairs), ("chunks", chunked_step, TIMES * pairs))
    }
    medians = in_turns(sides, rounds)
    plain = medians["plain"]
    for (name, (wall, cpu)), size in zip(medians.items(), (pairs, TIMES * pairs), strict=True):
        ratios = wall / size * pairs / plain[0], cpu / size * pairs / plain[1]
        print(
            f"{name:8} {size:5} pairs  {wall:7.2f} s  {wall / size * 1e3:7.1f} ms a pair"
            "  to plain, a pair: {:.2f} (CPU time {:.2f})".format(*ratios)
        )


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=path_flag, required=True, help="a saved model")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="default: %(default)s")
    for name, size in {"pairs": 16, "query_length": 32, "passage_length": 64, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="default: %(default)s")
