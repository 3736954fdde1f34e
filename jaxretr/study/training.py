"""The models of a study.

Input: a `Study` and a `Run`. Output: the directory of the finished training.

The learning rate of an arm is the rate with the best validation result for the arm's first seed. Every arm that
selects its own learning rate tries the same rates.
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
"""Measures whose mean on validation data selects the learning rate."""
MATCHED_BY = "multi/nDCG@10"
"""Measure of clean quality on validation data by which checkpoints are matched."""


def chosen_rate(study: Study, arm: str, directory: Path) -> tuple[float, dict[str, float]]:
    """Return the learning rate of an arm, and the criterion of each rate that was tried; train missing models.

    A single rate is not tried: it is returned without a criterion.

    Args:
      study: the study, with the rates to try.
      arm: name of the arm.
      directory: directory of all trainings.
    """
    if len(study.rates) == 1:
        return study.rates[0], {}
    rate_arm = study.arms[arm].rate_of or arm
    first = Run(rate_arm, study.arms[rate_arm].seeds[0])
    tried = {rate: criterion(_train(study, first, rate, directory)) for rate in study.rates}
    return max(tried, key=lambda rate: tried[rate]), {f"{rate:g}": value for rate, value in tried.items()}


def trained(study: Study, run: Run, directory: Path) -> tuple[Path, dict[str, Any]]:
    """Train a run with the learning rate of its arm.

    Returns:
      The directory of the run, and the facts to record: rate, selection, validation measures by step, cost.
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
    """Return the checkpoint of a run that is closest to the finished baseline in clean quality on validation data.

    Returns:
      The step of the checkpoint, its quality (`MATCHED_BY`), the quality of the baseline with the same seed, and the
      parameters of the checkpoint.
    """
    output_dir, training = trained(study, run, directory)
    _, baseline_training = trained(study, Run(study.contrast[0], run.seed), directory)
    baseline = list(baseline_training["validation"].values())[-1][MATCHED_BY]
    quality = {int(step): measures[MATCHED_BY] for step, measures in training["validation"].items() if int(step)}
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
    """Return the quality of a finished training's model on validation data."""
    measures = Results.load(output_dir / "results.json").scalars()
    return float(np.mean([measures[name] for name in CHOSEN_BY]))


def _train(study: Study, run: Run, rate: float, directory: Path) -> Path:
    """Train a run. If the training is finished, check that its config, data and initial model are unchanged."""
    config = study.config(run, rate, directory)
    output_dir = Path(config.output_dir)
    say(f"training {output_dir.name}")
    train(config)
    return output_dir
