"""What `scripts/benchmark.py accelerator` measures: models, batches, lengths, and how long.

`FULL` is for accelerators. `TINY` has the sections of the first model on shapes that a CPU runs in seconds; its figures
say nothing about speed.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from jaxretr.model.architecture import Architecture
from jaxretr.tpu_estimate import flops
from jaxretr.tpu_estimate.architectures import PUBLISHED

PGD_STEPS = 20
MODELS = ("base", "large")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs.

    Attributes:
      models: models in the order of the run.
      pairs: pairs per device and training step.
      steps: training steps per round, between two synchronizations with the host.
      lengths: maximum tokens of queries and passages.
      encoded: number of texts per round of encoding, by their length in tokens.
      batch_tokens: tokens per batch of encoding; each length is tried with all of them.
      attacked: queries per round of the attack.
      rounds: largest number of rounds.
      remats: what our backward pass recomputes in training, see `jaxretr.model.functions`.
    """

    models: tuple[str, ...]
    pairs: int
    steps: int
    lengths: tuple[int, int]
    encoded: dict[int, int]
    batch_tokens: tuple[int, ...]
    attacked: int
    rounds: int
    remats: tuple[str, ...]


FULL = Sizes(MODELS, 128, 10, (32, 128), {128: 4_096, 512: 1_024}, (8_192, 32_768, 131_072), 256, 12, ("dots", "none"))
TINY = Sizes(MODELS[:1], 8, 2, (16, 32), {32: 16}, (256,), 8, 2, ("dots",))


def architecture_of(model: str, tiny: bool) -> Architecture:
    """Return the shapes of XLM-R base or large, or a model of two small layers in its place."""
    made = PUBLISHED[f"FacebookAI/xlm-roberta-{model}"]
    if not tiny:
        return made
    return dataclasses.replace(
        made, vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )


def training_flops(architecture: Architecture, queries: np.ndarray, passages: np.ndarray) -> int:
    """Count the matrix products of one update: three forward passes of all texts and of the scores, without padding.

    Args:
      architecture: the encoder.
      queries, passages: tokens of each text of the batch.
    """
    texts = sum(flops.encode(architecture, int(length)) for length in (*queries, *passages))
    return 3 * (texts + 2 * len(queries) * len(passages) * architecture.dim)


@dataclass(frozen=True)
class Section:
    """A part of the run and when it has to start and to end, in shares of the time budget.

    Attributes:
      model: `base` or `large`.
      what: `parity`, `training`, `encoding` or `attack`.
      length: tokens of encoded texts; 0 in other sections.
      starts_before: after this share of the budget, the section is skipped.
      ends: after this share of the budget, no further round starts.
    """

    model: str
    what: str
    length: int
    starts_before: float
    ends: float

    def __str__(self) -> str:
        return f"XLM-R {self.model}, {self.what}" + (f" of {self.length} tokens" if self.length else "")


def sections(sizes: Sizes) -> list[Section]:
    """Return the sections in the order of the run."""
    planned = [Section("base", "parity", 0, 1.0, 0.2), Section("base", "training", 0, 0.35, 0.45)]
    ends = {"base": (0.45, 0.64), "large": (0.88, 1.0)}
    for model in sizes.models:
        if model == "large":
            planned.append(Section(model, "training", 0, 0.76, ends[model][0]))
        start, end = ends[model]
        step = (end - start) / len(sizes.encoded)
        planned += [
            Section(model, "encoding", length, start + step * (number + 0.7), start + step * (number + 1))
            for number, length in enumerate(sizes.encoded)
        ]
        if model == "base":
            planned.append(Section(model, "attack", 0, 0.68, 0.72))
    return planned
