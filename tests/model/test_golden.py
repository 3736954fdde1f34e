"""The encoder against PyTorch's XLMRobertaModel and BertModel (golden/make_golden.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxretr.model.functions import functions
from jaxretr.model.weights import load_params

ATOL = 1e-5


@pytest.fixture(scope="module", params=["xlm_roberta", "bert"])
def golden(request, tmp_path_factory):
    arrays = dict(np.load(Path(__file__).parent / "golden" / f"{request.param}.npz"))
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "config.json").write_text(str(arrays["config"]))
    weights = {name.removeprefix("weights/"): a for name, a in arrays.items() if name.startswith("weights/")}
    save_file(weights, directory / "model.safetensors")
    return arrays, *load_params(directory)


def test_config_is_the_one_that_was_run(golden):
    arrays, architecture, _ = golden
    config = json.loads(str(arrays["config"]))
    assert architecture.model_type == config["model_type"]
    assert architecture.layer_norm_eps == config["layer_norm_eps"]


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_hidden_states(golden, remat):
    arrays, architecture, params = golden
    encoder = functions(architecture, remat=remat)
    embeds = encoder.embed_tokens(params, jnp.asarray(arrays["ids"]))
    hidden = jax.jit(encoder.hidden_states)(params, embeds, jnp.asarray(arrays["mask"]))
    assert not arrays["mask"].all(axis=1)[1:].any()  # padded rows are among them, and one of padding alone
    np.testing.assert_allclose(hidden, arrays["hidden_states"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_gradients(golden, remat):
    arrays, architecture, params = golden
    encoder = functions(architecture, remat=remat)
    mask = jnp.asarray(arrays["mask"])

    def scalar(params, embeds):
        return jnp.sum(encoder.hidden_states(params, embeds, mask) * arrays["cotangent"] * mask[..., None])

    embeds = encoder.embed_tokens(params, jnp.asarray(arrays["ids"]))
    params_gradient, embeds_gradient = jax.jit(jax.grad(scalar, argnums=(0, 1)))(params, embeds)
    hidden = architecture.hidden_size
    value = params_gradient["layers"]["attention"]["qkv"]["kernel"][1, :, 2 * hidden :]
    assert str(arrays["matrix"]) == "encoder.layer.1.attention.self.value.weight"
    np.testing.assert_allclose(embeds_gradient, arrays["embeds_gradient"], atol=ATOL, rtol=0)
    np.testing.assert_allclose(value.T, arrays["matrix_gradient"], atol=ATOL, rtol=0)
