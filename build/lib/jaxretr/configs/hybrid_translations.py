"""Adversarial hybrid batches: python scripts/train.py --config configs/hybrid_translations.py

Each pair has three choices of languages: the planned one and two others. Training uses the choice with the worst loss.
"""

import dataclasses

from jaxretr.config import Config, HardeningConfig
from jaxretr.configs import hybrid


def get_config() -> Config:
    return dataclasses.replace(hybrid.get_config(), hardening=HardeningConfig(method="translations", translations=2))
