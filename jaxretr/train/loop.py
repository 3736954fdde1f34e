"""The training loop.

In: a state, a step over all devices, and an iterator of batches. Out: the state after the last step, with metrics and
checkpoints written on the way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grain
import jax
import numpy as np
import optax

from jaxretr import parallel
from jaxretr.data.batches import PairBatch, Step
from jaxretr.data.hybrid import BatchPlan
from jaxretr.tracking import StepProgress, Tracker
from jaxretr.train.checkpoint import Checkpoints
from jaxretr.train.interruption import Interruption
from jaxretr.train.step import StepMetrics, TrainState

StepFunction = Callable[[TrainState, PairBatch, jax.Array], tuple[TrainState, StepMetrics]]


@dataclass(frozen=True)
class Schedule:
    """When things happen, in updates, and how many there are; `evaluate` 0 means never."""

    steps: int
    log: int
    checkpoint: int
    evaluate: int
    learning_rate: optax.Schedule


def fit(
    state: TrainState,
    step: StepFunction,
    batches: grain.DatasetIterator[Step],
    *,
    key: jax.Array,
    schedule: Schedule,
    checkpoints: Checkpoints,
    tracker: Tracker,
    config: dict[str, Any],
    evaluate: Callable[[TrainState], dict[str, float]],
    best_measure: str,
    describe: Callable[[BatchPlan], str],
) -> TrainState:
    """Updates `state` until `schedule.steps` are made.

    The host runs ahead of the devices and waits for them only where figures are logged, a checkpoint is written or an
    evaluation is due. A batch's arrays go to the devices while the previous step is still running.

    Args:
      state: replicated; is donated.
      step: `train.step.make_step` under `parallel.pmap`.
      batches: this process's rows of the batches from number `state.step` on.
      key: the run's dropout key.
      config: saved with each checkpoint.
      evaluate: measures of a state on held-out data, by name; `best_measure` is one of them.
      describe: names the examples of a batch, for error messages.

    Raises:
      KeyboardInterrupt: after Ctrl-C or a termination notice, when a checkpoint is written.
      FloatingPointError: on a loss that is not finite, naming the batch.
      OSError: when a checkpoint cannot be written.
    """
    first = int(state.step)
    window = _Window()
    shapes: set[tuple[int, ...]] = set()  # XLA compiles the step once for each
    with (
        Interruption() as interruption,
        StepProgress("training", total=schedule.steps, completed=first) as progress,
    ):
        for number in range(first + 1, schedule.steps + 1):
            waiting = time.perf_counter()
            item = next(batches)
            window.waited += time.perf_counter() - waiting
            state, metrics = step(state, parallel.split(item.batch), key)
            window.add(item, metrics)
            shapes.add(item.batch.queries.ids.shape + item.batch.passages.ids.shape)
            progress.advance()

            last = number == schedule.steps or interruption.requested
            evaluating = schedule.evaluate > 0 and number % schedule.evaluate == 0 and not interruption.requested
            saving = last or evaluating or number % schedule.checkpoint == 0
            if saving or number % schedule.log == 0:
                figures = window.close(describe)
                figures |= {"learning_rate": float(schedule.learning_rate(number - 1)), "compilations": len(shapes)}
                measures = evaluate(state) if evaluating else {}
                tracker.log(number, figures | measures)
                progress.show(_summary(number, figures))
                if saving:
                    checkpoints.save(state, batches.get_state(), config, measure=measures.get(best_measure))
                window = _Window()
            if interruption.requested and number < schedule.steps:
                checkpoints.wait()
                raise KeyboardInterrupt(f"stopped after step {number}; the same command goes on from there")
    checkpoints.wait()
    return state


@dataclass
class _Window:
    """The steps since figures were last logged. Their metrics stay on the devices until `close`."""

    metrics: list[StepMetrics] = field(default_factory=list)
    plans: list[BatchPlan] = field(default_factory=list)
    tokens: int = 0
    slots: int = 0
    waited: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, item: Step, metrics: StepMetrics) -> None:
        self.metrics.append(metrics)
        self.plans.append(item.plan)
        self.tokens += item.tokens
        self.slots += item.slots

    def close(self, describe: Callable[[BatchPlan], str]) -> dict[str, float]:
        """Means over the window. Waits for the devices.

        `tokens_per_second` counts real tokens of this process, times the number of processes; `input_wait_share` is the
        share of the time that the loop waited for a batch.
        """
        metrics = jax.device_get(self.metrics)
        seconds = time.perf_counter() - self.started
        for plan, values in zip(self.plans, metrics, strict=True):
            if not np.isfinite(values.loss) or not np.isfinite(values.grad_norm):
                raise FloatingPointError(
                    f"The loss of step {plan.step + 1} is {values.loss} (gradient norm {values.grad_norm}), in a "
                    f"{plan.kind} batch of {describe(plan)}. Nothing after the last checkpoint was saved. Look at "
                    "these texts, lower train.learning_rate, or raise train.temperature, and run again."
                )
        examples = sum(len(plan.query_rows) for plan in self.plans)
        return {
            **{name: float(np.mean([getattr(m, name) for m in metrics])) for name in StepMetrics._fields},
            "examples_per_second": examples / seconds,
            "tokens_per_second": self.tokens * jax.process_count() / seconds,
            "seconds_per_step": seconds / len(metrics),
            "padding_share": 1 - self.tokens / self.slots,
            "input_wait_share": self.waited / seconds,
        }


def _summary(number: int, figures: dict[str, float]) -> str:
    return (
        f"step {number}: loss {figures['loss']:.4f}, {figures['examples_per_second']:.1f} examples/s, "
        f"{figures['tokens_per_second']:,.0f} tokens/s, padding {figures['padding_share']:.0%}, "
        f"{figures['compilations']} shapes compiled"
    )
