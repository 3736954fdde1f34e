"""The learning rate of an arm: a grid that grows, and its limits."""

from pathlib import Path

import pytest

from jaxretr.study import training
from jaxretr.study.design import Run, Study
from jaxretr.study.training import MAX_RATES, chosen_rate
from tests.study import made


def tried(study: Study, quality, monkeypatch: pytest.MonkeyPatch) -> tuple[float, list[float]]:
    """The chosen rate and all rates that were trained, if `quality` maps a rate to the criterion."""
    trained: list[float] = []

    def train(study: Study, run: Run, rate: float, directory: Path) -> Path:
        assert run == Run("hybrid", 0) and rate not in trained
        trained.append(rate)
        if quality(rate) is None:
            raise FloatingPointError("loss is nan")
        return Path(f"{rate}")

    monkeypatch.setattr(training, "_train", train)
    monkeypatch.setattr(training, "criterion", lambda output_dir: quality(float(str(output_dir))))
    rate, criteria = chosen_rate(study, "hybrid", Path())
    assert sorted(float(name) for name in criteria) == sorted(trained)
    return rate, sorted(trained)


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (1e-3, [1e-4, 1e-3, 1e-2]),
        (1e-2, [1e-4, 1e-3, 1e-2, 1e-1]),
        (1e-5, [1e-6, 1e-5, 1e-4, 1e-3]),
    ],
)
def test_the_grid_grows_until_the_best_rate_is_inside(
    best: float, expected: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rate, rates = tried(made.study(tmp_path), lambda rate: 1 / (1 + abs(rate / best - 1)), monkeypatch)
    assert rate == best and rates == pytest.approx(expected)


def test_the_grid_has_a_limit_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate, rates = tried(made.study(tmp_path), lambda rate: rate, monkeypatch)
    assert len(rates) == MAX_RATES and rate == max(rates)
    assert "is at an end of the grid of 8 rates" in capsys.readouterr().out


def test_a_rate_with_which_training_diverges_ends_the_grid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate, rates = tried(made.study(tmp_path), lambda rate: rate if rate < 5e-3 else None, monkeypatch)
    assert rate == 1e-3 and rates == pytest.approx([1e-4, 1e-3, 1e-2])
    assert "hybrid-0 diverges with the learning rate 0.01: loss is nan" in capsys.readouterr().out
