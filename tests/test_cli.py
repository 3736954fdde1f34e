"""The program `jaxretr`: commands, defaults, recipes by name, and the scripts that call the same functions."""

import dataclasses
import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from jaxretr import __version__, cli
from jaxretr.attack.options import AttackOptions
from jaxretr.attack.run import MEASURES as ATTACK_MEASURES
from jaxretr.cli import attack, build_index, evaluate, prepare_data, search
from jaxretr.cli.recipes import find_recipe, recipe_names
from jaxretr.data import sources
from jaxretr.eval.evaluate import MEASURES
from jaxretr.eval.measures import DEPTH
from jaxretr.eval.runs import RUNS
from jaxretr.eval.settings import SETTINGS
from jaxretr.index.approximate import ScannSettings
from jaxretr.index.rerank import CANDIDATES
from jaxretr.index.types import UNKNOWN_LANGUAGE
from jaxretr.index.vectors import STORAGES
from jaxretr.tpu_estimate.check import PROGRAMS

ROOT = Path(__file__).parents[1]
REQUIRED = ["--model=m", "--dataset=d", "--output_dir=o"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `jaxretr ARGUMENTS` prints in this process, with the text of an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxretr", *arguments])
        try:
            cli.main()
        except SystemExit as stop:
            if isinstance(stop.code, str):
                return stop.code
    return capsys.readouterr().out


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        shown = run(capsys, *arguments)
        assert all(f"  {name} " in shown for name in cli.COMMANDS)
    assert run(capsys, "--version") == f"{__version__}\n"


def test_the_help_of_a_command_imports_neither_jax_nor_tfds() -> None:
    """These imports take seconds; without them, help is shown in a fraction of a second."""
    code = (
        "import sys\nfrom jaxretr import cli\n"
        "for name in cli.COMMANDS:\n"
        "    sys.argv = ['jaxretr', name, '--help']\n"
        "    try: cli.main()\n"
        "    except SystemExit as stop: assert not stop.code, (name, stop.code)\n"
        "heavy = {'jax', 'numpy', 'tensorflow_datasets', 'transformers', 'matplotlib', 'rich'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in set(cli.COMMANDS) - {"train", "compile-tpu"}:
        assert f"usage: jaxretr {name} " in done.stdout
    assert "--config.train.learning_rate=" in done.stdout and "hybrid, hybrid_fgm" in done.stdout


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["jaxretr", "--version"])
    runpy.run_module("jaxretr", run_name="__main__", alter_sys=False)
    assert capsys.readouterr().out == f"{__version__}\n"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'evalaute'; did you mean evaluate? The commands are train, " in run(capsys, "evalaute")


def test_every_script_of_a_command_calls_its_main() -> None:
    for name in cli.COMMANDS:
        module = name.replace("-", "_")
        script = runpy.run_path(str(ROOT / "scripts" / f"{module}.py"))
        assert script["main"] is importlib.import_module(f"jaxretr.cli.{module}").main


def test_defaults_and_choices_are_the_library_s() -> None:
    args = vars(attack.attack_flags().parse_args(REQUIRED))
    defaults = {field.name: field.default for field in dataclasses.fields(AttackOptions)}
    assert (args.pop("poison_text"), defaults.pop("poison_text")) == (None, "")  # the flag names a file
    assert {name: args[name] for name in defaults if name in args} == {k: v for k, v in defaults.items() if k in args}
    assert len(defaults.keys() & args.keys()) == 20 and args["measures"] == ATTACK_MEASURES
    assert [*choices(attack.attack_flags(), "setting")] == [*SETTINGS]
    args = vars(evaluate.evaluation_flags().parse_args(REQUIRED))
    assert (args["measures"], args["run_depth"], args["runs"]) == (MEASURES, DEPTH, RUNS)
    args = vars(build_index.flags().parse_args(["--index=i"]))
    assert args["language"] == UNKNOWN_LANGUAGE
    assert [*choices(build_index.flags(), "storage")] == [*STORAGES]
    types = {field.name: field.type for field in dataclasses.fields(ScannSettings)}
    assert types == build_index.SCANN
    assert tuple(sources.BUILDERS) == prepare_data.DATASETS
    rerank = next(action for action in search.flags()._actions if action.dest == "rerank")
    assert f"(default: {CANDIDATES}," in str(rerank.help)
    from jaxretr.cli import compile_tpu

    assert compile_tpu._PROGRAMS.default == [*PROGRAMS]


def choices(parser, name: str):
    return next(action.choices for action in parser._actions if action.dest == name)


def test_recipes_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stems = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
    assert {*recipe_names(), *recipe_names("study_")} == stems
    assert not any(name.startswith("study_") for name in recipe_names())
    assert Path(find_recipe("hybrid")).samefile(ROOT / "configs" / "hybrid.py")
    assert Path(find_recipe("study_mini", "study_")).samefile(ROOT / "configs" / "study_mini.py")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hybrid").touch()  # a file wins over a name
    assert Path(find_recipe("hybrid")) == Path("hybrid")
    with pytest.raises(FileNotFoundError) as error:
        find_recipe("hybird.py")
    assert f"'{tmp_path}/hybird.py', and no recipe has the name 'hybird.py'; did you mean hybrid?" in str(error.value)
    assert ", ".join(recipe_names()) in str(error.value)


def test_a_recipe_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "train", "--config=hybrit")
    assert said.startswith("error: the file of --config cannot be loaded (FileNotFoundError: No such file or directory")
    assert "did you mean hybrid?" in said and "\n" not in said
