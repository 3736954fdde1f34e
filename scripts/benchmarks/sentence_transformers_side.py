"""The sentence-transformers side of `scripts/benchmark.py train` and `encode`.

Communicates in JSON lines. Input: texts and a setting. Output: wall and CPU seconds and the result. Needs torch and
sentence-transformers 6, and nothing of jaxretr.

A training step consists of the library's model, its MultipleNegativesRankingLoss, clipping, and AdamW in one fused
kernel. The trainer is left out; it would only add time. Settings: float32 or bfloat16 (autocast in training; weights
cast once for encoding), each without and with `torch.compile`.
"""

import contextlib
import json
import sys
import time

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Side:
    """Models, loaded on first use."""

    def __init__(self, directory: str):
        self._directory = directory
        self._encoders: dict[str, SentenceTransformer] = {}
        self._training: dict[str, tuple] = {}
        self._optimizer = None
        self._trained = None

    def _load(self) -> SentenceTransformer:
        return SentenceTransformer(self._directory, device="cpu", config_kwargs=NO_DROPOUT)

    def train(self, setting: str, queries: list[str], passages: list[str], lengths: list[int], rate: float) -> float:
        if self._trained is None:
            self._trained = self._load().train()
            self._optimizer = torch.optim.AdamW(self._trained.parameters(), lr=rate, weight_decay=0.01, fused=True)
        model = self._trained
        dtype, _, compiled = setting.partition(" ")
        if setting not in self._training:
            transformer = model[0].auto_model
            self._training[setting] = torch.compile(transformer) if compiled else transformer
        model[0].auto_model = self._training[setting]
        features = []
        for texts, prompt, length in zip((queries, passages), ("query: ", "passage: "), lengths, strict=True):
            model.max_seq_length = length
            features.append(model.preprocess([prompt + text for text in texts]))
        autocast = torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
        with autocast:
            loss = MultipleNegativesRankingLoss(model, scale=50.0)(features, torch.empty(0))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()

    def encode(self, setting: str, texts: list[str], batch_size: int) -> list[list[float]]:
        if setting not in self._encoders:
            dtype, _, compiled = setting.partition(" ")
            model = self._load()
            if dtype == "bfloat16":
                model.bfloat16()
            if compiled:
                model[0].auto_model = torch.compile(model[0].auto_model, dynamic=True)
            self._encoders[setting] = model
        made = self._encoders[setting].encode(
            texts, prompt="passage: ", batch_size=batch_size, convert_to_numpy=False, show_progress_bar=False
        )
        return torch.stack(made).float()[:8].tolist()


def main(directory: str) -> None:
    side = Side(directory)
    for line in sys.stdin:
        asked = json.loads(line)
        run = getattr(side, asked.pop("do"))
        began, cpu_began = time.perf_counter(), time.process_time()
        with torch.inference_mode() if run != side.train else contextlib.nullcontext():
            result = run(**asked)
        seconds = time.perf_counter() - began, time.process_time() - cpu_began
        print(json.dumps({"seconds": seconds, "result": result}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
