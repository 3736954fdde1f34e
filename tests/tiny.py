"""A synthetic model, tokenizer and parallel data set, small enough to train on in a test.

Three "languages" express the same meanings in their own words: the word for meaning 7 is `en7`, `de7` or `el7`.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxretr.config import Config, DataConfig, ModelConfig, TrainConfig
from jaxretr.model.architecture import Architecture
from jaxretr.model.encode import Encoder
from jaxretr.model.families.modern_bert_config import ModernBertArchitecture
from jaxretr.model.functions import functions, init_params, param_shapes
from jaxretr.model.tokenizer import save_tokenizer
from jaxretr.model.weights import checkpoint_views

LANGUAGES = ("en", "de", "el")
MEANINGS = 40
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "query:", "passage:"]
WORDS += [f"{language}{meaning}" for language in LANGUAGES for meaning in range(MEANINGS)]

TINY = Architecture(
    model_type="xlm-roberta",
    vocab_size=len(WORDS) + 3,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=40,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    pad_token_id=1,
)

MODERN = ModernBertArchitecture(
    model_type="modernbert",
    vocab_size=len(WORDS) + 3,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=40,
    layer_norm_eps=1e-5,
    pad_token_id=1,
    global_every=2,
    window=4,
)
"""A ModernBERT whose layers attend to the whole text, to two tokens on each side, and to the whole text."""


def tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words separated by blanks."""
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def encoder() -> Encoder:
    """Return an encoder with random weights."""
    params = init_params(TINY, jax.random.key(0))
    return Encoder(functions(TINY), params, tokenizer(), query_prefix="query: ", passage_prefix="passage: ")


def write_reranker(directory: Path) -> Path:
    """Write a cross-encoder with random weights, in the layout of transformers, and return `directory`."""
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True, exist_ok=True)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(TINY))
    shapes = {f"roberta.{name}": view.shape for name, view in checkpoint_views(TINY, params).items()}
    shapes |= {"classifier.dense.weight": (16, 16), "classifier.dense.bias": (16,)}
    shapes |= {"classifier.out_proj.weight": (1, 16), "classifier.out_proj.bias": (1,)}
    weights = {}
    for name, shape in shapes.items():  # large matrices, so that the scores of different pairs differ visibly
        values = rng.normal(scale=0.2 if len(shape) == 1 else 2 / shape[1] ** 0.5, size=shape)
        weights[name] = (values + name.endswith("LayerNorm.weight")).astype(np.float32)
    save_file(weights, directory / "model.safetensors")
    config = TINY.to_hf_config() | {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_tokenizer(tokenizer(), directory, max_length=TINY.max_length)
    return directory


def write_pairs(directory: Path, *, negatives: int = 1) -> Path:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl` and return `directory`.

    A passage holds the meanings of its query and further ones.
    """
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", 120), ("validation", 12), ("test", 12)):
        lines = []
        for number in range(size):
            meanings = rng.integers(0, MEANINGS, 10)
            others = rng.integers(0, MEANINGS, (negatives, 10))
            for language in LANGUAGES:
                line = {
                    "id": f"{split}{number}",
                    "passage_id": f"{split}{number}",
                    "language": language,
                    "query": " ".join(f"{language}{m}" for m in meanings[: 2 + number % 3]),
                    "passage": " ".join(f"{language}{m}" for m in meanings),
                }
                line |= {
                    f"negative_{i + 1}": " ".join(f"{language}{m}" for m in other) for i, other in enumerate(others)
                }
                lines.append(json.dumps(line) + "\n")
        (directory / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return directory


def shrink(config: Config, root: Path) -> Config:
    """Return the same recipe with the tiny model and data below `root`, and one training step."""
    if not (root / "model").exists():
        encoder().save(root / "model")
        write_pairs(root / "pairs")
    return dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model,
            model_name_or_path=str(root / "model"),
            pooling="",
            query_prefix=None,
            passage_prefix=None,
            query_max_len=8,
            passage_max_len=16,
        ),
        data=dataclasses.replace(
            config.data, name="pairs", data_dir=str(root / "data"), source=str(root / "pairs"), languages=LANGUAGES
        ),
        train=dataclasses.replace(config.train, steps=1, batch_size=16),
        evaluation=dataclasses.replace(config.evaluation, split="test"),
        output_dir=str(root / "run"),
        wandb_project="",
    )


def run_config(root: Path, output_dir: Path) -> Config:
    """Return a run of twelve steps with dropout and hard negatives, and checkpoints after steps 5, 10 and 12."""
    config = Config(
        model=ModelConfig(dropout=0.1),
        data=DataConfig(num_hard_negatives=1),
        train=TrainConfig(learning_rate=3e-3, temperature=0.05, symmetric=True, warmup_steps=2),
        log_every_steps=4,
        checkpoint_every_steps=5,
    )
    config = shrink(config, root)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=12), output_dir=str(output_dir))
