"""The training loop.

Input: a state, a step over all devices, and an iterator of batches. Output: the state after the last step. On the way,
the loop writes metrics, held-out measures and checkpoints.
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
from jaxretr.data.batches import PairBatch, StepInput
from jaxretr.data.hybrid import BatchPlan
from jaxretr.tracking import StepProgress, Tracker, say
from jaxretr.train.checkpoint import Checkpoints
from jaxretr.train.early_stopping import EarlyStopping
from jaxretr.train.shutdown import GracefulShutdown
from jaxretr.train.step import Metrics, TrainState

StepFunction = Callable[[TrainState, PairBatch, jax.Array], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Schedule:
    """When to log, save and evaluate, and the learning rate at each update.

    Attributes:
      steps: number of updates of the whole run.
      log, checkpoint, evaluate: updates between two logs, checkpoints and evaluations; `evaluate` 0 means never.
      learning_rate: update number, from 0 -> learning rate, for the log.
    """

    steps: int
    log: int
    checkpoint: int
    evaluate: int
    learning_rate: optax.Schedule

    def evaluates_after(self, number: int) -> bool:
        """Return whether the state after update `number` is evaluated.

        The state after the last update is evaluated unless `evaluate` is 0.
        """
        return self.evaluate > 0 < number and (number % self.evaluate == 0 or number == self.steps)


def fit(
    state: TrainState,
    step: StepFunction,
    batches: grain.DatasetIterator[StepInput],
    *,
    key: jax.Array,
    schedule: Schedule,
    checkpoints: Checkpoints,
    tracker: Tracker,
    config: dict[str, Any],
    evaluate: Callable[[TrainState], dict[str, float]],
    stopping: EarlyStopping,
    describe: Callable[[BatchPlan], str],
) -> TrainState:
    """Update `state` until update number `schedule.steps`, or until `stopping` is exhausted.

    The host runs ahead of the devices. It waits for them only to log figures, write a checkpoint or evaluate. The
    arrays of a batch are copied to the devices while the previous step still runs. After a signal, a single process
    stops when the current step ends. Several processes stop together, when they next log, save or evaluate.

    Args:
      state: replicated; is donated.
      step: `train.step.make_step` under `parallel.pmap`.
      batches: this process's rows of the batches, starting at number `state.step`.
      key: the run's random key, for dropout and hardening.
      schedule: when to log, save and evaluate.
      checkpoints: where states are saved.
      tracker: where figures are logged.
      config: saved with each checkpoint.
      evaluate: returns the measures of a state on held-out data, by name.
      stopping: decides whether to stop early. It already holds the held-out values up to `state.step`; `fit` adds the
        value of each evaluation.
      describe: names the examples of a batch in error messages.

    Raises:
      KeyboardInterrupt: after Ctrl-C or a termination signal, once a checkpoint is written.
      FloatingPointError: a loss is not finite; the message names the batch.
      OSError: a checkpoint cannot be written.
    """
    first = int(state.step)
    shapes: set[tuple[tuple[int, ...], ...]] = set()  # XLA compiles the step once per set of shapes

    def evaluate_now(number: int) -> None:
        measures = evaluate(state)
        tracker.log(number, measures, group="evaluation")
        stopping.values[number] = measures[stopping.measure]
        say(stopping.describe())

    with (
        GracefulShutdown() as interruption,
        StepProgress("training", total=schedule.steps, completed=first) as progress,
    ):
        # A checkpoint is written before its state is evaluated, so a resumed run may lack this evaluation: repeat it.
        if schedule.evaluates_after(first):
            evaluate_now(first)
        window = _Window()
        for number in range(first + 1, schedule.steps + 1):
            if stopping.exhausted:
                break
            wait_start = time.perf_counter()
            item = next(batches)
            window.waited += time.perf_counter() - wait_start
            state, metrics = step(state, parallel.split(item.batch), key)
            window.add(item, metrics)
            shapes.add(tuple(leaf.shape for leaf in jax.tree.leaves(item.batch)))
            progress.advance()

            evaluating, last = schedule.evaluates_after(number), number == schedule.steps
            due = evaluating or last or number % schedule.checkpoint == 0
            if due or number % schedule.log == 0 or interruption.requested_in_single_process:
                figures = window.close(describe)
                figures |= {"learning_rate": float(schedule.learning_rate(number - 1)), "compilations": len(shapes)}
                tracker.log(number, figures, group="train")
                progress.show(_summary(number, figures))
                interrupted = not last and interruption.agreed()
                if due or interrupted:
                    checkpoints.save(state, batches.get_state(), config, stopping)
                if interrupted:
                    checkpoints.wait()
                    raise KeyboardInterrupt(f"stopped after step {number}; the same command resumes from there")
                if evaluating:
                    evaluate_now(number)
                window = _Window()
    checkpoints.wait()
    return state


@dataclass
class _Window:
    """The steps since figures were last logged. Their metrics stay on the devices until `close`."""

    metrics: list[Metrics] = field(default_factory=list)
    plans: list[BatchPlan] = field(default_factory=list)
    tokens: int = 0
    slots: int = 0
    cut: int = 0
    waited: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, item: StepInput, metrics: Metrics) -> None:
        self.metrics.append(metrics)
        self.plans.append(item.plan)
        self.tokens += item.tokens
        self.slots += item.slots
        self.cut += item.cut

    def close(self, describe: Callable[[BatchPlan], str]) -> dict[str, float]:
        """Return the means over the window. Waits for the devices.

        `tokens_per_second` counts the real tokens of this process, without padding, times the number of processes.
        `input_wait_share` is the fraction of the time that the loop waited for a batch.
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
        return {
            **{name: float(np.mean([getattr(m, name) for m in metrics])) for name in metrics[0]._fields},
            "examples_per_second": sum(len(plan.query_rows) for plan in self.plans) / seconds,
            "tokens_per_second": self.tokens * jax.process_count() / seconds,
            "seconds_per_step": seconds / len(metrics),
            "padding_share": 1 - self.tokens / self.slots,
            "cut_share": self.cut / (self.tokens + self.cut),
            "input_wait_share": self.waited / seconds,
        }


def _summary(number: int, figures: dict[str, float]) -> str:
    return (
        f"step {number}: loss {figures['loss']:.4f}, {figures['examples_per_second']:.1f} examples/s, "
        f"{figures['tokens_per_second']:,.0f} tokens/s, padding {figures['padding_share']:.0%}, "
        f"idle for input {figures['input_wait_share']:.1%}, "
        f"{figures['compilations']} shapes compiled"
    )
