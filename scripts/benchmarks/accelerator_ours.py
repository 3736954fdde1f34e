"""The jaxretr side of `scripts/benchmark.py accelerator`: a process that the benchmark asks in JSON lines.

It makes the random weights, compares the device with the CPU, and runs training, encoding and an attack. Times are
wall seconds from the first call to the last result; the first call of each setting compiles and is not timed.
"""

import dataclasses
import gc
import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any

import accelerator_data as data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from accelerator_parity import TOLERANCES, compare, compare_gradients
from accelerator_settings import PGD_STEPS, architecture_of
from side_loop import serve
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxretr import __version__, parallel
from jaxretr.attack.gradient import InfoNCE, QueryObjective, Target
from jaxretr.attack.gradient.attack import GradientAttack, perturb
from jaxretr.attack.gradient.objective import SplitEncoder
from jaxretr.attack.gradient.pgd import PGD
from jaxretr.data.batches import PairBatch, packing_of
from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import XLA, AttentionOn, resolve_attention
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import Params, functions, init_params
from jaxretr.tpu_estimate.peaks import peak_flops
from jaxretr.train.optimizer import adamw
from jaxretr.train.step import TrainState, make_step
from jaxretr.types import TokenBatch

CANDIDATES = 65
"""Passages per attacked query, as in `jaxretr.attack`: the relevant one and 64 others."""
PARITY_VOCABULARY = 4_096
"""Rows of the word table in the comparison with the CPU: the products are those of the whole model."""


