import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr.model.architecture import Architecture
from jaxretr.model.attention import dropout
from jaxretr.model.functions import functions, init_params, param_shapes
from jaxretr.model.layers import gelu

LENGTHS = np.array([8, 5, 1, 0])
MASK = np.arange(8) < LENGTHS[:, None]
IDS = np.where(MASK, np.random.default_rng(0).integers(4, 131, MASK.shape), 1)


def test_gelu_and_its_derivative():
    x = np.array([-6.0, -1.5, -1e-3, 0.0, 0.7, 3.0], np.float32)
    cdf = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(gelu(jnp.asarray(x)), x * cdf, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), cdf + x * density, atol=1e-6)
    assert gelu(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


def test_dropout_keeps_the_mean_and_is_a_function_of_the_key():
    x = jnp.ones((99, 101))
    dropped = dropout(x, 0.25, jax.random.key(3))
    np.testing.assert_allclose(np.unique(dropped), [0, 4 / 3], rtol=1e-6)
    assert abs(float((dropped == 0).mean()) - 0.25) < 0.02
    assert abs(float(dropped.mean()) - 1) < 0.02
    np.testing.assert_array_equal(dropped, dropout(x, 0.25, jax.random.key(3)))
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling_by_hand(architecture, params, pooling):
    encoder = functions(dataclasses.replace(architecture, pooling=pooling))
    hidden = np.random.default_rng(1).normal(size=(4, 8, 16)).astype(np.float32)
    pooled = np.asarray(encoder.pool(params, jnp.asarray(hidden), jnp.asarray(MASK)))
    expected = [
        {"mean": row[:length].mean(axis=0), "cls": row[0], "max": row[:length].max(axis=0)}[pooling]
        for row, length in zip(hidden[:3], LENGTHS[:3], strict=True)
    ]
    np.testing.assert_allclose(pooled[:3], expected, atol=1e-6)
    np.testing.assert_array_equal(pooled[3], 0)


def test_dense_head_by_hand(architecture):
    architecture = dataclasses.replace(architecture, pooling="cls", dense_head=(16, 5))
    encoder, params = functions(architecture), jax.jit(init_params, static_argnums=0)(architecture, jax.random.key(1))
    hidden = np.random.default_rng(1).normal(size=(4, 8, 16)).astype(np.float32)
    pooled = encoder.pool(params, jnp.asarray(hidden), jnp.asarray(MASK))
    head = params["dense_head"]
    np.testing.assert_allclose(pooled[:3], np.tanh(hidden[:3, 0] @ head["kernel"] + head["bias"]), atol=1e-6)
    shape = jax.eval_shape(encoder.encode_ids, params, jnp.asarray(IDS), jnp.asarray(MASK)).shape
    assert shape == (4, architecture.dim) == (4, 5)


@pytest.mark.parametrize(
    ("pooling", "remat"), [("mean", "none"), ("cls", "none"), ("max", "none"), ("mean", "dots"), ("mean", "full")]
)
def test_rows_of_padding_are_harmless(architecture, params, pooling, remat):
    encoder = functions(dataclasses.replace(architecture, pooling=pooling), remat=remat)
    embeds, mask = encoder.embed_tokens(params, jnp.asarray(IDS)), jnp.asarray(MASK)
    embeddings = jax.jit(encoder.encode)(params, embeds, mask)
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=1), [1, 1, 1, 0], atol=1e-6)

    @jax.jit
    def gradient(params, embeds, mask):
        def loss(params, embeds):
            return jnp.sum(encoder.encode(params, embeds, mask, jax.random.key(0))[:, 0])

        return jax.grad(loss, argnums=(0, 1))(params, embeds)

    params_gradient, embeds_gradient = gradient(params, embeds, mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params_gradient, embeds_gradient)))
    np.testing.assert_array_equal(embeds_gradient[~MASK], 0)
    assert np.abs(embeds_gradient[MASK]).max() > 0
    alone = gradient(params, embeds, mask & False)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(alone))


