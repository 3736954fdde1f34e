"""Padding in training: each side padded to the longest text of its batch, against texts packed into shared rows.

`configs/hybrid.py` draws the batches from LibreOffice's help. The benchmark reports the share of padding and
the number of shapes that XLA compiles, for padded batches, packed batches, and batches packed into one number of rows
for the whole run, as several processes do. It then times a step of the first batch both ways, in turns, in bfloat16
with `train.sparse_embeddings`: above 1, packed is faster.
"""

import argparse
from pathlib import Path

from benchmarks.pairs import batches
from benchmarks.steps import first_state, in_turns, make_update, stepping

from jaxretr.files import path_flag

LENGTHS = ((32, 64), (32, 128), (64, 256))  # maximum lengths of queries and passages


def run(model: Path, data_dir: Path, pairs: int, steps: int, rounds: int) -> None:
    import numpy as np

    from jaxretr import parallel
    from jaxretr.data.batches import PairBatch, packing_of
    from jaxretr.model.encode import Encoder
    from jaxretr.tokenization import Tokenization
    from jaxretr.types import TokenBatch

    parallel.initialize()
    encoder = Encoder.load(model)
    drawn = list(batches(data_dir, steps, pairs))
    step, optimizer = make_update(encoder.functions.architecture, "bfloat16", sparse_embeddings=True)
    state = first_state(encoder.params, optimizer)
    numbers = np.arange(1, pairs + 1, dtype=np.uint32)

    def read(texts: tuple[list[str], list[str]], sides: list[Tokenization], *, full: bool) -> PairBatch:
        queries, passages = (
            side.pad(side(some), side.max_len if full else None) for side, some in zip(sides, texts, strict=True)
        )
        return PairBatch(queries, TokenBatch(*(leaf[:, None] for leaf in passages)), numbers, numbers[:, None])

    for lengths in LENGTHS:
        sides = [
            Tokenization(encoder.tokenizer.backend_tokenizer, prefix=prefix, max_len=length, pad_id=1)
            for prefix, length in zip((encoder.query_prefix, encoder.passage_prefix), lengths, strict=True)
        ]
        padded = [read(texts, sides, full=False) for texts in drawn]
        full = [read(texts, sides, full=True) for texts in drawn]
        packed = [batch._replace(packing=packing_of(batch, pairs)) for batch in full]
        tokens = sum(int(batch.queries.mask.sum() + batch.passages.mask.sum()) for batch in padded)
        rows = [len(batch.packing.text) for batch in packed]
        slots = {
            "padded": [(batch.queries.mask.size, batch.passages.mask.size) for batch in padded],
            "packed": [(count * lengths[1],) for count in rows],
            "one row count": [(max(rows) * lengths[1],)] * steps,
        }
        print(f"queries of at most {lengths[0]} tokens, passages of at most {lengths[1]}:")
        for kind, shapes in slots.items():
            print(f"{kind:14} {1 - tokens / sum(map(sum, shapes)):6.1%} padding, {len(set(shapes))} shapes")
        seconds = in_turns(
            {"padded": stepping(state, step, padded[0]), "packed": stepping(state, step, packed[0])}, rounds
        )
        ratios = [one / other for one, other in zip(seconds["padded"], seconds["packed"], strict=True)]
        print(f"a step, padded to packed: {ratios[0]:.2f} (CPU time {ratios[1]:.2f})")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=path_flag, required=True, help="a saved model, such as scripts/import_weights.py")
    add("--data_dir", type=path_flag, default="data", help="where LibreOffice's help is kept, or fetched to")
    for name, size in {"pairs": 32, "steps": 120, "rounds": 5}.items():
        add(f"--{name}", type=int, default=size, help="default: %(default)s")
