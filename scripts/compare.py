"""Test which differences between evaluated systems are statistically significant.

    uv run scripts/compare.py runs/mono/test runs/hybrid/test [--measure multi/AP ...] [--output_dir comparison]
    uv run scripts/compare.py mono=runs/m0/test,runs/m1/test,runs/m2/test hybrid=runs/h0/test,runs/h1/test,runs/h2/test

A system is a directory that scripts/evaluate.py wrote, or NAME=DIR,DIR,... for one recipe trained with several seeds.
The first system is the baseline unless --baseline names another. docs/evaluation.md describes the tests.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from jaxretr.eval.compare import compare
from jaxretr.eval.results import Results
from jaxretr.files import as_path, path_flag
from jaxretr.tracking import errors_as_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", metavar="OUT", help="a directory, or NAME=DIR,DIR,...")
    parser.add_argument("--measure", nargs="+", default=(), metavar="SETTING/MEASURE", help="such as multi/AP")
    parser.add_argument("--baseline", help="the baseline: a system's name, or its argument (default: the first system)")
    parser.add_argument("--output_dir", type=path_flag, help="directory for comparison.json and comparison.md")
    flags = parser.parse_args()
    with errors_as_lines():
        systems = load(flags.systems)
        names = dict(zip(flags.systems, systems, strict=True))
        comparison = compare(systems, measures=flags.measure, baseline=names.get(flags.baseline, flags.baseline))
        if flags.output_dir:
            comparison.save(flags.output_dir)
        Console().print(Markdown(comparison.markdown()))


def load(arguments: Sequence[str]) -> dict[str, tuple[Results, ...]]:
    systems: dict[str, tuple[Results, ...]] = {}
    seen: set[Path] = set()
    for argument in arguments:
        name, equals, listed = ("", "=", argument) if as_path(argument).is_dir() else argument.partition("=")
        if not equals:
            raise ValueError(
                f"{argument!r} is not a directory; give a directory that scripts/evaluate.py wrote, or NAME=DIR,DIR,..."
            )
        directories = listed.split(",") if name else [listed]
        if not all(directories):
            raise ValueError(f"{argument!r} names an empty directory; expected NAME=DIR,DIR,...")
        for directory in directories:
            path = Path(as_path(directory)).resolve()
            if path in seen:
                raise ValueError(f"{directory} is given twice; give each evaluation once")
            seen.add(path)
        runs = tuple(Results.load(directory) for directory in directories)
        name = name or runs[0].system or Path(argument).name
        if name in systems:
            raise ValueError(f"two systems are named {name!r}; give one of them another name: NAME={argument}")
        systems[name] = runs
    return systems


if __name__ == "__main__":
    main()
