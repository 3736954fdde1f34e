"""A tiny tokenizer in XLM-R's form and a tiny model to go with it."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxretr.model.architecture import Architecture
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import functions, param_shapes

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "лиса", "狐狸", "敏捷的", "query", "passage")
CHARACTERS = "▁.:abcdefghijklmnopqrstuvwxyzübpDQTабвгдежзийклмнопрстуфхцчшщыьэюя敏捷的棕色狐狸跳过懒狗。"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scores = dict.fromkeys(special, 0.0) | dict.fromkeys(CHARACTERS, -10.0)
    scores |= {"▁" + word: -5.0 - rank / 10 for rank, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), special.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    return Architecture(
        model_type="xlm-roberta",
        vocab_size=131,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )


@pytest.fixture(scope="session")
def params(architecture):
    # Ten times the usual scale, and LayerNorm scales about 1: embeddings of different texts differ visibly.
    random = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (random.normal(scale=0.2, size=leaf.shape) + (path[-1].key == "scale")).astype(np.float32),
        param_shapes(architecture),
    )


@pytest.fixture(scope="session")
def encoder(architecture, params, tokenizer) -> Encoder:
    return Encoder(functions(architecture), params, tokenizer, query_prefix="query: ", passage_prefix="passage: ")
