"""Run a study of training recipes and write its results:

    uv run scripts/study.py --output_dir runs/study --collections data/collections

Trains every arm and seed of the design, measures it clean and under attack, and writes one JSON file for each into
runs/study/record/results, plus tables, figures and the page runs/study/record.md. The same command resumes an
interrupted study. Several processes, on one machine or several, can divide the arms (--arms). With --report, nothing is
trained or measured: tables and figures are drawn again from the results. `--record docs/study` selects the
repository's own study.
"""

import argparse
import dataclasses
import runpy
from pathlib import Path

from model_and_collection import listed

from jaxretr import parallel
from jaxretr.files import AnyPath, path_flag
from jaxretr.study.design import Study
from jaxretr.study.report import write_page
from jaxretr.study.study import run_study
from jaxretr.tracking import console, errors_as_lines


def main() -> None:
    args = study_flags().parse_args()
    with errors_as_lines("the same command resumes the study"):
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
        console.print(write_page(study, record))


def study_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=path_flag, default="configs/study_mini.py", help="design of the study (default: %(default)s)")
    add(
        "--output_dir",
        type=path_flag,
        default="runs/study",
        help="directory of models and attacks (default: %(default)s)",
    )
    add(
        "--record",
        type=path_flag,
        help="directory of results and figures, beside the page RECORD.md (default: OUTPUT_DIR/record)",
    )
    add("--collections", type=path_flag, help="directory of published test collections (default: DATA_DIR/collections)")
    add("--data_dir", type=path_flag, help="directory of prepared data and models (default: the design's)")
    add("--arms", type=listed, default=(), help="train and measure only these arms")
    add("--sections", type=listed, default=(), help="measure only these sections")
    add("--report", action="store_true", help="only draw tables and figures from existing results")
    return parser


def load_study(config: AnyPath | str, data_dir: AnyPath | None) -> Study:
    """Return the `Study` that `get_study()` of a config file returns, with `data_dir` if it is given.

    Raises:
      ValueError: the file does not run, or `get_study` returns something other than a `Study`.
    """
    try:
        study = runpy.run_path(str(config))["get_study"]()
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{config} cannot be run as a design ({error!r}); see configs/study_mini.py") from error
    if not isinstance(study, Study):
        raise ValueError(f"get_study() of {config} returned {study!r}; expected a jaxretr.study.design.Study")
    if data_dir is None:
        return study
    data = dataclasses.replace(study.base.data, data_dir=str(data_dir))
    return dataclasses.replace(study, base=dataclasses.replace(study.base, data=data))


if __name__ == "__main__":
    main()
