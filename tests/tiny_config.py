"""A run of three steps on a tiny model and made-up data, for continuous integration.

JAXRETR_TINY_ROOT names a directory for model and data; a temporary one is made without it.
"""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from jaxretr.config import Config
from tests import tiny


def get_config() -> Config:
    root = Path(os.environ.get("JAXRETR_TINY_ROOT") or tempfile.mkdtemp(prefix="jaxretr-tiny-"))
    config = tiny.run_config(root, root / "run")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=3), log_every_steps=1)
