"""ModernBERT: configs, checkpoints, tokenizers, packed rows, windows, dropout. test_golden.py compares with PyTorch."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ModernBertConfig, PreTrainedTokenizerFast

from jaxretr.model.attention import XLA, attend, resolve_attention
from jaxretr.model.encode import Encoder
from jaxretr.model.families import read_architecture
from jaxretr.model.functions import functions, init_params
from jaxretr.model.hf_layout import write_settings
from jaxretr.model.tokenizer import save_tokenizer
from jaxretr.model.weights import load_architecture, load_params, save_params
from jaxretr.types import Packing
from tests.model import modern_reference
from tests.tiny import MODERN

LENGTHS = np.array([14, 9, 1])
MASK = np.arange(14) < LENGTHS[:, None]
IDS = np.where(MASK, np.random.default_rng(0).integers(4, MODERN.vocab_size, MASK.shape), 1)
PARAMS = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * (1 if path[-1].key == "scale" else 8), init_params(MODERN, jax.random.key(0))
)
"""Eight times the usual scale, so that embeddings of different texts differ visibly."""

OLD = {  # as in mmBERT's config.json; fields that change nothing are among them
    "model_type": "modernbert",
    "vocab_size": 256_000,
    "hidden_size": 384,
    "num_hidden_layers": 22,
    "num_attention_heads": 6,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "norm_bias": False,
    "hidden_activation": "gelu",
    "position_embedding_type": "sans_pos",
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000,
    "local_rope_theta": 10_000.0,
    "local_attention": 128,
    "reference_compile": None,
}
LAYER_TYPES = ["sliding_attention" if i % 3 else "full_attention" for i in range(22)]
ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


def test_both_spellings_of_a_config() -> None:
    old = read_architecture(OLD, pooling="cls")
    assert (old.hidden_size, old.max_length, old.pad_token_id, old.attention_reach) == (384, 8192, 0, 64)
    assert (old.global_theta, old.local_theta, old.pooling) == (160_000.0, 10_000.0, "cls")
    assert list(np.flatnonzero(old.global_layers)) == [0, 3, 6, 9, 12, 15, 18, 21]
    without = {name: OLD[name] for name in OLD if not name.endswith(("_theta", "_layers"))} | {"num_hidden_layers": 22}
    assert read_architecture(without | {"layer_types": LAYER_TYPES, "rope_parameters": ROPE}, pooling="cls") == old
    assert read_architecture(ModernBertConfig(**OLD), pooling="cls") == old
    mmbert = read_architecture(OLD | {"local_rope_theta": 160_000.0})
    assert (mmbert.global_theta, mmbert.local_theta) == (160_000.0, 160_000.0)


def test_transformers_reads_a_written_config_as_the_same_model() -> None:
    written = dataclasses.replace(MODERN, activation="silu", local_theta=500.0).to_hf_config()
    assert read_architecture(written) == dataclasses.replace(MODERN, activation="silu", local_theta=500.0)
    theirs = ModernBertConfig(**written)
    assert theirs.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert [theirs.rope_parameters[kind]["rope_theta"] for kind in dict.fromkeys(theirs.layer_types)] == [160_000, 500]
    assert (theirs.hidden_activation, theirs.sliding_window, theirs.cls_token_id) == ("silu", 2, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias True; only False is supported"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"norm_bias": True}, "norm_bias True"),
        ({"hidden_activation": "relu"}, "hidden_activation 'relu'; only 'gelu' or 'silu' is supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling .*; only none is supported"),
        ({"rope_parameters": ROPE | {"full_attention": {"rope_type": "yarn"}}}, "'yarn'.* for full_attention"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters for rope_theta"),
        ({"rope_parameters": ROPE | {"sliding_attention": {"rope_theta": None}}}, "rope_theta None for sliding"),
        ({"layer_types": LAYER_TYPES[1:] + LAYER_TYPES[:1]}, "expected 22 types"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers 0; expected at least 1"),
        ({"local_attention": -1}, "local_attention -1"),
        ({"mlp_dropout": 0.1}, "only equal rates"),
        ({"head_dim": 32}, "head_dim 32"),
        ({"num_attention_heads": 128}, "heads have 3 dimensions"),
        ({"pad_token_id": None, "vocab_size": None}, "lacks vocab_size, pad_token_id"),
        ({"model_type": "modernbert-decoder"}, r"modernbert-decoder'; expected one of \('xlm-roberta', 'bert', 'mod"),
    ],
)
def test_variants_that_are_not_computed_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_architecture(OLD | changes)


def test_an_error_of_transformers_names_the_file(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OLD | {"attention_bias": "yes"}))
    with pytest.raises(
        ValueError, match=r"config\.json does not describe a supported encoder: (.|\n)*'attention_bias'"
    ):
        load_architecture(tmp_path)


def test_checkpoints_have_the_names_of_hugging_face(tmp_path) -> None:
    save_params(tmp_path, MODERN, PARAMS)
    tensors = load_file(tmp_path / "model.safetensors")
    parts = ("attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo")
    expected = {f"layers.{i}.{part}.weight" for i in range(3) for part in parts}
    expected |= {"embeddings.tok_embeddings.weight", "embeddings.norm.weight", "final_norm.weight"}
    assert {*tensors} == expected | {"layers.1.attn_norm.weight", "layers.2.attn_norm.weight"}
    assert tensors["layers.0.mlp.Wi.weight"].shape == (48, 16)
    with_head = {f"model.{name}": tensor for name, tensor in tensors.items()}
    with_head |= {name: np.ones(3, np.float32) for name in ("head.norm.weight", "decoder.bias", "classifier.weight")}
    save_file(with_head, tmp_path / "model.safetensors")
    assert load_architecture(tmp_path) == MODERN
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path)[1], PARAMS)
    bias = {"model.layers.0.attn_norm.weight": np.ones(16, np.float32), "model.layers.1.attn.Wqkv.bias": np.ones(48)}
    save_file({name: tensors[name] for name in expected - {"final_norm.weight"}} | bias, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        load_params(tmp_path)
    assert "missing: final_norm.weight, layers.1.attn_norm.weight, layers.2.attn_norm.weight" in str(error.value)
    assert "unexpected: layers.0.attn_norm.weight, layers.1.attn.Wqkv.bias" in str(error.value)


def gemma_like() -> PreTrainedTokenizerFast:
    """A tokenizer in the form of mmBERT's: SentencePiece BPE with bytes, and other special ids than XLM-R's."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁a", "▁ab"]
    merges = [("▁", "a"), ("▁a", "b")]
    made = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def test_texts_through_a_saved_model_with_a_tokenizer_like_gemmas(tmp_path) -> None:
    architecture = dataclasses.replace(MODERN, vocab_size=300, pad_token_id=0)
    params = jax.tree.map(lambda leaf: leaf * 8, init_params(architecture, jax.random.key(1)))
    save_params(tmp_path, architecture, params)
    save_tokenizer(gemma_like(), tmp_path, max_length=40)
    write_settings(tmp_path, architecture, max_seq_length=40, query_prefix="", passage_prefix="")
    encoder = Encoder.load(tmp_path)
    texts = ["a abc", "ü", ""]
    ids = encoder.query_tokenization(texts)
    assert ids[0] == [2, 262, 289, 264, 1]  # a, ▁ab, c: nothing adds a blank before the first word
    assert ids[1:] == [[2, 5 + 0xC3, 5 + 0xBC, 1], [2, 1]]  # bytes of UTF-8; an empty text
    assert encoder.query_tokenization.pad(ids).ids[2, 2] == 0
    assert sorted(encoder.tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    table = params["embeddings"]["word"]["embedding"]
    expected = [modern_reference.encode(architecture, params, table[np.array([row])], [len(row)])[0] for row in ids]
    np.testing.assert_allclose(encoder.encode_query(texts, progress=False), expected, atol=2e-5)


def test_packed_rows_and_dropout() -> None:
    """Texts of more tokens than the window, alone and in one row, against numpy; and what a dropout key changes."""
    ids, mask = jnp.asarray(IDS), jnp.asarray(MASK)
    text = np.full((2, 16), -1, np.int32)
    text[0, :9], text[0, 9], text[1, 2:] = 1, 2, 0
    packing = Packing(jnp.asarray(text), jnp.asarray([16 + 2, 0, 9], jnp.int32))
    encoder = functions(MODERN, dropout_rate=0.5)

    @jax.jit
    def run(params, key):
        words = encoder.embed_tokens(params, ids)
        packed = encoder.encode_packed(params, [words], [mask], packing)[0]
        return encoder.encode(params, words, mask), packed, encoder.encode(params, words, mask, key)

    alone, packed, dropped = run(PARAMS, jax.random.key(0))
    table = np.asarray(PARAMS["embeddings"]["word"]["embedding"])
    expected = modern_reference.encode(MODERN, PARAMS, table[IDS], LENGTHS)
    np.testing.assert_allclose(alone, expected, atol=2e-5)
    np.testing.assert_allclose(packed, expected, atol=2e-5)
    np.testing.assert_array_equal(dropped, run(PARAMS, jax.random.key(0))[2])
    others = run(PARAMS, jax.random.key(1))[2]
    assert np.abs(dropped - alone).max() > 0.1 and np.abs(dropped - others).max() > 0.1


def test_fused_attention_has_no_windows() -> None:
    wide = dataclasses.replace(MODERN, hidden_size=128)
    reason = "at most 2 tokens on each side, and the fused kernels have no windows"
    chosen, said = resolve_attention("auto", "tpu", wide, "bfloat16")
    assert chosen == XLA and reason in said
    with pytest.raises(ValueError, match=f"attention 'fused' is not available: .*{reason}; use 'auto' or 'xla'"):
        resolve_attention("fused", "tpu", wide, "bfloat16")
    with pytest.raises(ValueError, match="do not compute attention within a window"):
        attend("fused", "cpu", jnp.ones((1, 3, 12)), jnp.ones((1, 3), bool), 2, 0.0, None, jnp.ones((1, 3, 3), bool))


@pytest.mark.slow
def test_bfloat16_is_near_float32() -> None:
    ids, mask = jnp.asarray(IDS), jnp.asarray(MASK)
    exact, rounded = (
        jax.jit(functions(MODERN, dtype=dtype).encode_ids)(PARAMS, ids, mask) for dtype in ("float32", "bfloat16")
    )
    assert rounded.dtype == jnp.float32
    assert float(jnp.sum(exact * rounded, axis=1).min()) > 0.999


def test_special_token_ids_are_not_written_as_those_of_another_model(tmp_path) -> None:
    save_params(tmp_path, MODERN, PARAMS)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {config[f"{name}_token_id"] for name in ("bos", "eos", "cls", "sep")} == {None}
    assert config["pad_token_id"] == MODERN.pad_token_id
