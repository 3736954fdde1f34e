"""Encoding of real passages of mixed length, against sentence-transformers 6 on the same weights.

The texts are whole passages of LibreOffice's help in eight languages, up to the length that the model allows.
sentence-transformers runs with float32 and bfloat16 weights, each without and with `torch.compile`, in batches of 32
that it sorts by length. Ours runs in float32 and bfloat16. PyTorch's environment and the ratios are as in `train`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from benchmarks.pairs import passages
from benchmarks.torch_process import TorchProcess
from benchmarks.train import THEIRS, report

from jaxretr.files import path_flag


def run(model: Path, torch_python: Path, data_dir: Path, texts: int, rounds: int) -> None:
    from jaxretr import parallel
    from jaxretr.model.encode import Encoder

    parallel.initialize()
    read = passages(data_dir, texts)
    encoders = {dtype: Encoder.load(model, dtype=dtype) for dtype in ("float32", "bfloat16")}
    tokenize = encoders["float32"].passage_tokenization
    lengths = [len(ids) for ids in tokenize(read)]
    print(f"{texts} passages, {min(lengths)} to {max(lengths)} tokens, median {np.median(lengths):.0f}")
    seconds: dict[str, list[tuple[float, float]]] = {}
    with TorchProcess(torch_python, "sentence_transformers_side.py", model) as torch:
        for _ in range(rounds + 2):
            found = {}
            for setting in THEIRS:
                answer = torch.ask(do="encode", setting=setting, texts=read, batch_size=32)
                seconds.setdefault(f"theirs {setting}", []).append(answer["seconds"])
                found[setting] = np.array(answer["result"])
            for dtype, encoder in encoders.items():
                began, cpu_began = time.perf_counter(), time.process_time()
                embeddings = encoder.encode_document(read, progress=False)
                taken = time.perf_counter() - began, time.process_time() - cpu_began
                seconds.setdefault(f"ours {dtype}", []).append(taken)
                cosine = (embeddings[:8] * found[dtype]).sum(1) / np.linalg.norm(found[dtype], axis=1)
                np.testing.assert_allclose(cosine, 1, atol=1e-5 if dtype == "float32" else 1e-2)
    report(seconds, texts, "texts/s")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=path_flag, required=True, help="a saved model with mean pooling")
    add("--torch_python", type=path_flag, required=True, help="the interpreter of the environment with PyTorch")
    add("--data_dir", type=path_flag, default="data", help="where LibreOffice's help is kept, or fetched to")
    for name, size in {"texts": 96, "rounds": 5}.items():
        add(f"--{name}", type=int, default=size, help="default: %(default)s")
