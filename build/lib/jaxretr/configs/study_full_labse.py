"""The study at full size with LaBSE: configs/study_full.py with the model of configs/hybrid_labse.py."""

import dataclasses

from jaxretr.configs import hybrid_labse, study_full
from jaxretr.study.design import Study


def get_study() -> Study:
    full = study_full.get_study()
    return dataclasses.replace(full, base=dataclasses.replace(full.base, model=hybrid_labse.get_config().model))