@pytest.mark.parametrize("model_type", ["xlm-roberta", "bert"])
def test_padding_and_order_do_not_change_an_embedding(architecture, params, model_type):
    encode = jax.jit(functions(dataclasses.replace(architecture, model_type=model_type)).encode_ids)
    together = encode(params, jnp.asarray(IDS), jnp.asarray(MASK))
    order = np.array([2, 0, 3, 1])
    reordered = encode(params, jnp.asarray(IDS[order]), jnp.asarray(MASK[order]))
    np.testing.assert_allclose(reordered, together[order], atol=1e-6)
    for row, length in enumerate(LENGTHS[:3]):
        alone = encode(params, jnp.asarray(IDS[row : row + 1, :length]), jnp.ones((1, length), bool))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_remat_and_dtype_share_parameters_and_agree(architecture, params):
    key = jax.random.key(5)
    reference = jax.jit(functions(architecture).encode_ids)(params, jnp.asarray(IDS), jnp.asarray(MASK), key)
    for remat in ("dots", "full"):
        encode = jax.jit(functions(architecture, remat=remat).encode_ids)
        other = encode(params, jnp.asarray(IDS), jnp.asarray(MASK), key)
        np.testing.assert_allclose(other, reference, atol=1e-6)
    half = functions(architecture, dtype=jnp.bfloat16)
    embeddings = jax.jit(half.encode_ids)(params, jnp.asarray(IDS), jnp.asarray(MASK), key)
    assert embeddings.dtype == jnp.float32
    hidden = jax.eval_shape(half.hidden_states, params, jnp.zeros((4, 8, 16)), jnp.asarray(MASK))
    assert hidden.dtype == jnp.bfloat16
    assert float(jnp.sum(embeddings * reference, axis=1)[:3].min()) > 0.999


def test_dropout_is_drawn_from_the_key_and_only_from_it(architecture, params):
    ids, mask = jnp.asarray(IDS), jnp.asarray(MASK)

    def encode(rate, key=None):
        return jax.jit(functions(architecture, dropout_rate=rate).encode_ids)(params, ids, mask, key)

    one, again, other = (encode(0.1, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other)[:3].max() > 1e-3
    np.testing.assert_array_equal(encode(0.5), encode(0.1))  # no key, no dropout
    np.testing.assert_array_equal(encode(0.0, jax.random.key(0)), encode(0.1))


def test_functions_are_hashable_and_equal_by_value(architecture):
    assert hash(functions(architecture, dtype="float32")) == hash(functions(architecture, dtype=jnp.float32))
    assert functions(architecture, remat="dots") != functions(architecture)


def test_too_many_tokens(architecture, params):
    encoder = functions(architecture)
    embeds, mask = jnp.zeros((1, 65, 16)), jnp.ones((1, 65), bool)
    assert architecture.max_length == 64
    with pytest.raises(ValueError, match="65 tokens is longer than the model's 64 positions"):
        jax.eval_shape(encoder.encode, params, embeds, mask)


def test_parameters_are_float32_with_a_layers_axis(architecture):
    shapes = param_shapes(architecture)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes["layers"])} == {architecture.num_hidden_layers}
    kernel = init_params(architecture, jax.random.key(0))["layers"]["ffn_in"]["kernel"]
    assert abs(float(kernel.std()) - 0.02) < 0.002
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01  # every layer drew its own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"remat": "some"}, "some"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0; expected 0 <= rate < 1"),
    ],
)
def test_impossible_settings(architecture, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):  # TypeError where annotations are checked
        functions(architecture, **changes)


def test_architecture_from_config():
    config = {
        "model_type": "bert",
        "vocab_size": 501153,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
    }
    labse = Architecture.from_hf_config(config, pooling="cls", dense_head=(768, 768))
    assert (labse.position_offset, labse.max_length, labse.dim, labse.head_dim) == (0, 512, 768, 64)
    assert Architecture.from_hf_config(labse.to_hf_config(), pooling="cls", dense_head=(768, 768)) == labse
    roberta = Architecture.from_hf_config(config | {"model_type": "xlm-roberta", "pad_token_id": 1})
    assert (roberta.position_offset, roberta.max_length) == (2, 510)
    for changes, message in [
        ({"model_type": "t5"}, "t5"),
        ({"hidden_act": "relu"}, "relu"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"num_attention_heads": 7}, "not a multiple"),
    ]:
        with pytest.raises(ValueError, match=message):
            Architecture.from_hf_config(config | changes)
