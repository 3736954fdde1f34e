"""Hybrid batches and virtual adversarial training: python scripts/train.py --config configs/hybrid_vat.py

Miyato et al. 2018 (arXiv 1704.03976): the clean loss plus, with equal weight, the divergence of the scores in the most
sensitive direction, which one power iteration finds.
"""

import dataclasses

from jaxretr.config import Config, HardeningConfig
from jaxretr.configs import hybrid


def get_config() -> Config:
    return dataclasses.replace(
        hybrid.get_config(), hardening=HardeningConfig(method="vat", rho=0.1, norm="token_l2", steps=1, weight=1.0)
    )
