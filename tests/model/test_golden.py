"""The encoder against PyTorch's XLMRobertaModel, BertModel and ModernBertModel (golden/make_golden.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxretr.model.functions import functions
from jaxretr.model.weights import checkpoint_views, load_params

ATOL = 1e-5
NAMES = ("xlm_roberta", "bert", "modern_bert", "modern_bert_silu")


def load(name, directory):
    arrays = dict(np.load(Path(__file__).parent / "golden" / f"{name}.npz"))
    (directory / "config.json").write_text(str(arrays["config"]))
    weights = {name.removeprefix("weights/"): a for name, a in arrays.items() if name.startswith("weights/")}
    save_file(weights, directory / "model.safetensors")
    return arrays, *load_params(directory)


@pytest.fixture(scope="module")
def goldens(tmp_path_factory):
    return {name: load(name, tmp_path_factory.mktemp(name)) for name in NAMES}


def test_config_is_the_one_that_was_run(goldens):
    for arrays, architecture, _ in goldens.values():
        config = json.loads(str(arrays["config"]))
        assert architecture.model_type == config["model_type"]
        assert architecture.layer_norm_eps == config.get("layer_norm_eps", config.get("norm_eps"))


def assert_close(found, expected, name):
    """Gradients are larger than hidden states, up to 118 in ModernBERT; the tolerance is relative to the largest."""
    np.testing.assert_allclose(found, expected, atol=ATOL * max(1, np.abs(expected).max()), rtol=0, err_msg=name)


REMAT = ("none", "dots", "full")
CASES = [(name, remat) for name in NAMES for remat in (REMAT if "modern" not in name else ("dots",))]


@pytest.mark.parametrize(("name", "remat"), CASES)
def test_hidden_states_and_gradients(goldens, name, remat):
    arrays, architecture, params = goldens[name]
    encoder = functions(architecture, remat=remat)
    mask = jnp.asarray(arrays["mask"])

    @jax.jit
    def run(params, embeds):
        def scalar(params, embeds):
            hidden = encoder.hidden_states(params, embeds, mask)
            return jnp.sum(hidden * arrays["cotangent"] * mask[..., None]), hidden

        return jax.grad(scalar, argnums=(0, 1), has_aux=True)(params, embeds)

    (params_gradient, embeds_gradient), hidden = run(params, encoder.embed_tokens(params, jnp.asarray(arrays["ids"])))
    assert not arrays["mask"].all(axis=1)[1:].any()  # padded rows are among them, and one of padding alone
    np.testing.assert_allclose(hidden, arrays["hidden_states"], atol=ATOL, rtol=0)
    assert_close(embeds_gradient, arrays["embeds_gradient"], "word embeddings")
    views = checkpoint_views(architecture, jax.tree.map(np.asarray, params_gradient))
    expected = {name.removeprefix("gradients/"): a for name, a in arrays.items() if name.startswith("gradients/")}
    assert expected
    for name, gradient in expected.items():
        assert_close(views[name], gradient, name)
