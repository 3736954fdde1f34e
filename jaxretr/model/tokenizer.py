"""Tokenizers of saved models: load a tokenizer, check that it fits its model, save it.

Input: a directory or a hub name. Output: a `PreTrainedTokenizerFast`; its `backend_tokenizer` is the input of
`jaxretr.tokenization`.
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
    """Load `tokenizer.json` unchanged; fall back to a SentencePiece model or vocab.txt only if it is missing.

    transformers' model-specific classes rebuild parts of the pipeline instead of reading them, so the ids of unusual
    texts (trailing spaces) change between versions. The generic class avoids this.

    Raises:
      FileNotFoundError: the model does not exist, or it has no tokenizer.
      ValueError: the tokenizer cannot be read.
    """
    directory = find_model(name_or_path)
    if not any((directory / name).is_file() for name in _FILES):
        raise FileNotFoundError(f"{directory} has no tokenizer; expected one of {', '.join(_FILES)}")
    tokenizer_class = PreTrainedTokenizerFast if (directory / _FILES[0]).is_file() else transformers.AutoTokenizer
    try:
        tokenizer = tokenizer_class.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a file it cannot parse
        raise ValueError(f"the tokenizer in {directory} cannot be read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"the tokenizer in {directory} has no fast form ({type(tokenizer).__name__}); convert it once with "
            "transformers and save its tokenizer.json beside the weights"
        )
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, architecture: Architecture) -> None:
    """Check that `tokenizer` can belong to a model of this architecture.

    The embedding table may have more rows than the tokenizer has pieces, never fewer. XLM-R derives positions from the
    padding id, so the padding ids of tokenizer and model must agree. BERT and ModernBERT do not, and published
    BERT-type models disagree with their tokenizers.

    Raises:
      ValueError: the tokenizer does not fit.
    """
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= architecture.vocab_size:
        raise ValueError(
            f"the tokenizer makes ids up to {largest}, but the model's table has {architecture.vocab_size} rows; "
            "they belong to different models: put the model's own tokenizer.json beside its weights"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token; set pad_token in its tokenizer_config.json")
    if architecture.model_type == "xlm-roberta" and tokenizer.pad_token_id != architecture.pad_token_id:
        raise ValueError(
            f"the tokenizer pads with {tokenizer.pad_token_id}, but the model's pad_token_id is "
            f"{architecture.pad_token_id}; they belong to different models: put the model's own tokenizer.json "
            "beside its weights"
        )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: str | Path, *, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json so that transformers 4 and 5 use the pipeline unchanged.

    Args:
      tokenizer: the tokenizer to save.
      directory: an existing directory.
      max_length: length that readers truncate to, in tokens, special tokens included.
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
