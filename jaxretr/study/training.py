"""The models of a study.

Input: a `Study` and a `Run`. Output: the directory of the finished training.

The learning rate of an arm is the rate with the best validation result for the arm's first seed. Every arm that
selects its own learning rate tries the same rates.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxretr import json_lines
from jaxretr.eval.results import Results
from jaxretr.run import train
from jaxretr.study.design import Run, Study
from jaxretr.tracking import say

CHOSEN_BY = ("mono/AP", "multi/AP")
"""Measures whose mean on validation data selects the learning rate."""

MAX_RATES = 8
"""Largest number of learning rates that an arm tries."""


def chosen_rate(study: Study, arm: str, directory: Path) -> tuple[float, dict[str, float]]:
    """Return the learning rate of an arm, and the criterion of each rate that was tried; train missing models.

    While the best rate is the largest or smallest one, the grid grows by the ratio of the two rates at this end. The
    grid stops at `MAX_RATES` rates; then the best rate may be at its end. A training that diverges has the quality 0.
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
    tried: dict[float, float] = {}
    rates = sorted(study.rates)
    while True:
        tried |= {rate: _criterion(study, first, rate, directory) for rate in rates if rate not in tried}
        best = max(tried, key=lambda rate: tried[rate])
        if best == rates[-1] and len(rates) < MAX_RATES:
            rates.append(_rounded(best * best / rates[-2]))
        elif best == rates[0] and len(rates) < MAX_RATES:
            rates.insert(0, _rounded(best * best / rates[1]))
        else:
            if best in (rates[0], rates[-1]):
                say(f"{rate_arm}: the best learning rate, {best:g}, is at an end of the grid of {len(rates)} rates")
            return best, {f"{rate:g}": tried[rate] for rate in rates}


def _criterion(study: Study, run: Run, rate: float, directory: Path) -> float:
    """Return the quality of a training with this rate; 0 if the training diverges."""
    try:
        return criterion(_train(study, run, rate, directory))
    except FloatingPointError as error:
        say(f"{run.name} diverges with the learning rate {rate:g}: {error}")
        return 0.0


def _rounded(rate: float) -> float:
    """Return the rate with two digits, so that its name does not depend on rounding errors."""
    return float(f"{rate:.1e}")


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
