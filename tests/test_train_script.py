"""The command line of scripts/train.py: what config flags accept."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

CONFIG = Path(__file__).parents[1] / "configs" / "hybrid.py"


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    def parsed(*overrides: str):
        arguments = ["train.py", f"--config={CONFIG}", *overrides]
        monkeypatch.setattr(sys, "argv", arguments)  # config_flags looks for overrides there
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
        values(arguments)
        return holder.value

    return parsed


def test_overrides_take_the_type_of_their_field(parse) -> None:
    config = parse(
        "--config.train.steps=7",
        "--config.train.learning_rate=1",
        "--config.data.languages=en,de",
        "--config.resume=False",
    ).validated()
    assert config.train.steps == 7 and config.train.learning_rate == 1.0 and config.resume is False
    assert config.data.languages == ("en", "de")


def test_an_unknown_field_is_named(parse) -> None:
    with pytest.raises(KeyError, match="learning_rat not found on .*TrainConfig"):
        parse("--config.train.learning_rat=1e-5")


@pytest.mark.parametrize(
    "override", ["--config.train.steps=many", "--config.train.steps=1.5", "--config.resume=perhaps"]
)
def test_a_value_of_another_type_is_an_error(override: str, parse) -> None:
    with pytest.raises(flags.IllegalFlagValueError, match=override.split("=")[1]):
        parse(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.learning_rat=1e-5", "error: Field learning_rat not found"),
        ("--config.data.alpha=1.5", "error: data.alpha=1.5 is not allowed; expected a probability between 0 and 1"),
    ],
)
def test_bad_input_ends_in_one_line(override: str, message: str) -> None:
    command = [sys.executable, "scripts/train.py", "--config", str(CONFIG), override]
    done = subprocess.run(command, cwd=CONFIG.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("x = nothing", "NameError: name 'nothing'")])
def test_a_config_that_cannot_be_loaded_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    config = tmp_path / "config.py"
    if content:
        config.write_text(content)
    command = [sys.executable, "scripts/train.py", "--config", str(config)]
    done = subprocess.run(command, cwd=CONFIG.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: the file of --config cannot be loaded" in done.stderr and message in done.stderr
    assert "Traceback" not in done.stderr
