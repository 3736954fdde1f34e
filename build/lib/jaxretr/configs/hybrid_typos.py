"""Hybrid batches and self-teaching on typos: python scripts/train.py --config configs/hybrid_typos.py

Zhuang and Zuccon 2022 (arXiv 2204.00716): the clean loss plus, with equal weight, the divergence of the scores of a
query with a typo from the scores of the clean query.
"""

import dataclasses

from jaxretr.config import Config, HardeningConfig
from jaxretr.configs import hybrid


def get_config() -> Config:
    return dataclasses.replace(hybrid.get_config(), hardening=HardeningConfig(method="typos", edits=1, weight=1.0))
