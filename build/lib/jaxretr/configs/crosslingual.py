"""Cross-lingual batches with the mini encoder: python scripts/train.py --config configs/crosslingual.py"""

import dataclasses

from jaxretr.config import Config
from jaxretr.configs import hybrid


def get_config() -> Config:
    config = hybrid.get_config()
    return dataclasses.replace(config, data=dataclasses.replace(config.data, alpha=0.0))
