"""One HotFlip iteration of corpus poisoning, against two PyTorch programs (attack_torch.py), on the same weights.

`loop` follows the published programs; `batched` is how one would write the attack today. PyTorch needs an environment
of its own: `python -m venv TORCH_ENVIRONMENT && TORCH_ENVIRONMENT/bin/pip install torch transformers`. Ratios are
PyTorch's time to ours: above 1, ours is faster. On a machine with other load, compare the CPU times.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxretr.files import path_flag

SIDES = ("loop", "batched")


def run(model: Path, torch_python: Path, slots: int, candidates: int, queries: int, repeats: int) -> None:
    from jaxretr import parallel
    from jaxretr.attack.token import Similarity, Vocabulary
    from jaxretr.attack.token.engine import Engine, Problem, Shared, at_once, compiled_chunk, compiled_start
    from jaxretr.attack.token.precision import default_finalists
    from jaxretr.attack.token.schedules import Positionwise
    from jaxretr.attack.token.template import Frame, make_template, tokenization
    from jaxretr.model.encode import Encoder

    encoder = Encoder.load(model)
    mask = Vocabulary.of(encoder).admissible()
    allowed = np.flatnonzero(mask).astype(np.int32)
    words = np.random.default_rng(0).choice(allowed, (queries, 10)).tolist()
    texts = encoder.tokenizer.backend_tokenizer.decode_batch(words)
    tokenize = tokenization(encoder, "query")
    asked = tokenize.pad(tokenize(texts))
    template = make_template(encoder, "passage", [Frame()], slots)
    target = encoder.encode_query(texts, progress=False).mean(0)
    one = Problem(template, target[None], jax.random.key(0))
    problem = jax.tree.map(lambda leaf: leaf[None, None], one)
    table = encoder.functions.embed_tokens(encoder.params, jax.numpy.asarray(allowed)[None])[0]
    shared = Shared(encoder.params, parallel.replicate(allowed), parallel.replicate(table))
    engine = Engine(encoder.functions, Similarity(), Positionwise(candidates), default_finalists())
    start = compiled_start(engine)(shared, problem)
    chunk = compiled_chunk(engine, 1, at_once(jax.tree.map(lambda leaf: leaf[None], template)))

    def ours(iteration: int) -> tuple[tuple[float, float], np.ndarray, float]:
        """Return wall and CPU seconds, the new ids and their objective."""
        began, cpu_began = time.perf_counter(), time.process_time()
        states, _ = chunk(shared, problem, start, np.int32(iteration), np.int32(iteration + 1))
        ids, value = parallel.merge(states.ids)[0], float(parallel.merge(states.value)[0])
        return (time.perf_counter() - began, time.process_time() - cpu_began), ids, value

    first = parallel.merge(start.ids)[0]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "poisoning.npz"
        passage = template.ids[0].copy()
        passage[template.slots[0]] = first
        np.savez(
            file, passage=passage, slots=template.slots[0], allowed=mask, query_ids=asked.ids, query_mask=asked.mask
        )
        command = [torch_python, Path(__file__).with_name("attack_torch.py"), model, file, str(candidates)]
        torch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def theirs(side: str, slot: int) -> dict:
            print(json.dumps({"side": side, "slot": slot}), file=torch.stdin, flush=True)
            return json.loads(torch.stdout.readline())

        seconds = []
        for iteration in range(repeats + 1):  # the first iteration warms up
            taken, ids, value = ours(iteration)
            slot = int(np.argmax(ids != first))
            runs = [theirs(side, slot) for side in SIDES]
            for other in runs:  # the best candidate must be the same, unless no candidate beats the start
                np.testing.assert_allclose(value, other["best"], atol=1e-4)
            seconds.append([taken, *(other["seconds"] for other in runs)])
        torch.stdin.close()
        torch.wait()
    median = np.median(seconds[1:], axis=0)
    for side, (wall, cpu) in zip(("ours", *SIDES), median, strict=True):
        print(f"{side:8} {wall:7.2f} s  {cpu:7.2f} CPU s an iteration")
    for side, taken in zip(SIDES, median[1:], strict=True):
        print("PyTorch {} to ours: {:.1f} (CPU time {:.1f})".format(side, *taken / median[0]))


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=path_flag, required=True, help="a saved model with mean pooling")
    add("--torch_python", type=path_flag, required=True, help="the interpreter of the environment with PyTorch")
    for name, size in {"slots": 50, "candidates": 100, "queries": 64, "repeats": 5}.items():
        add(f"--{name}", type=int, default=size, help="default: %(default)s")
