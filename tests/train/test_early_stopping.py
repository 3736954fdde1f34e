"""The best state, patience, and that stopping a run anywhere changes neither."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.training import early_stopping as flax_early_stopping

from jaxretr import parallel
from jaxretr.data.batches import PairBatch, StepInput
from jaxretr.data.hybrid import BatchPlan
from jaxretr.tracking import Tracker
from jaxretr.train.checkpoint import Checkpoints
from jaxretr.train.early_stopping import EarlyStopping
from jaxretr.train.loop import Schedule, fit
from jaxretr.train.step import StepMetrics, TrainState
from jaxretr.types import TokenBatch


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_it_decides_as_flax_does(seed: int, lower_is_better: bool) -> None:
    """Flax wants lower values, and counts its patience from zero."""
    rng = np.random.default_rng(seed)
    for patience in (1, 2, 3):
        ours = EarlyStopping("multi/AP", lower_is_better=lower_is_better, patience=patience)
        theirs = flax_early_stopping.EarlyStopping(patience=patience - 1)
        for step, value in enumerate(rng.integers(0, 8, 20).tolist(), 1):  # with ties
            ours.values[step] = value
            theirs = theirs.update(value if lower_is_better else -value)
            assert (ours.without_improvement == 0) == theirs.has_improved
            assert abs(ours.values[ours.best_step]) == abs(theirs.best_metric)
            assert ours.exhausted == theirs.should_stop
            if ours.exhausted:
                break


def test_without_patience_it_never_stops() -> None:
    stopping = EarlyStopping("multi/AP", values={step: 1 / step for step in range(1, 100)})
    assert stopping.best_step == 1 and stopping.without_improvement == 98 and not stopping.exhausted


def test_it_says_how_the_latest_value_compares() -> None:
    stopping = EarlyStopping("multi/rank_distance", lower_is_better=True, patience=3, values={10: 7.5})
    assert stopping.describe() == "step 10: multi/rank_distance 7.5000, the best so far"
    stopping.values[20] = 8.25
    assert stopping.describe() == (
        "step 20: multi/rank_distance 8.2500; the best is 7.5000 after step 10, "
        "evaluations without improvement: 1 (patience 3)"
    )


STEPS, EVERY = 24, 3
CURVE = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.6, 15: 0.6, 18: 0.5, 21: 0.9, 24: 0.1}
"""The held-out measure: best after step 12 for who stops after two evaluations without improvement."""


class Killed(Exception):
    pass


class Toy:
    """A run of the real loop, checkpoints and tracker, with one number for a model and `CURVE` for a measure.

    `events` counts what happens: updates, evaluations and saves. The process "is killed" when the count reaches
    `kill_at`; what was on disk by then is all that the next run has.
    """

    def __init__(self, directory: Path, *, patience: int = 2, lower_is_better: bool = False, keep: int = 1):
        self.directory, self.patience, self.lower_is_better, self.keep = directory, patience, lower_is_better, keep
        self.events: list[str] = []
        self.kill_at = -1
        self.on_step: Callable[[int], None] = lambda number: None
        self.update = jax.jit(self._update, donate_argnums=0)

    def _event(self, name: str) -> None:
        if len(self.events) == self.kill_at:
            self.kill_at = -1
            raise Killed
        self.events.append(name)

    @staticmethod
    def _update(state: TrainState, batch: PairBatch, key: jax.Array) -> tuple[TrainState, StepMetrics]:
        drawn = jax.random.normal(jax.random.fold_in(key, state.step))
        params = state.params * 1.01 + drawn + batch.query_content.sum()
        return TrainState(state.step + 1, params, state.opt_state), StepMetrics(params, params, params)

    def step(self, state: TrainState, batch: PairBatch, key: jax.Array) -> tuple[TrainState, StepMetrics]:
        self._event("update")
        self.on_step(int(state.step) + 1)
        return self.update(state, batch, key)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        self._event("evaluation")
        return {"multi/AP": CURVE[int(state.step)], "mono/AP": float(state.params)}

    def run(self) -> tuple[EarlyStopping, float, int]:
        """Goes on to the end; what was measured, the last parameter, the number of updates made."""
        stopping = EarlyStopping("multi/AP", self.lower_is_better, self.patience)
        batches = iter(grain.MapDataset.source(list(steps())).to_iter_dataset())
        state = parallel.replicate(TrainState(jnp.int32(0), jnp.float32(0), ()))
        with Checkpoints(self.directory / "checkpoints", keep=self.keep) as checkpoints:
            if checkpoints.latest_step:
                state, position, stopping.values = checkpoints.restore(state)
                batches.set_state(position)
            save = checkpoints.save

            def counted(*arguments) -> None:
                self._event("save")
                save(*arguments)

            checkpoints.save = counted
            with Tracker(self.directory, first_step=int(state.step)) as tracker:
                state = fit(
                    state,
                    self.step,
                    batches,
                    key=parallel.replicate(jax.random.key(0)),
                    schedule=Schedule(
                        steps=STEPS, log=2, checkpoint=4, evaluate=EVERY, learning_rate=lambda _: jnp.float32(1)
                    ),
                    checkpoints=checkpoints,
                    tracker=tracker,
                    config={},
                    evaluate=self.evaluate,
                    stopping=stopping,
                    describe=lambda plan: "",
                )
        return stopping, float(state.params), int(state.step)

    def rows(self) -> list[dict[str, float]]:
        """metrics.jsonl without what depends on the clock."""
        rows = [json.loads(line) for line in (self.directory / "metrics.jsonl").read_text().splitlines()]
        return [{name: row[name] for name in row if name in ("step", "loss", "multi/AP", "mono/AP")} for row in rows]

    def kept(self) -> list[int]:
        return sorted(int(path.name) for path in (self.directory / "checkpoints").iterdir())


def steps() -> Iterator[StepInput]:
    devices = parallel.local_device_count()
    tokens = TokenBatch(np.zeros((devices, 1), np.int32), np.ones((devices, 1), bool))
    for number in range(STEPS):
        content = np.full(devices, number, np.uint32)
        rows = np.arange(devices)
        yield StepInput(PairBatch(tokens, tokens, content, content), BatchPlan(number, "monolingual", rows, rows), 1, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, tuple[EarlyStopping, float, int]]:
    """A run that nothing stopped but its own patience."""
    toy = Toy(tmp_path_factory.mktemp("whole"))
    return toy, toy.run()


def test_it_stops_when_patience_is_at_an_end_and_keeps_the_best(whole) -> None:
    toy, (stopping, _, updates) = whole
    assert updates == 18 and stopping.best_step == 12  # 15 is as good and no better, 18 is worse
    assert stopping.values == {step: CURVE[step] for step in (3, 6, 9, 12, 15, 18)}
    assert toy.kept() == [12, 18]
    with Checkpoints(toy.directory / "checkpoints", keep=1) as checkpoints:
        best = checkpoints.restore(parallel.replicate(TrainState(jnp.int32(0), jnp.float32(0), ())), 12)
    assert int(best.state.step) == 12
    assert float(best.state.params) == next(row["mono/AP"] for row in toy.rows() if row["step"] == 12 and len(row) > 2)


@pytest.mark.parametrize(
    ("lower_is_better", "patience", "updates", "kept"), [(True, 0, 24, [3, 24]), (True, 2, 9, [3, 9])]
)
def test_the_lowest_value_is_kept_where_lower_is_better(
    lower_is_better: bool, patience: int, updates: int, kept: list[int], tmp_path: Path
) -> None:
    toy = Toy(tmp_path, patience=patience, lower_is_better=lower_is_better)
    assert toy.run()[2] == updates
    assert toy.kept() == kept


def test_a_state_is_on_disk_before_it_is_evaluated(whole) -> None:
    """An evaluation may take long; a run killed meanwhile does not make the steps before it again."""
    events = whole[0].events
    assert [events[at - 1] for at, name in enumerate(events) if name == "evaluation"] == ["save"] * 6


@pytest.mark.parametrize("kill_at", [0, 3, 4, 10, 11, 16, 20, 21, 22, 26, 28, 31, 32])
def test_killed_anywhere_it_decides_alike_and_ends_with_the_same_bits(kill_at: int, whole, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    assert len(whole[0].events) == 33
    toy.kill_at = kill_at
    with pytest.raises(Killed):
        toy.run()
    assert toy.run() == whole[1]
    assert toy.kept() == whole[0].kept()
    assert sorted(toy.rows(), key=str) == sorted(whole[0].rows(), key=str)


@pytest.mark.parametrize("number", [11, 12, 18])
def test_interrupted_before_an_evaluation_it_makes_up_for_it(number: int, whole, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.on_step = lambda done: os.kill(os.getpid(), signal.SIGINT) if done == number else None
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {number}"):
        toy.run()
    toy.on_step = lambda done: None
    assert toy.run() == whole[1]


def test_finished_but_not_exported_it_makes_no_more_updates(whole, tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.run()
    toy.events.clear()
    assert toy.run() == whole[1]
    assert toy.events == ["evaluation"]


def test_kept_checkpoints_hold_the_values_before_them(whole) -> None:
    assert json.loads((whole[0].directory / "checkpoints" / "18" / "evaluations" / "metadata").read_text()) == {
        str(step): CURVE[step] for step in (3, 6, 9, 12, 15)
    }