class Side:
    """Answers questions; every public method is one question."""

    def __init__(self) -> None:
        parallel.initialize()
        self._device = jax.local_devices()[0]
        self._architecture: Architecture | None = None
        self._params: Params | None = None
        self._tokenizer: PreTrainedTokenizerFast | None = None
        self._state: TrainState | None = None
        self._steps: dict[str, Any] = {}
        self._batches: list[PairBatch] = []
        self._encoders: dict[str, Encoder] = {}
        self._encoded: set[tuple] = set()

    def describe(self) -> dict[str, Any]:
        """Return the device, its peak and the versions."""
        names = ("jax", "jaxlib", "flax", "optax", "numpy")
        return {
            "platform": self._device.platform,
            "kind": self._device.device_kind,
            "devices": jax.local_device_count(),
            "peak_flops": peak_flops(self._device.device_kind),
            "versions": {
                "jaxretr": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in names},
            },
        }

    def open(self, model: str, tiny: bool, directory: str, write: bool) -> dict[str, Any]:
        """Make the random weights of a model and, with `write`, save them for the other side."""
        self.release()
        self._encoders, self._encoded = {}, set()
        self._architecture = architecture_of(model, tiny)
        self._params = parallel.replicate(init_params(self._architecture, jax.random.key(0)))
        self._tokenizer = _tokenizer(self._architecture.vocab_size)
        if write:
            self._encoder("xla").save(Path(directory))
        return {"attention": _implementations(self._architecture, self._device, "bfloat16")}

    def parity(self, model: str, tiny: bool) -> dict[str, Any]:
        """Compare hidden states and gradients on the device with those on the CPU in float32."""
        architecture = architecture_of(model, tiny)
        architecture = dataclasses.replace(architecture, vocab_size=min(PARITY_VOCABULARY, architecture.vocab_size))
        rng = np.random.default_rng(0)
        longest = min(128, architecture.max_length)
        lengths = rng.integers(longest // 4, longest + 1, 8)
        ids = data.token_ids(rng, lengths, longest, architecture.vocab_size)
        mask = np.arange(longest) < lengths[:, None]
        cotangent = rng.normal(size=(*ids.shape, architecture.hidden_size)).astype(np.float32)
        params = jax.tree.map(np.asarray, init_params(architecture, jax.random.key(0)))
        cpu = jax.local_devices(backend="cpu")[0]

        def values(dtype: str, attention: AttentionOn, device: jax.Device) -> tuple[np.ndarray, dict[str, Any]]:
            made = functions(architecture, dtype=dtype, dropout_rate=0.0, attention=attention)

            def scalar(params: Params, ids: Any, mask: Any, cotangent: Any) -> tuple[jax.Array, jax.Array]:
                hidden = made.hidden_states(params, made.embed_tokens(params, ids), mask).astype(jnp.float32)
                return jnp.sum(hidden * cotangent * mask[..., None]) / jnp.sum(mask), hidden

            with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
                run = jax.jit(jax.grad(scalar, has_aux=True))
                gradient, hidden = run(*jax.device_put((params, ids, mask, cotangent), device))
            leaves = jax.tree_util.tree_leaves_with_path(gradient)
            return np.asarray(hidden)[mask], {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

        hidden, gradient = values("float32", XLA, cpu)
        comparisons = []
        for dtype, tolerance in TOLERANCES.items():
            for name in _implementations(architecture, self._device, dtype):
                found = values(dtype, _attention(name, architecture, self._device, dtype), self._device)
                label = f"{dtype}, {name}"
                comparisons += [
                    compare(f"hidden states, {label}", hidden, found[0], tolerance),
                    compare_gradients(f"gradient, {label}", gradient, found[1], tolerance),
                ]
        return {"comparisons": [dataclasses.asdict(comparison) for comparison in comparisons]}

    def train(self, setting: str, file: str) -> dict[str, Any]:
        """Run one update per batch of the file; return seconds, and the loss of the first batch."""
        if not self._batches:
            self._batches = _packed_batches(np.load(file))
        if self._state is None:
            params = jax.tree.map(jnp.copy, self._params)
            self._state = parallel.replicate(TrainState(np.int32(0), params, _optimizer().init(params)))
        warm = setting in self._steps
        if not warm:
            self._steps[setting] = self._step(setting)
            self._update(setting, self._batches[:2])
        began = time.perf_counter()
        loss = self._update(setting, self._batches)
        return {"seconds": time.perf_counter() - began, "loss": loss}

    def encode(self, setting: str, file: str, length: int, batch_size: int) -> dict[str, Any]:
        """Encode all texts of one length; return seconds and the first embeddings. `batch_size` counts texts."""
        texts = data.texts(np.load(file)[f"encode_{length}"])
        encoder = self._encoder(setting)
        size = max(1, batch_size * length // 128)  # `Encoder` counts texts of 128 tokens

        def run() -> np.ndarray:
            return encoder.encode_document(texts, batch_size=size, progress=False)

        if (setting, length, batch_size) not in self._encoded:
            run()
            self._encoded.add((setting, length, batch_size))
        began = time.perf_counter()
        embeddings = run()
        return {"seconds": time.perf_counter() - began, "embeddings": embeddings[:4].tolist()}

    def attack(self, setting: str, file: str) -> dict[str, Any]:
        """Attack all queries of the file with PGD; return seconds. In float32, as all attacks run."""
        rows = np.load(file)["attack"]
        encoder = self._encoder(setting, "float32")
        rng = np.random.default_rng(1)
        candidates = rng.normal(size=(len(rows), CANDIDATES, encoder.dim)).astype(np.float32)
        candidates /= np.linalg.norm(candidates, axis=-1, keepdims=True)
        relevant = np.zeros(candidates.shape[:2], bool)
        relevant[:, 0] = True

        def run() -> None:
            perturb(
                encoder,
                encoder.query_tokenization,
                GradientAttack(PGD, steps=PGD_STEPS),
                QueryObjective(SplitEncoder(encoder.functions), InfoNCE(data.TEMPERATURE)),
                _target,
                rows.tolist(),
                (candidates, relevant, ~relevant),
                0.1,
                names=[str(number) for number in range(len(rows))],
                seed=0,
                description="attack",
            )

        if ("attack", setting) not in self._encoded:
            run()
            self._encoded.add(("attack", setting))
        began = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - began}

    def release(self) -> dict[str, Any]:
        """Free the memory of training."""
        self._state, self._steps, self._batches = None, {}, []
        gc.collect()
        return {}

    def _step(self, setting: str) -> Any:
        name, _, remat = setting.partition(", remat ")
        assert self._architecture is not None
        encoder = functions(
            self._architecture,
            dtype="bfloat16",
            remat=remat,  # type: ignore[arg-type]
            dropout_rate=0.0,
            attention=_attention(name, self._architecture, self._device, "bfloat16"),
        )
        step = make_step(encoder, _optimizer(), temperature=data.TEMPERATURE, symmetric=False, dropout=False)
        return parallel.pmap(step, in_axes=(None, 0, None), out_axes=None, donate_argnums=(0,))

    def _update(self, setting: str, batches: list[PairBatch]) -> float:
        """Make an update per batch, wait for the last, and return the loss of the first."""
        key = parallel.replicate(jax.random.key(0, impl="rbg"))
        losses = []
        for batch in batches:
            self._state, metrics = self._steps[setting](self._state, batch, key)
            losses.append(metrics.loss)
        jax.block_until_ready(self._state)
        return float(losses[0])

    def _encoder(self, attention: str, dtype: str = "bfloat16") -> Encoder:
        name = f"{attention} {dtype}"
        if name not in self._encoders:
            assert self._architecture is not None and self._tokenizer is not None
            chosen = _attention(attention, self._architecture, self._device, dtype)
            made = functions(self._architecture, dtype=dtype, attention=chosen)
            self._encoders[name] = Encoder(made, self._params, self._tokenizer)
        return self._encoders[name]


def _attention(name: str, architecture: Architecture, device: jax.Device, dtype: str) -> AttentionOn:
    return resolve_attention(name, device.platform, architecture, dtype, device_kind=device.device_kind)[0]


def _implementations(architecture: Architecture, device: jax.Device, dtype: str) -> list[str]:
    """Return the implementations of attention that the device has for this model."""
    try:
        _attention("fused", architecture, device, dtype)
    except ValueError:
        return ["xla"]
    return ["xla", "fused"]


def _optimizer() -> optax.GradientTransformation:
    return adamw(optax.constant_schedule(data.RATE), weight_decay=0.01, max_grad_norm=1.0)


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    made = tokenizers.Tokenizer(models.WordLevel(data.vocabulary(size), unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", data.BEGIN), ("</s>", data.END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _packed_batches(arrays: Any) -> list[PairBatch]:
    """Return the batches in packed rows, all with the same number of rows, split over the devices."""

    def tokens(ids: np.ndarray) -> TokenBatch:
        return TokenBatch(ids, ids != data.PAD)

    batches = []
    for queries, passages in zip(arrays["query_ids"], arrays["passage_ids"], strict=True):
        numbers = np.arange(1, len(queries) + 1, dtype=np.uint32)
        batches.append(PairBatch(tokens(queries), tokens(passages[:, None]), numbers, numbers[:, None]))
    share = parallel.per_device_batch_size(len(batches[0].query_content), jax.local_device_count())
    rows = max(len(packing_of(batch, share).text) for batch in batches) // jax.local_device_count()
    return [parallel.split(batch._replace(packing=packing_of(batch, share, rows))) for batch in batches]


def _target(params: Any, mask: jax.Array, fixed: Any) -> Target:
    return Target(params, mask, *fixed)


if __name__ == "__main__":
    serve(Side())
