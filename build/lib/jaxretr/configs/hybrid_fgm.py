"""Hybrid batches and the fast gradient method: python scripts/train.py --config configs/hybrid_fgm.py

Miyato et al. 2017 (arXiv 1605.07725): the clean loss plus, with equal weight, the loss after one step up its gradient.
Each token moves by a tenth of the mean norm of a word embedding. With --config.hardening.method=pgd, training takes
hardening.steps steps instead of one (Madry et al. 2018, arXiv 1706.06083).
"""

import dataclasses

from jaxretr.config import Config, HardeningConfig
from jaxretr.configs import hybrid


def get_config() -> Config:
    return dataclasses.replace(
        hybrid.get_config(), hardening=HardeningConfig(method="fgm", rho=0.1, norm="token_l2", weight=1.0)
    )
