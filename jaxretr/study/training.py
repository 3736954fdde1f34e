"""The models of a study: a `Study` and a `Run` come in, the directory of a finished training goes out.

The learning rate of an arm is the one that does best on validation data under its first seed; every arm with a choice
of its own tries the same rates.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxretr import json_lines, parallel
from jaxretr.eval.results import Results
from jaxretr.model.functions import Params
from jaxretr.run import load_encoder, make_update, train
from jaxretr.study.design import Run, Study
from jaxretr.tracking import say
from jaxretr.train.checkpoint import Checkpoints
from jaxretr.train.step import TrainState

CHOSEN_BY = ("mono/AP", "multi/AP")
"""Learning rates are chosen by the mean of these on validation data."""
MATCHED_BY = "multi/nDCG@10"
"""What models of equal quality agree in, on validation data."""


def chosen_rate(study: Study, arm: str, directory: Path) -> tuple[float, dict[str, float]]:
    """The learning rate of an arm, and the criterion of each rate that was tried; trains what is not trained yet.

    Args:
      study: which rates.
      arm: name of the arm.
      directory: of the trainings.
    """
    of = study.arms[arm].rate_of or arm
    first = Run(of, study.arms[of].seeds[0])
    tried = {rate: criterion(_train(study, first, rate, directory)) for rate in study.rates}
    return max(tried, key=lambda rate: tried[rate]), {f"{rate:g}": value for rate, value in tried.items()}


def trained(study: Study, run: Run, directory: Path) -> tuple[Path, dict[str, Any]]:
    """Trains a run with the rate of its arm.

    Returns:
      Its directory, and what is recorded of it: rate, choice, validation measures by step, cost.
    """
    rate, tried = chosen_rate(study, run.arm, directory)
    output_dir = _train(study, run, rate, directory)
    rows = json_lines.read(output_dir / "metrics.jsonl")
    steps = [row for row in rows if "seconds_per_step" in row]
    return output_dir, {
        "learning_rate": rate,
        "tried": tried,
        "validation": {str(row["step"]): {m: row[m] for m in _WATCHED} for row in rows if "multi/AP" in row},
        "seconds_per_step": float(np.median([row["seconds_per_step"] for row in steps])),
        "loss": steps[-1]["loss"],
    }


def matched_checkpoint(study: Study, run: Run, directory: Path) -> tuple[int, float, float, Params]:
    """The checkpoint of a run whose clean quality on validation data is closest to that of the finished baseline.

    Returns:
      Its step, its quality (`MATCHED_BY`), that of the baseline of the same seed, and its parameters.
    """
    output_dir, training = trained(study, run, directory)
    _, of_baseline = trained(study, Run(study.contrast[0], run.seed), directory)
    baseline = list(of_baseline["validation"].values())[-1][MATCHED_BY]
    quality = {int(step): found[MATCHED_BY] for step, found in training["validation"].items() if int(step)}
    step = min(quality, key=lambda step: abs(quality[step] - baseline))

    config = study.config(run, training["learning_rate"], directory)
    encoder = load_encoder(config)
    update = make_update(config, encoder.functions.architecture, tuple(sorted(encoder.tokenizer.all_special_ids)))
    like = TrainState(
        parallel.replicate(jnp.int32(0)), encoder.params, parallel.replicate(update.optimizer.init(encoder.params))
    )
    with Checkpoints(output_dir / "checkpoints", keep=config.keep_checkpoints) as checkpoints:
        params = checkpoints.restore(like, step).state.params
    return step, quality[step], baseline, params


_WATCHED = ("mono/AP", "cross/AP", "multi/AP", "mono/nDCG@10", "cross/nDCG@10", "multi/nDCG@10")


def criterion(output_dir: Path) -> float:
    """How good the model of a finished training is on validation data."""
    found = Results.load(output_dir / "results.json").scalars()
    return float(np.mean([found[name] for name in CHOSEN_BY]))


def _train(study: Study, run: Run, rate: float, directory: Path) -> Path:
    """Train, or check that the finished training in this directory is of the same config, data and initial model."""
    config = study.config(run, rate, directory)
    output_dir = Path(config.output_dir)
    say(f"training {output_dir.name}")
    train(config)
    return output_dir
