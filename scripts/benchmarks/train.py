"""Training, from texts to updated parameters, against sentence-transformers 6 on the same batches and weights.

Both sides use the same model, batches of LibreOffice's help as `configs/hybrid.py` draws them, lengths, loss (InfoNCE
over the batch; MultipleNegativesRankingLoss in sentence-transformers) and AdamW with clipping, without dropout.
sentence-transformers runs in float32 and under bfloat16 autocast, each without and with `torch.compile`. Ours runs in
float32 and bfloat16, with and without `train.sparse_embeddings`. PyTorch needs an environment of its own:
`python -m venv TORCH_ENVIRONMENT && TORCH_ENVIRONMENT/bin/pip install torch 'sentence-transformers>=6,<7'`. All sides
take turns on each batch; the first rounds warm up. Ratios are the median time of sentence-transformers' best setting to
ours: above 1, ours is faster.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from benchmarks.pairs import batches
from benchmarks.torch_process import TorchProcess

from jaxretr.files import path_flag

RATE = 1e-9  # small enough that all settings can train in sequence on the same weights
THEIRS = ("float32", "float32 compiled", "bfloat16", "bfloat16 compiled")


def run(
    model: Path, torch_python: Path, data_dir: Path, pairs: int, query_length: int, passage_length: int, rounds: int
) -> None:
    import optax

    from jaxretr import parallel
    from jaxretr.data.batches import PairBatch, packing_of
    from jaxretr.model.encode import Encoder
    from jaxretr.model.functions import functions
    from jaxretr.tokenization import Tokenization
    from jaxretr.train.optimizer import adamw
    from jaxretr.train.step import TrainState, make_step
    from jaxretr.types import TokenBatch

    parallel.initialize()
    encoder = Encoder.load(model)
    optimizer = adamw(optax.constant_schedule(RATE), weight_decay=0.01, max_grad_norm=1.0)
    sides = [
        Tokenization(encoder.tokenizer.backend_tokenizer, prefix=prefix, max_len=length, pad_id=1)
        for prefix, length in ((encoder.query_prefix, query_length), (encoder.passage_prefix, passage_length))
    ]
    steps = {
        f"{dtype}{' sparse' if sparse else ''}": parallel.pmap(
            make_step(
                functions(encoder.functions.architecture, dtype=dtype, remat="dots", dropout_rate=0.0),
                optimizer,
                temperature=0.02,
                symmetric=False,
                dropout=False,
                sparse_embeddings=sparse,
            ),
            in_axes=(None, 0, None),
            out_axes=None,
            donate_argnums=(0,),
        )
        for dtype in ("float32", "bfloat16")
        for sparse in (False, True)
    }
    state = parallel.replicate(TrainState(np.int32(0), encoder.params, optimizer.init(encoder.params)))
    key = parallel.replicate(jax.random.key(0, impl="rbg"))

    compiled: set[tuple[str, tuple[int, ...]]] = set()

    def ours(name: str, queries: list[str], passages: list[str]) -> tuple[tuple[float, float], float]:
        nonlocal state
        began, cpu_began = time.perf_counter(), time.process_time()
        tokens = [side.pad(side(texts), side.max_len) for side, texts in zip(sides, (queries, passages), strict=True)]
        numbers = np.arange(1, pairs + 1, dtype=np.uint32)
        column = TokenBatch(*(leaf[:, None] for leaf in tokens[1]))
        batch = PairBatch(tokens[0], column, numbers, numbers[:, None])
        batch = batch._replace(packing=packing_of(batch, pairs // jax.device_count()))
        state, metrics = steps[name](state, parallel.split(batch), key)
        loss = float(metrics.loss)
        jax.block_until_ready(state)
        taken = (time.perf_counter() - began, time.process_time() - cpu_began)
        shape = (name, batch.packing.text.shape)
        if shape not in compiled:  # a run compiles once per number of rows: time the step again
            compiled.add(shape)
            return ours(name, queries, passages)
        return taken, loss

    seconds: dict[str, list[tuple[float, float]]] = {}
    with TorchProcess(torch_python, "sentence_transformers_side.py", model) as torch:
        lengths, drawn = [query_length, passage_length], list(batches(data_dir, rounds, pairs))
        for round_number, (queries, passages) in enumerate([*drawn[:2], *drawn]):
            losses = {}
            for setting in THEIRS:
                answer = torch.ask(
                    do="train", setting=setting, queries=queries, passages=passages, lengths=lengths, rate=RATE
                )
                seconds.setdefault(f"theirs {setting}", []).append(answer["seconds"])
                losses[f"theirs {setting}"] = answer["result"]
            for name in steps:
                taken, losses[f"ours {name}"] = ours(name, queries, passages)
                seconds.setdefault(f"ours {name}", []).append(taken)
            if round_number == 0:
                for name, loss in losses.items():  # in bfloat16, scores change the second digit of a loss of about 0.1
                    np.testing.assert_allclose(loss, losses["theirs float32"], rtol=0.3 if "bf" in name else 1e-3)
    report(seconds, pairs, "examples/s")


def report(seconds: dict[str, list[tuple[float, float]]], items: int, unit: str) -> None:
    """Print the medians of all but the first two rounds, and the ratios to the other side's best."""
    medians = {name: tuple(map(statistics.median, zip(*taken[2:], strict=True))) for name, taken in seconds.items()}
    theirs = {name: median for name, median in medians.items() if name.startswith("theirs")}
    best = min(theirs, key=lambda name: theirs[name][0])
    for name, (wall, cpu) in medians.items():
        ratio = "" if name in theirs else f"  {best} to this: {theirs[best][0] / wall:.2f}"
        print(f"{name:26} {items / wall:8.1f} {unit}  {wall:6.2f} s {cpu:6.2f} CPU s{ratio}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        type=path_flag,
        required=True,
        help="a saved model with mean pooling, such as scripts/import_weights.py",
    )
    add("--torch_python", type=path_flag, required=True, help="the interpreter of the environment with PyTorch")
    add("--data_dir", type=path_flag, default="data", help="where LibreOffice's help is kept, or fetched to")
    for name, size in {"pairs": 32, "query_length": 32, "passage_length": 128, "rounds": 8}.items():
        add(f"--{name}", type=int, default=size, help="default: %(default)s")
