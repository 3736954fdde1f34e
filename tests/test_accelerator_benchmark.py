"""`scripts/benchmark.py accelerator`: what it computes from times and errors, and the whole command on tiny shapes."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxretr.config import Config, DataConfig, ModelConfig, TrainConfig
from jaxretr.tpu_estimate import flops
from jaxretr.tpu_estimate.architectures import PUBLISHED
from jaxretr.tracking import errors_as_lines

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def turns(times: dict[str, list[Any]], *, most: int = 3, late_after: int = 10**9) -> tuple[dict, dict, list[str]]:
    """Run made-up trials; names are `side name`, and a time that is a string is an error."""
    rounds, count, lines = module("accelerator_rounds"), 0, []

    def trial(name: str) -> dict[str, Any]:
        nonlocal count
        count += 1
        taken = times[name].pop(0)
        return {"error": taken} if isinstance(taken, str) else {"seconds": taken}

    trials = {rounds.Setting(*name.split()): lambda name=name: trial(name) for name in times}
    seconds, first = rounds.take_turns(trials, most, lambda: count >= late_after, lines.append)
    return {f"{s.side} {s.name}": taken for s, taken in seconds.items()}, first, lines


def test_settings_take_turns_without_failed_and_slow_ones() -> None:
    seconds, first, lines = turns(
        {
            "a fast": [1.0, 1.1, 1.2],
            "a slow": [1.3],
            "a near": [1.2, 9.0, 9.0],
            "b oom": ["OutOfMemory"],
            "b x": [7] * 3,
        }
    )
    assert seconds == {"a fast": [1.0, 1.1, 1.2], "a slow": [1.3], "a near": [1.2, 9.0, 9.0], "b x": [7, 7, 7]}
    assert [setting.name for setting in first] == ["fast", "slow", "near", "x"]
    assert "b, oom: no figure: OutOfMemory" in lines


def test_no_trial_starts_when_the_time_is_over() -> None:
    seconds, _, lines = turns({"a x": [1, 2, 3], "a y": [1, 2, 3]}, late_after=3)
    assert seconds == {"a x": [1, 2], "a y": [1]} and "over after 1 rounds" in lines[-1]
    seconds, _, lines = turns({"a x": [1], "a y": [1]}, late_after=1)
    assert seconds == {"a x": [1]} and "a, y: not measured" in lines[-2]


def test_medians_shares_of_peak_and_the_ratio_of_the_best() -> None:
    rounds = module("accelerator_rounds")
    seconds = {
        rounds.Setting(rounds.OURS, "x"): [0.4, 0.5, 9.0],  # the median is 0.5 s
        rounds.Setting(rounds.OURS, "y"): [1.0],
        rounds.Setting(rounds.THEIRS, "z"): [0.8, 0.6],
        rounds.Setting(rounds.THEIRS, "w"): [2.0],
    }
    figures = rounds.summary("training", "pairs/s", seconds, items=100, flops=10**12, peak_flops=8e12)
    assert [setting["rate"] for setting in figures["settings"]] == pytest.approx([200, 100, 1000 / 7, 50])
    assert [setting["share_of_peak"] for setting in figures["settings"][:2]] == pytest.approx([0.25, 0.125])
    assert figures["ratio"] == pytest.approx(1.4)
    assert "25.0% of peak" in rounds.table([figures]) and "sentence-transformers: 1.40" in rounds.table([figures])
    ours = {setting: taken for setting, taken in seconds.items() if setting.side == rounds.OURS}
    alone = rounds.summary("training", "pairs/s", ours, items=100, flops=10**12, peak_flops=None)
    assert alone["ratio"] is None and "best of" not in rounds.table([alone]) and "peak" not in rounds.table([alone])


def test_products_of_an_update_equal_the_count_for_equal_lengths() -> None:
    base = PUBLISHED["FacebookAI/xlm-roberta-base"]
    config = Config(
        model=ModelConfig(query_max_len=32, passage_max_len=128),
        data=DataConfig(num_hard_negatives=0),
        train=TrainConfig(symmetric=False),
    )
    counted = module("accelerator_settings").training_flops(base, np.full(16, 32), np.full(16, 128))
    assert counted == flops.train(config, base, 16, 1)


def test_an_injected_error_is_beyond_tolerance() -> None:
    parity = module("accelerator_parity")
    reference = np.random.default_rng(0).normal(size=(50, 8))
    assert parity.compare("x", reference, reference * (1 + 1e-6), 1e-5).holds
    wrong = reference.copy()
    wrong[3, 2] += 1.0
    found = parity.compare("x", reference, wrong, 1e-5)
    assert not found.holds and found.max_abs == pytest.approx(1.0)
    assert found.relative == pytest.approx(1 / np.linalg.norm(reference))
    assert not parity.compare("x", reference, np.full_like(reference, np.nan), 1e9).holds
    with pytest.raises(ValueError, match="shapes"):
        parity.compare("x", reference, wrong[0], 1e-5)


def test_the_worst_gradient_decides_but_rounding_does_not() -> None:
    parity = module("accelerator_parity")
    kernel = np.random.default_rng(0).normal(size=(20, 20))
    reference = {"kernel": kernel, "key_bias": np.full(20, 1e-9), "small": np.full(4, 0.5)}
    noisy = reference | {"key_bias": np.full(20, -1e-9)}
    assert parity.compare_gradients("g", reference, noisy, 1e-6).holds
    wrong = parity.compare_gradients("g", reference, reference | {"small": np.full(4, 0.6)}, 1e-2)
    assert not wrong.holds and wrong.what == "g, worst: small" and wrong.relative == pytest.approx(0.2)
    broken = parity.compare_gradients("g", reference, wrong_nan := reference | {"small": np.full(4, np.nan)}, 1e9)
    assert not broken.holds and broken.what == "g, worst: small" and wrong_nan


@pytest.mark.parametrize(("relative", "status"), [(1e-6, 0), (1.0, 1), (float("nan"), 1)])
def test_the_exit_status_is_the_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, relative: float, status: int
) -> None:
    """A device that only answers about parity: the other sections fail, and the report is written all the same."""

    def ask(self: Any, wait_s: float, **question: Any) -> dict[str, Any]:
        device = {"platform": "gpu", "kind": "NVIDIA H200", "devices": 1, "peak_flops": 1.0, "versions": {}}
        made = {"what": "hidden states", "max_abs": relative, "relative": relative, "tolerance": 1e-4}
        answers = {"describe": device | {"missing": "no PyTorch"}, "parity": {"comparisons": [made]}}
        return answers.get(question["do"], {"error": "none"})

    accelerator, ended = module("accelerator"), 0
    monkeypatch.setattr(accelerator.Party, "ask", ask)
    try:
        with errors_as_lines():
            accelerator.run(8.0, tiny=False, torch_python=None, pairs=None, json_file=tmp_path / "made.json")
    except SystemExit as stop:
        ended = 1
        assert "beyond tolerance: hidden states" in str(stop.code)
    assert ended == status
    report = json.loads((tmp_path / "made.json").read_text())
    assert [comparison["holds"] for comparison in report["parity"]] == [status == 0]
    assert len(report["skipped"]) == 7 and report["device"]["kind"] == "NVIDIA H200"


def test_texts_have_the_ids_that_the_other_side_trains_on(tmp_path: Path) -> None:
    data = module("accelerator_data")
    sizes = {"vocab_size": 50, "steps": 3, "pairs": 200, "lengths": (32, 128), "encoded": {16: 4}, "attacked": 2}
    data.write(tmp_path / "data.npz", **sizes)
    arrays, ids_of = np.load(tmp_path / "data.npz"), data.vocabulary(50)
    assert len(ids_of) == 50
    for name, longest in (("query", 32), ("passage", 128)):
        ids, lengths = arrays[f"{name}_ids"].reshape(600, longest), arrays[f"{name}_lengths"].reshape(600)
        for row, length, text in zip(ids, lengths, data.texts(ids), strict=True):
            words = [ids_of[word] for word in text.split()]
            assert row.tolist() == [0, *words, 2, *[1] * (longest - length)]
    assert arrays["query_lengths"].mean() == pytest.approx(20, abs=1)
    assert arrays["passage_lengths"].mean() == pytest.approx((128 + 40 + 3 * 96) / 5, abs=4)
    assert (arrays["encode_16"] != 1).all() and arrays["attack"].shape == (2, 32)


def test_both_sides_see_one_gpu_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = module("accelerator").environment
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    made = environment()
    assert (made["CUDA_VISIBLE_DEVICES"], made["JAX_PLATFORMS"]) == ("3", "cuda,cpu")
    assert made["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.delenv("JAX_PLATFORMS")
    assert "JAX_PLATFORMS" not in environment()


def test_sections_fit_into_the_budget_in_order() -> None:
    settings = module("accelerator_settings")
    planned = settings.sections(settings.FULL)
    assert [str(section) for section in planned] == [
        "XLM-R base, parity",
        "XLM-R base, training",
        "XLM-R base, encoding of 128 tokens",
        "XLM-R base, encoding of 512 tokens",
        "XLM-R base, attack",
        "XLM-R large, training",
        "XLM-R large, encoding of 128 tokens",
        "XLM-R large, encoding of 512 tokens",
    ]
    ends = [section.ends for section in planned]
    assert ends == sorted(ends) and ends[-1] == 1.0
    assert all(section.starts_before <= 1 for section in planned)


def test_a_side_that_is_silent_or_dead_is_an_error() -> None:
    party = module("accelerator").Party(Path(sys.executable), "side_loop.py", {})  # ends without an answer
    assert "ended" in party.ask(60.0, do="describe")["error"]
    party = module("accelerator").Party(Path(sys.executable), "accelerator_torch.py", {})
    assert party.ask(0.0, do="describe")["error"] == "no answer within 0 s"


@pytest.mark.slow
def test_the_whole_command_on_tiny_shapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without PyTorch (the environment of the tests has none), so there is no ratio."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # half of the time is compilation
    module("accelerator").run(30.0, tiny=False, torch_python=None, pairs=None, json_file=tmp_path / "made.json")
    assert "measured alone, and no ratio" in capsys.readouterr().out
    report = json.loads((tmp_path / "made.json").read_text())
    assert report["tiny"] and not report["skipped"]
    assert [comparison["holds"] for comparison in report["parity"]] == [True] * 4
    assert [section["unit"] for section in report["sections"]] == ["pairs/s", "texts/s", "queries/s"]
    for section in report["sections"]:
        assert section["ratio"] is None
        for setting in section["settings"]:
            assert setting["rate"] == pytest.approx(section["items"] / np.median(setting["seconds"]))
