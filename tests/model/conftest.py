"""A tiny tokenizer in XLM-R's form and a tiny model to go with it."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from jaxretr.model.architecture import Architecture
from jaxretr.model.encode import Encoder
from jaxretr.model.functions import functions, param_shapes

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Быстрая бурая лиса прыгает через ленивую собаку.",
    "敏捷的棕色狐狸跳过懒狗。",
    "query: passage: what is where",
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
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
    # Ten times the usual scale: embeddings of different texts differ visibly.
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: random.normal(scale=0.2, size=leaf.shape).astype(np.float32), param_shapes(architecture)
    )


@pytest.fixture(scope="session")
def encoder(architecture, params, tokenizer) -> Encoder:
    return Encoder(functions(architecture), params, tokenizer, query_prefix="query: ", passage_prefix="passage: ")
