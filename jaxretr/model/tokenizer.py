"""Tokenizers of saved models: load, check that one fits its model, save.

In: a directory or hub name. Out: a `PreTrainedTokenizerFast`, whose `backend_tokenizer` is what
`jaxretr.tokenization` takes.
"""

import json
from pathlib import Path

import transformers
from transformers import PreTrainedTokenizerFast

from jaxretr.files import AnyPath
from jaxretr.model.architecture import Architecture
from jaxretr.model.hf_layout import find_model

_FILES = ("tokenizer.json", "sentencepiece.bpe.model", "spiece.model", "vocab.txt")


def load_tokenizer(name_or_path: str | AnyPath) -> PreTrainedTokenizerFast:
    """Loads `tokenizer.json` as it stands; from a sentencepiece model or vocab.txt only where there is none.

    The model-specific classes of transformers rebuild parts of the pipeline instead of reading it, so that ids of
    odd texts (trailing spaces) change between versions; hence the plain class.

    Raises:
      FileNotFoundError: when there is no such model, or it has no tokenizer.
      ValueError: when its tokenizer cannot be read.
    """
    directory = find_model(name_or_path)
    if not any((directory / name).is_file() for name in _FILES):
        raise FileNotFoundError(f"{directory} has no tokenizer; expected one of {', '.join(_FILES)}")
    kind = PreTrainedTokenizerFast if (directory / _FILES[0]).is_file() else transformers.AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a file it cannot parse
        raise ValueError(f"the tokenizer in {directory} cannot be read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"the tokenizer in {directory} has no fast form ({type(tokenizer).__name__}); convert it once with "
            "transformers and save its tokenizer.json beside the weights"
        )
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, architecture: Architecture) -> None:
    """Raises ValueError where `tokenizer` cannot belong to a model of this architecture.

    The table may have more rows than the tokenizer has pieces, never fewer. XLM-R derives positions from the padding
    id, so there both must agree; BERT does not, and published BERT-type models disagree with their tokenizers.
    """
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= architecture.vocab_size:
        raise ValueError(
            f"the tokenizer makes ids up to {largest}, but the model's table has {architecture.vocab_size} rows; "
            "they are of different models: put the model's own tokenizer.json beside its weights"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token; set pad_token in its tokenizer_config.json")
    if architecture.model_type == "xlm-roberta" and tokenizer.pad_token_id != architecture.pad_token_id:
        raise ValueError(
            f"the tokenizer pads with {tokenizer.pad_token_id}, but the model's pad_token_id is "
            f"{architecture.pad_token_id}; they are of different models"
        )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: str | Path, *, max_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json so that transformers 4 and 5 take the pipeline as it stands.

    Args:
      max_length: what readers truncate to, in tokens, special tokens included.
    """
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline["truncation"] = pipeline["padding"] = None  # left behind by earlier calls
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "right",
        **tokenizer.special_tokens_map,
    }
    for name, content in (("tokenizer.json", pipeline), ("tokenizer_config.json", config)):
        text = json.dumps(content, indent=2 if content is config else None, ensure_ascii=False)
        (Path(directory) / name).write_text(text + "\n", encoding="utf-8")
