"""Train a retriever: python scripts/train.py --config configs/hybrid.py [--config.train.steps=20 ...]

Prepares data and encoder if they are absent, trains, evaluates before and after training on held-out data, and writes
everything into the output directory (runs/<name of the config> unless --config.output_dir names another). The same
command resumes an interrupted run.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from jaxretr import parallel
from jaxretr.files import as_path
from jaxretr.run import train
from jaxretr.tracking import errors_as_lines

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/hybrid.py.")
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
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
    try:
        remaining = app.parse_flags_with_usage([_with_home(argument) for argument in arguments])
        _ = _CONFIG.value.output_dir  # raises if the file cannot be loaded or is not a recipe
        return remaining
    except KeyError as error:  # config_flags raises it for a field that does not exist
        sys.exit(f"error: {error.args[0]}; jaxretr/config.py lists all fields")
    except Exception as error:  # a config file may raise anything
        reason = (str(error).splitlines() or [""])[-1].strip()
        sys.exit(f"error: the file of --config cannot be loaded ({type(error).__name__}: {reason})")


def _with_home(argument: str) -> str:
    """Expand the path of --config=~/recipe.py, which shells do not expand."""
    flag, equals, value = argument.partition("=")
    return f"{flag}={as_path(value)}" if flag in ("--config", "-config") and equals else argument


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
