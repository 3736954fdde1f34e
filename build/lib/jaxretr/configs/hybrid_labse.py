"""The published recipe at full size with LaBSE, on a TPU slice or GPUs.

    python scripts/train.py --config configs/hybrid_labse.py --config.data.source=/data/mmarco

The recipe is `configs/hybrid_xlmr_base.py`. Pooling and head are as in LaBSE.
"""

import dataclasses

from jaxretr.config import Config
from jaxretr.configs import hybrid_xlmr_base


def get_config() -> Config:
    config = hybrid_xlmr_base.get_config()
    model = dataclasses.replace(config.model, model_name_or_path="sentence-transformers/LaBSE", pooling="")
    return dataclasses.replace(config, model=model)
