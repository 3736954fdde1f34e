import dataclasses
import math
from pathlib import Path

import jax
import pytest

from jaxretr.config import ModelConfig
from jaxretr.model.functions import param_shapes
from jaxretr.tpu_estimate.architectures import PUBLISHED, architecture_of
from tests import tiny


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # as the models' cards and papers give them; without the language-model head and BERT's pooler
        ("FacebookAI/xlm-roberta-base", 277.5),
        ("FacebookAI/xlm-roberta-large", 558.8),
        ("sentence-transformers/LaBSE", 470.9),
        ("jhu-clsp/mmBERT-small", 140.5),
        ("jhu-clsp/mmBERT-base", 307.0),
    ],
)
def test_published_models_have_their_number_of_parameters(name: str, millions: float) -> None:
    shapes = jax.tree.leaves(param_shapes(PUBLISHED[name]))
    assert sum(math.prod(leaf.shape) for leaf in shapes) / 1e6 == pytest.approx(millions, rel=0.003)


def test_a_directory_says_its_own_and_the_config_decides_the_pooling(tiny_root: Path) -> None:
    model = ModelConfig(model_name_or_path=str(tiny_root / "model"))
    assert architecture_of(model) == tiny.TINY
    assert architecture_of(dataclasses.replace(model, pooling="max")).pooling == "max"


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="'someone/model' is unknown; .*FacebookAI/xlm-roberta-base"):
        architecture_of(ModelConfig(model_name_or_path="someone/model"))
