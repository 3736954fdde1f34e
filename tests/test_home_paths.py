"""`~` in a path that a user gives, at every entry point: flags keep it where a shell does not expand it."""

import argparse
import dataclasses
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxretr.cli import compare, report_attacks
from jaxretr.cli.train import with_recipe
from jaxretr.config import Config, DataConfig, EvaluationConfig, ModelConfig
from jaxretr.data.sources.base import existing_path
from jaxretr.eval.results import Results
from jaxretr.index.index import Index
from jaxretr.model.encode import Encoder
from jaxretr.model.hf_layout import find_model, replaced_directory
from jaxretr.retrieval.embeddings import embed
from jaxretr.serve.server import read_api_key
from jaxretr.tpu_estimate.architectures import architecture_of
from jaxretr.train.output_dir import claim_output_dir
from tests import tiny

SCRIPTS = Path(__file__).parents[1] / "scripts"
NO_PATHS = {
    *("help", "name", "dataset", "measures", "candidates", "languages", "split", "max_queries", "seed", "max_length"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's home directory; nothing may make a directory called ~ where the user is."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert list((tmp_path / "here").iterdir()) == []


def test_paths_of_a_config(home: Path) -> None:
    config = Config(
        model=ModelConfig(model_name_or_path="~/model"),
        data=DataConfig(data_dir="~/data", source="~/pairs"),
        evaluation=EvaluationConfig(dataset="beir", source="~/beir"),
        output_dir="~/runs/x",
    )
    assert [
        config.model.model_name_or_path,
        config.data.data_dir,
        config.data.source,
        config.evaluation.source,
        config.output_dir,
    ] == [str(home / name) for name in ("model", "data", "pairs", "beir", "runs/x")]
    assert dataclasses.replace(config) == config
    assert ModelConfig(model_name_or_path="intfloat/e5~").model_name_or_path == "intfloat/e5~"
    with pytest.raises(ValueError, match="~nobody-of-this-name/x begins with the home directory of an unknown user"):
        Config(output_dir="~nobody-of-this-name/x")


def test_an_overridden_field_is_expanded_too(home: Path) -> None:
    config = Config()
    config.output_dir = "~/run"  # as --config.output_dir=~/run does
    assert claim_output_dir(config) == home / "run"
    assert config.validated().output_dir == str(home / "run")


def test_functions_that_take_paths(home: Path) -> None:
    with replaced_directory("~/models/x") as new:
        (new / "config.json").write_text("{}")
    assert find_model("~/models/x") == home / "models" / "x"
    encoder = tiny.encoder()
    encoder.save("~/model")
    assert Encoder.load("~/model").fingerprint == encoder.fingerprint
    assert architecture_of(ModelConfig(model_name_or_path="~/model")) == encoder.functions.architecture
    embed(["a"], lambda texts: np.ones((len(texts), 2), np.float32), "~/embeddings", fingerprint="f")
    assert existing_path("~/embeddings", "source") == home / "embeddings"
    (home / "key").write_text("secret\n")
    assert read_api_key(Path("~/key")) == "secret"
    for load in (Index.open, Results.load):
        with pytest.raises(FileNotFoundError, match=f"{home}/absent"):
            load("~/absent")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The argparse parsers of all scripts that have a flag for a path."""
    made: dict[str, argparse.ArgumentParser] = {}

    class Stop(Exception):
        pass

    def stop(parser, *_):
        raise Stop(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        for script in sorted(SCRIPTS.glob("*.py")):
            text = script.read_text()
            if "main()" in text and script.stem not in ("train", "compile_tpu"):  # these take absl's flags
                patch.setattr(sys, "argv", [str(script)])
                try:
                    runpy.run_path(str(script), run_name="__main__")
                except Stop as stopped:
                    made[script.stem] = stopped.args[0]
        for action in made.pop("benchmark")._actions:
            if isinstance(action, argparse._SubParsersAction):
                made |= {f"benchmark {name}": parser for name, parser in action.choices.items()}
    return made


def test_flags_of_all_scripts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        "dir",
        "index",
        "corpus",
        "queries",
        "run",
        "model",
        "source",
        "python",
        "json",
        "file",
        "record",
        "config",
    )
    seen = []
    for script, parser in parsers().items():
        for action in parser._actions:
            is_path = any(word in f"{action.dest} {action.option_strings}" for word in names)
            kind = getattr(action.type, "__name__", action.type)
            if script == "parity" and kind == "expanded":  # also runs where jaxretr is not installed
                assert callable(action.type) and action.type("~/x") == home / "x"
            elif kind in ("path_flag", "model_flag"):
                assert callable(action.type) and str(action.type("~/x")) == str(home / "x"), (script, action.dest)
                with pytest.raises(argparse.ArgumentTypeError, match="home directory of an unknown user"):
                    action.type("~nobody-of-this-name/x")
                seen.append((script, action.dest))
            elif is_path and action.type in (None, str, Path) and action.nargs != 0 and action.choices is None:
                assert (script, action.dest) in {
                    ("attack", "runs"),
                }, (script, action.dest, kind)
    assert {script.partition(" ")[0] for script, _ in seen} >= {
        *("attack", "benchmark", "build_index", "compare", "evaluate", "import_weights", "prepare_data"),
        *("report_attacks", "search", "serve", "study"),
    }
    assert len(seen) > 40


def test_systems_that_are_compared(home: Path) -> None:
    for load in (compare.load, report_attacks.load):
        (home / "a").mkdir(exist_ok=True)
        with pytest.raises((ValueError, FileNotFoundError), match=f"{home}/a|no attacks.json"):
            load(["A=~/a"])


def test_the_recipe_of_a_training_run(home: Path) -> None:
    (home / "recipe.py").touch()
    assert with_recipe(["--config=~/recipe.py"]) == [f"--config={home}/recipe.py"]
    assert with_recipe(["--config", "~/recipe.py"]) == ["--config", f"{home}/recipe.py"]
    others = ["--config.output_dir=~/x", "~/recipe.py", "--v=1", "--config"]
    assert with_recipe(others) == others
