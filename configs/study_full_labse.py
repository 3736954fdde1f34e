"""The study at full size with LaBSE: configs/study_full.py with the model of configs/hybrid_labse.py."""

import dataclasses
import runpy
from pathlib import Path

from jaxretr.study.design import Study

FULL = runpy.run_path(str(Path(__file__).with_name("study_full.py")))["get_study"]
RECIPE = runpy.run_path(str(Path(__file__).with_name("hybrid_labse.py")))["get_config"]


def get_study() -> Study:
    full = FULL()
    return dataclasses.replace(full, base=dataclasses.replace(full.base, model=RECIPE().model))
