"""Run a study of training recipes, and write what it found:

    uv run scripts/study.py --output_dir runs/study --collections data/collections

trains every arm and seed of the design, measures them clean and under attack, and writes one JSON for each into
runs/study/record/results, tables and figures, and the page runs/study/record.md. The same command again goes on where
it was; several processes, on one machine or several, may share out the arms (--arms). With --report nothing is trained
or measured: tables and figures are drawn anew from the results. The repository's own study is `--record docs/study`.
"""

import argparse
import dataclasses
import runpy
import sys
from pathlib import Path

from model_and_collection import listed

from jaxretr import parallel
from jaxretr.config import path_flag
from jaxretr.files import AnyPath
from jaxretr.study.design import Study
from jaxretr.study.report import write_page
from jaxretr.study.study import run_study
from jaxretr.tracking import console


def main() -> None:
    args = study_flags().parse_args()
    try:
        study = load_study(args.config, args.data_dir)
        record = args.record or args.output_dir / "record"
        if not args.report:
            parallel.initialize()
            run_study(
                study,
                args.output_dir,
                record / "results",
                args.collections or Path(study.base.data.data_dir) / "collections",
                arms=args.arms,
                sections=args.sections,
            )
        page = write_page(study, record)
    except KeyboardInterrupt:
        sys.exit("Interrupted: the same command goes on where it was")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    console.print(page)


def study_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=path_flag, default="configs/study_mini.py", help="the design (default: %(default)s)")
    add("--output_dir", type=path_flag, default="runs/study", help="models and attacks (default: %(default)s)")
    add("--record", type=path_flag, help="results, figures and, as RECORD.md, the page (default: OUTPUT_DIR/record)")
    add("--collections", type=path_flag, help="published test collections by name (default: DATA_DIR/collections)")
    add("--data_dir", type=path_flag, help="prepared data and models (default: as the design says)")
    add("--arms", type=listed, default=(), help="do these only")
    add("--sections", type=listed, default=(), help="measure these only")
    add("--report", action="store_true", help="only draw tables and figures anew")
    return parser


def load_study(config: AnyPath | str, data_dir: AnyPath | None) -> Study:
    """What `get_study()` of a file returns."""
    study: Study = runpy.run_path(str(config))["get_study"]()
    if data_dir is None:
        return study
    data = dataclasses.replace(study.base.data, data_dir=str(data_dir))
    return dataclasses.replace(study, base=dataclasses.replace(study.base, data=data))


if __name__ == "__main__":
    main()
