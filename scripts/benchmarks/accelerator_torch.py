"""The sentence-transformers side of `scripts/benchmark.py accelerator`: a process that is asked in JSON lines.

It needs torch and sentence-transformers, and nothing of jaxretr. A training step is the library's model, its
MultipleNegativesRankingLoss, clipping, and AdamW in one fused kernel. The trainer is left out; it would only add time.
Texts are tokenized before the clock starts, with the library's own collation.

| setting | |
|---|---|
| `autocast` | float32 weights under bfloat16 autocast, PyTorch's scaled dot product attention |
| `bfloat16 weights` | weights cast once; in training, the optimizer's state too, which changes the method |
| `…, FlashAttention-2` | the package flash-attn, if it is installed; sentence-transformers then drops padding |
| `…, compiled` | `torch.compile`, on GPUs |
"""

import contextlib
import gc
import importlib.metadata
import importlib.util
import time
from typing import Any

import accelerator_data as data
import numpy as np
from side_loop import serve

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Side:
    """Answers questions; every public method is one question."""

    def __init__(self) -> None:
        self._device = "cpu"
        self._directory = ""
        self._trained: dict[str, tuple] = {}
        self._transformers: dict[str, Any] = {}
        self._warm: set[str] = set()
        self._encoders: dict[str, Any] = {}
        self._features: dict[str, list] = {}
        self._encoded: set[tuple] = set()

    def describe(self, platform: str) -> dict[str, Any]:
        """Return versions and settings, or what is missing to run on the platform of the other side."""
        try:
            import sentence_transformers  # noqa: F401
            import torch
        except ImportError as error:
            return {"missing": f"sentence-transformers cannot be imported ({error})"}
        if platform not in ("cpu", "gpu"):
            return {"missing": f"sentence-transformers has no backend for {platform} devices here"}
        if platform == "gpu" and not torch.cuda.is_available():
            return {"missing": "PyTorch sees no GPU (a build without CUDA, or without a driver)"}
        flash = platform == "gpu" and importlib.util.find_spec("flash_attn") is not None
        names = ("torch", "sentence-transformers", "transformers", *(["flash-attn"] if flash else []))
        settings = ["autocast", "bfloat16 weights", *(["bfloat16 weights, FlashAttention-2"] if flash else [])]
        compiled = [f"{setting}, compiled" for setting in settings[:2]] if platform == "gpu" else []
        return {
            "device": torch.cuda.get_device_name(0) if platform == "gpu" else "cpu",
            "versions": {name: importlib.metadata.version(name) for name in names},
            "training": settings + compiled,
            "encoding": settings[1:],
            "compiled": compiled[1:],
        }

    def open(self, directory: str, platform: str) -> dict[str, Any]:
        """Name the saved model to load, and the platform to run on."""
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()  # the weights have no pooler, and it is not used
        transformers.utils.logging.disable_progress_bar()
        self.release()
        self._encoders, self._encoded = {}, set()
        torch.set_float32_matmul_precision("high")
        self._directory, self._device = directory, "cuda" if platform == "gpu" else "cpu"
        return {}

    def train(self, setting: str, file: str) -> dict[str, Any]:
        """Run one update per batch of the file; return seconds, and the loss of the first batch."""
        import torch

        weights = setting.removesuffix(", compiled")
        if weights not in self._trained:
            self._trained[weights] = self._trainable(weights)
        model = self._trained[weights][0]
        batches = self._batches(weights, file)
        plain = self._transformers.setdefault(weights, model[0].auto_model)
        if "compiled" in setting and setting not in self._transformers:
            self._transformers[setting] = torch.compile(plain)
        model[0].auto_model = self._transformers[setting]
        if setting not in self._warm:
            self._update(weights, batches[:2])
            self._warm.add(setting)
        began = time.perf_counter()
        loss = self._update(weights, batches)
        return {"seconds": time.perf_counter() - began, "loss": loss}

    def encode(self, setting: str, file: str, length: int, batch_size: int) -> dict[str, Any]:
        """Encode all texts of one length; return seconds and the first embeddings."""
        import torch

        texts = data.texts(np.load(file)[f"encode_{length}"])
        if setting not in self._encoders:
            self._encoders[setting] = self._load(setting)
        model = self._encoders[setting]
        model.max_seq_length = length

        def run() -> np.ndarray:
            made = model.encode(
                texts, batch_size=batch_size, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
            )
            return made.float().cpu().numpy()  # as a host array, like the other side's

        with torch.inference_mode():
            if (setting, length, batch_size) not in self._encoded:
                run()
                self._encoded.add((setting, length, batch_size))
            began = time.perf_counter()
            embeddings = run()
        return {"seconds": time.perf_counter() - began, "embeddings": embeddings[:4].tolist()}

    def release(self) -> dict[str, Any]:
        """Free the memory of training."""
        import torch

        self._trained, self._transformers, self._features, self._warm = {}, {}, {}, set()
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()
        return {}

    def _load(self, setting: str) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        flash = "FlashAttention-2" in setting
        newer = int(importlib.metadata.version("transformers").partition(".")[0]) >= 5
        model = SentenceTransformer(
            self._directory,
            device=self._device,
            config_kwargs=NO_DROPOUT,
            model_kwargs={
                "attn_implementation": "flash_attention_2" if flash else "sdpa",
                "dtype" if newer else "torch_dtype": torch.bfloat16 if "bfloat16" in setting else torch.float32,
            },
        )
        if "compiled" in setting:
            model[0].auto_model = torch.compile(model[0].auto_model)
        return model

    def _trainable(self, setting: str) -> tuple:
        """Return the model, its loss and its optimizer."""
        import torch

        try:
            from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        except ImportError:  # before version 6
            from sentence_transformers.losses import MultipleNegativesRankingLoss

        model = self._load(setting).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=data.RATE, weight_decay=0.01, fused=True)
        return model, MultipleNegativesRankingLoss(model, scale=1 / data.TEMPERATURE), optimizer

    def _batches(self, weights: str, file: str) -> list:
        """Return the batches as the library collates them, on the host."""
        key = "flash" if "FlashAttention-2" in weights else "padded"
        if key not in self._features:
            model, arrays = self._trained[weights][0], np.load(file)
            collate = model.preprocess if hasattr(model, "preprocess") else model.tokenize  # before version 6
            self._features[key] = []
            for pair in zip(arrays["query_ids"], arrays["passage_ids"], strict=True):
                features = []
                for ids in pair:
                    model.max_seq_length = ids.shape[1]
                    features.append(collate(data.texts(ids)))
                self._features[key].append(features)
        return self._features[key]

    def _update(self, weights: str, batches: list) -> float:
        """Make an update per batch, wait for the last, and return the loss of the first."""
        import torch
        from sentence_transformers.util import batch_to_device

        model, criterion, optimizer = self._trained[weights]
        first = None
        for features in batches:
            moved = [batch_to_device(dict(side), torch.device(self._device)) for side in features]
            autocast = (
                torch.autocast(self._device, torch.bfloat16) if weights == "autocast" else contextlib.nullcontext()
            )
            with autocast:
                loss = criterion(moved, torch.empty(0))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            first = loss.detach() if first is None else first
        self._wait()
        return float(first)

    def _wait(self) -> None:
        import torch

        if self._device == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    serve(Side())
