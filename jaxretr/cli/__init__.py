"""The command line: `jaxretr COMMAND` and `scripts/*.py` call the same functions.

Each command is one module with a `main()` that reads `sys.argv`. The modules import the rest of the package inside
`main()`, after the flags are parsed, so that `--help` and wrong flags answer in less than a second.
"""

import difflib
import importlib
import sys

from jaxretr import __version__

COMMANDS = {
    "train": "train a retriever by a recipe",
    "evaluate": "measure retrieval and language bias on a test collection",
    "compare": "test which differences between evaluated systems are significant",
    "attack": "attack a retriever and measure its robustness",
    "report-attacks": "report the attacks on several systems on one page",
    "prepare-data": "prepare a dataset",
    "import-weights": "convert weights in another format to a saved model",
    "build-index": "build an index of a corpus",
    "search": "search an index",
    "quarantine": "list and release the passages that the gate of an index holds back, or add a gate",
    "serve": "serve an index over HTTP, with a search page",
    "study": "train and compare recipes over several seeds",
    "compile-tpu": "predict memory and speed on a TPU slice, without a TPU",
}
"""Command -> what it does. The module of a command has its name, with underscores."""


def main() -> None:
    """Run the command that `sys.argv` names. It is the entry point of the program `jaxretr`."""
    match sys.argv[1:]:
        case [] | ["-h" | "--help" | "help"]:
            print(_help())
        case ["--version"]:
            print(__version__)
        case [command, *arguments] if command.replace("_", "-") in COMMANDS:
            module = importlib.import_module(f"jaxretr.cli.{command.replace('-', '_')}")
            sys.argv = [f"jaxretr {command}", *arguments]
            module.main()
        case [command, *_]:
            near = difflib.get_close_matches(command, COMMANDS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            sys.exit(f"error: unknown command {command!r}; {hint}The commands are {', '.join(COMMANDS)}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxretr COMMAND [FLAGS]",
            "",
            "Train, evaluate, attack and serve multilingual dense retrievers in JAX.",
            "",
            *lines,
            "",
            "`jaxretr COMMAND --help` describes the flags of a command, `jaxretr --version` prints the version.",
        ]
    )
