"""Report the attacks on one or several systems on one page.

    uv run scripts/report_attacks.py out/attack-mono out/attack-hybrid --output_dir out/comparison
    uv run scripts/report_attacks.py mono=out/attack-0 hybrid=out/attack-1 --output_dir out/comparison

A system is a directory that scripts/attack.py wrote, or NAME=DIR. All systems must have been attacked in the same
setting of the same collection with the same queries. Writes report.html and plots/*.png.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxretr.attack.record import RECORD_FILE
from jaxretr.attack.report.page import write_report
from jaxretr.attack.report.system import System
from jaxretr.files import as_path, path_flag
from jaxretr.tracking import errors_as_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", metavar="OUT", help="a directory, or NAME=DIR")
    parser.add_argument("--output_dir", required=True, type=path_flag, help="directory for report.html and plots/")
    flags = parser.parse_args()
    with errors_as_lines():
        print(write_report(flags.output_dir, load(flags.systems)))


def load(arguments: Sequence[str]) -> list[System]:
    systems = []
    for argument in arguments:
        name, equals, directory = ("", "=", argument) if as_path(argument).is_dir() else argument.partition("=")
        path = Path(as_path(directory))
        if not equals or not (path / RECORD_FILE).exists():
            raise ValueError(
                f"{directory or argument!r} has no {RECORD_FILE}; give a directory that scripts/attack.py wrote, "
                "or NAME=DIR"
            )
        system = System.load(path)
        record = dataclasses.replace(system.record, system=name or system.name or path.name)
        systems.append(dataclasses.replace(system, record=record))
    return systems


if __name__ == "__main__":
    main()
