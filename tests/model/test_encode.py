import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from jaxretr.model.batches import plan_batches
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import EncoderFunctions, functions

TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "",
    "лиса",
    "敏捷的棕色狐狸跳过懒狗。",
    "Der Hund",
    "The quick brown fox",
    "Der Hund",
    "dog " * 100,
    "fox \ud800 dog",
]

ENCODE = jax.jit(EncoderFunctions.encode_ids, static_argnums=0)


def by_hand(encoder: Encoder, text: str) -> np.ndarray:
    """One text alone, without buckets and batches, through the tokenizer's own truncation."""
    ids = encoder.tokenizer(text, truncation=True, max_length=encoder.max_length)["input_ids"]
    padded = np.pad(ids, (0, encoder.max_length - len(ids)), constant_values=1)
    mask = jnp.arange(encoder.max_length) < len(ids)
    return np.asarray(ENCODE(encoder.functions, encoder.params, jnp.asarray(padded[None]), mask[None])[0])


def test_texts_come_back_in_order_whatever_the_batch(encoder):
    embeddings = encoder.encode_query(TEXTS, progress=False)
    assert embeddings.shape == (len(TEXTS), 16) == (len(TEXTS), encoder.dim)
    assert embeddings.dtype == np.float32
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        expected = by_hand(encoder, "query: " + text.replace("\ud800", "\ufffd"))
        np.testing.assert_allclose(embedding, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.abs(embeddings[2] - embeddings[3]).max() > 0.01  # different texts differ
    backwards = encoder.encode_query(TEXTS[::-1], batch_size=1)
    np.testing.assert_allclose(backwards[::-1], embeddings, atol=1e-5)


def test_prefixes(encoder):
    query, document = encoder.encode_query(["fox"]), encoder.encode_document(["fox"])
    np.testing.assert_allclose(query[0], by_hand(encoder, "query: fox"), atol=1e-5)
    np.testing.assert_allclose(document[0], by_hand(encoder, "passage: fox"), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_document([""])[0], by_hand(encoder, "passage: "), atol=1e-5)


def test_long_texts_keep_their_beginning(encoder):
    words = "The lazy dog jumps over the quick brown fox. " * 20
    million = words * (1_000_000 // len(words) + 1)
    short, long = encoder.encode_document([words, million])
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_no_texts_and_wrong_arguments(encoder):
    assert encoder.encode_query([]).shape == (0, 16)
    with pytest.raises(TypeError, match="expected a list of strings"):
        encoder.encode_query("one string")
    with pytest.raises(ValueError, match="batch_size is 0"):
        encoder.encode_query(["a"], batch_size=0)


def test_similarity_is_the_cosine(encoder):
    a, b = encoder.encode_query(TEXTS[:3]), encoder.encode_query(TEXTS[3:5])
    cosine = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    np.testing.assert_allclose(encoder.similarity(a, b), cosine, atol=1e-5)


def test_save_and_load(encoder, tmp_path):
    encoder.save(tmp_path / "model", "# A card")
    loaded = Encoder.load(tmp_path / "model")
    assert (loaded.query_prefix, loaded.passage_prefix, loaded.max_length) == ("query: ", "passage: ", 64)
    np.testing.assert_array_equal(loaded.encode_query(TEXTS[2:4]), encoder.encode_query(TEXTS[2:4]))
    assert (tmp_path / "model" / "README.md").read_text() == "# A card"
    other = Encoder.load(tmp_path / "model", max_length=16, query_prefix="", dtype="bfloat16")
    assert (other.query_prefix, other.passage_prefix, other.max_length) == ("", "passage: ", 16)
    assert other.functions.dtype == "bfloat16"
    encoder.save(tmp_path / "model")
    assert not (tmp_path / "model" / "README.md").exists()  # replaced as a whole


def test_tokenizer_and_length_must_fit(architecture, params, tokenizer):
    with pytest.raises(ValueError, match="max_length is 65"):
        Encoder(functions(architecture), params, tokenizer, max_length=65)
    with pytest.raises(ValueError, match="more than the 2 special tokens"):
        Encoder(functions(architecture), params, tokenizer, max_length=2)


def test_plan_covers_every_text_once_in_few_shapes():
    lengths = np.random.default_rng(0).integers(2, 65, 5000).tolist()
    batches = list(plan_batches(lengths, (16, 32, 64), batch_size=4))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(5000))
    devices = jax.local_device_count()
    for batch in batches:
        assert max(lengths[row] for row in batch.rows) <= batch.length
        assert len(batch.rows) <= batch.size
    full = {(devices * 4 * 128 // length, length) for length in (16, 32, 64)}
    assert {(batch.size, batch.length) for batch in batches[:-1]} == full
    assert batches[-1].size <= devices * 4 * 128 // 16


def test_plan_of_one_text_is_small():
    (batch,) = plan_batches([5], (16, 32), batch_size=32)
    assert (batch.rows.tolist(), batch.size, batch.length) == ([0], jax.local_device_count(), 16)
    (batch,) = plan_batches([5] * (jax.local_device_count() * 5), (16, 32), batch_size=32)
    assert batch.size == jax.local_device_count() * 8


def test_a_fingerprint_stays_with_what_embeds_alike(encoder, tmp_path):
    fingerprint = encoder.fingerprint
    assert len(bytes.fromhex(fingerprint)) == 8
    encoder.save(tmp_path / "model")
    assert Encoder.load(tmp_path / "model").fingerprint == fingerprint
    encoder.tokenizer(["fox", "dog dog"], padding=True, truncation=True, max_length=5)  # leaves its settings behind
    encoder.encode_query(["fox"])
    assert encoder.fingerprint == fingerprint


def test_a_fingerprint_changes_with_all_that_embeddings_depend_on(encoder, params, tokenizer, architecture):
    def changed(params=params, tokenizer=tokenizer, dtype="float32", **settings):
        settings = {"query_prefix": "query: ", "passage_prefix": "passage: ", "max_length": 64} | settings
        return Encoder(functions(architecture, dtype=dtype), params, tokenizer, **settings)

    word_piece = tokenizer.backend_tokenizer.to_str().replace("狐狸", "狸狐")
    others = [
        changed(),
        changed(dtype="bfloat16"),
        changed(max_length=63),
        changed(query_prefix="passage: "),
        changed(passage_prefix=""),
        changed(query_prefix="passage: ", passage_prefix="query: "),
        changed(tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(word_piece), pad_token="<pad>")),
    ]
    pooled = copy.copy(encoder)
    pooled.functions = functions(dataclasses.replace(architecture, pooling="cls"))
    trained = copy.copy(encoder)
    assert trained.fingerprint == encoder.fingerprint == others[0].fingerprint
    trained.params = jax.tree.map(jnp.copy, encoder.params)
    assert trained.fingerprint == encoder.fingerprint
    bias = encoder.params["embeddings"]["norm"]["bias"]
    trained.params["embeddings"]["norm"]["bias"] = bias.at[3].set(jnp.nextafter(bias[3], jnp.inf))
    assert len({one.fingerprint for one in (*others, pooled, trained)}) == 9
