"""Train a retriever by a recipe:

    jaxretr train --config hybrid
    jaxretr train --config my_recipe.py --config.train.steps=20 --config.output_dir=runs/short

A recipe is a Python file with a function `get_config` that returns a `jaxretr.config.Config`, or the name of a recipe
that comes with the package. Further flags override single fields of the config.

Prepares data and encoder if they are absent, trains, evaluates before and after training on held-out data, and writes
everything into the output directory (runs/<name of the recipe> unless --config.output_dir names another). The same
command resumes an interrupted run.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from jaxretr.cli.recipes import find_recipe, recipe_names
from jaxretr.config import Config

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe: a path, or a name such as hybrid.")
flags.mark_flag_as_required("config")


def main() -> None:
    app.run(_train, flags_parser=parse_flags)


def _train(_: list[str]) -> None:
    from jaxretr import parallel
    from jaxretr.run import train
    from jaxretr.tracking import errors_as_lines

    logging.set_verbosity(logging.WARNING)  # hides the libraries' progress messages; ours go to the console
    config = _CONFIG.value
    config.output_dir = config.output_dir or str(
        Path("runs") / Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    )
    with errors_as_lines("the same command resumes from the last checkpoint"):
        parallel.initialize()
        train(config)


def parse_flags(arguments: list[str]) -> list[str]:
    """Return the arguments that are not flags. Exit if --config or a field that it sets is wrong."""
    if {"-h", "--help"} & set(arguments):
        print(_help())
        sys.exit()
    try:
        remaining = app.parse_flags_with_usage(with_recipe(arguments))
        _ = _CONFIG.value.output_dir  # raises if the file cannot be loaded or is not a recipe
        return remaining
    except KeyError as error:  # config_flags raises it for a field that does not exist
        sys.exit(f"error: {error.args[0]}; jaxretr/config.py lists all fields")
    except Exception as error:  # a config file may raise anything
        reason = (str(error).splitlines() or [""])[-1].strip()
        sys.exit(f"error: the file of --config cannot be loaded ({type(error).__name__}: {reason})")


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Replace the value of --config by the path of the recipe, with `~` expanded.

    Raises:
      FileNotFoundError: there is no such file and no recipe of this name.
    """
    replaced = list(arguments)
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if equals:
            replaced[number] = f"{flag}={find_recipe(value)}"
        elif number + 1 < len(arguments):
            replaced[number + 1] = find_recipe(arguments[number + 1])
    return replaced


def _help() -> str:
    fields = "\n".join(f"  --config.{name}={value}" for name, value in _fields(Config()))
    return (
        f"{(__doc__ or '').strip()}\n\nRecipes: {', '.join(recipe_names())}\n\n"
        f"Fields and their defaults (jaxretr/config.py describes them):\n{fields}"
    )


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", ",".join(value) if isinstance(value, tuple) else value
