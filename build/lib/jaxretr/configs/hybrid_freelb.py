"""Hybrid batches and FreeLB: python scripts/train.py --config configs/hybrid_freelb.py

Zhu et al. 2020 (arXiv 1909.11764): the mean loss at the three points that gradient ascent visits.
"""

import dataclasses

from jaxretr.config import Config, HardeningConfig
from jaxretr.configs import hybrid


def get_config() -> Config:
    return dataclasses.replace(
        hybrid.get_config(), hardening=HardeningConfig(method="freelb", rho=0.1, norm="token_l2", steps=3)
    )
