"""`CrossEncoder`: a saved reranker as an object that scores pairs of a query and a document.

Input: a directory or a hub name of an `XLMRobertaForSequenceClassification` with one label, such as
BAAI/bge-reranker-base. Output: float32 scores in the order of the pairs. An encoder embeds a document once for all
queries; a cross-encoder reads query and document together, so it must run once per pair. It is meant for the best few
candidates of a search.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, overload

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float32, Int
from scipy import special
from transformers import PreTrainedTokenizerFast

from jaxretr import parallel
from jaxretr.files import AnyPath
from jaxretr.model.batches import run_batches
from jaxretr.model.cross_encoder_layout import Activation, read_cross_encoder
from jaxretr.model.functions import EncoderFunctions, local_functions
from jaxretr.model.hf_layout import check_weights, find_model
from jaxretr.model.tokenizer import check_tokenizer, load_tokenizer
from jaxretr.model.weights import CrossEncoderParams, load_cross_encoder_params
from jaxretr.tokenization import Tokenization
from jaxretr.tracking import progress_bar, say

_BATCH_SIZE = 32  # pairs of 128 tokens per device


class Ranked(NamedTuple):
    """One document of a ranking: its place in the given list of documents, from 0, and its score."""

    document: int
    score: float


class CrossEncoder:
    """A reranker: parameters on the devices, tokenizer, maximum length and activation.

    A pair is tokenized as `<s> query </s></s> document </s>`. Pairs of more than `max_length` tokens lose tokens at the
    end of the longer text first ("longest_first"), as in sentence-transformers. Up to float tolerance, a score does not
    depend on the other pairs or on their order.

        reranker = CrossEncoder.load("models/bge-reranker-base")
        reranker.predict([("how many people live in Berlin?", "Berlin has 3.5 million inhabitants."), …])
        reranker.rank("how many people live in Berlin?", documents, top_k=3)

    Args:
      functions: the functions of the encoder; its architecture has `cls` pooling and a square dense head.
      params: parameters of the encoder and the last layer; they are copied to every device of this process.
      tokenizer: tokenizer that fits the architecture.
      activation: function from the logit to the score.
      max_length: maximum number of tokens per pair, special tokens included; None for the number of positions of the
        model.

    Attributes:
      tokenization: converts pairs to the token ids that `predict` scores.

    Raises:
      ValueError: the tokenizer or `max_length` does not fit the architecture, or the tokenizer joins pairs in another
        way.
    """

    def __init__(
        self,
        functions: EncoderFunctions,
        params: CrossEncoderParams,
        tokenizer: PreTrainedTokenizerFast,
        *,
        activation: Activation = "sigmoid",
        max_length: int | None = None,
    ):
        architecture = functions.architecture
        check_tokenizer(tokenizer, architecture)
        _check_template(tokenizer)
        specials = tokenizer.num_special_tokens_to_add(pair=True)
        max_length = architecture.max_length if max_length is None else max_length
        if not specials < max_length <= architecture.max_length:
            raise ValueError(
                f"max_length is {max_length}, expected more than the {specials} special tokens of a pair and at most "
                f"the model's {architecture.max_length} positions"
            )
        self.functions = functions
        self.params = parallel.replicate(params)
        self.activation = activation
        self.max_length = max_length
        self.tokenization = Tokenization(
            tokenizer.backend_tokenizer, prefix="", max_len=max_length, pad_id=tokenizer.pad_token_id
        )

    @classmethod
    def load(
        cls, name_or_path: str | AnyPath, *, dtype: DTypeLike = "float32", max_length: int | None = None
    ) -> "CrossEncoder":
        """Load a reranker that transformers or sentence-transformers saved, with its activation and maximum length.

        Args:
          name_or_path: a directory on a disk or in Cloud Storage, or a hub name such as "BAAI/bge-reranker-base".
          dtype: compute dtype of the encoder, "float32" or "bfloat16"; the classifier always computes in float32.
          max_length: maximum number of tokens per pair, special tokens included; None for the saved value.

        Raises:
          FileNotFoundError: the model does not exist.
          ValueError: the model is not an XLM-R encoder with a classifier of one label, a setting is not supported, or
            weights, configuration and tokenizer do not fit each other.
        """
        directory = find_model(name_or_path)
        check_weights(directory, name_or_path, converter="CrossEncoder")
        settings = read_cross_encoder(directory)
        for note in settings.notes:
            say(f"{name_or_path}: {note}")
        architecture = settings.architecture
        return cls(
            local_functions(architecture, dtype=dtype),
            load_cross_encoder_params(directory, architecture),
            load_tokenizer(directory),
            activation=settings.activation,
            max_length=settings.max_length if max_length is None else max_length,
        )

    @overload
    def predict(
        self,
        pairs: Iterable[tuple[str, str]],
        documents: None = None,
        *,
        activation: Activation | None = None,
        batch_size: int = _BATCH_SIZE,
        progress: bool = True,
    ) -> Float32[np.ndarray, " pairs"]: ...

    @overload
    def predict(
        self,
        pairs: str,
        documents: Iterable[str],
        *,
        activation: Activation | None = None,
        batch_size: int = _BATCH_SIZE,
        progress: bool = True,
    ) -> Float32[np.ndarray, " pairs"]: ...

    def predict(
        self,
        pairs: Iterable[tuple[str, str]] | str,
        documents: Iterable[str] | None = None,
        *,
        activation: Activation | None = None,
        batch_size: int = _BATCH_SIZE,
        progress: bool = True,
    ) -> Float32[np.ndarray, " pairs"]:
        """Return the score of each pair, or of one query with each document; higher is more relevant.

        Args:
          pairs: pairs of a query and a document; or one query, if `documents` is given.
          documents: documents to score for the query `pairs`.
          activation: function from the logit to the score: "sigmoid" for scores in (0, 1), "identity" for logits; None
            for the saved one.
          batch_size: number of pairs of 128 tokens that one device scores at once. Batches of shorter pairs are larger,
            batches of longer pairs are smaller, so memory use stays constant.
          progress: show a progress bar if there is more than one batch.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        ids = [pair.ids for pair in self.tokenization.pairs(_checked_pairs(pairs, documents))]
        logits = np.empty(len(ids), np.float32)
        run = _logits_on_local_devices(self.functions)
        with progress_bar(enabled=progress and len(ids) > batch_size) as bar:
            task = bar.add_task("rerank", total=len(ids))
            for rows, scored in run_batches(run, self.params, self.tokenization, ids, batch_size):
                logits[rows] = scored
                bar.advance(task, len(rows))
        return activate(logits, activation or self.activation)

    def rank(self, query: str, documents: Iterable[str], top_k: int | None = None) -> list[Ranked]:
        """Return the documents by relevance to the query, best first; equal scores keep the order of the documents.

        Args:
          query: the query.
          documents: any number of documents.
          top_k: number of documents to return; None for all.

        Raises:
          ValueError: `top_k` is below 1.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected at least 1, or None for all documents")
        logits = self.predict(query, documents, activation="identity", progress=False)
        scores = activate(logits, self.activation)
        return [Ranked(index, float(scores[index])) for index in descending(logits)[:top_k]]


def relevance_logits(
    encoder: EncoderFunctions,
    params: CrossEncoderParams,
    ids: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
) -> Float32[Array, " batch"]:
    """Return the classifier's output for token ids of pairs: out_proj(tanh(dense(vector of the first token))).

    transformers' `XLMRobertaForSequenceClassification` with one label computes the same. The dense head of the encoder
    is the tanh layer.
    """
    hidden = encoder.hidden_states(params.encoder, encoder.embed_tokens(params.encoder, ids), mask)
    pooled = encoder.pool(params.encoder, hidden, mask)
    return pooled @ params.out_proj["kernel"][:, 0] + params.out_proj["bias"]


def activate(logits: Float32[np.ndarray, " pairs"], activation: Activation) -> Float32[np.ndarray, " pairs"]:
    """Return scores: the logits themselves, or 1 / (1 + exp(-logit))."""
    return logits if activation == "identity" else special.expit(logits)


def descending(scores: Float32[np.ndarray, " pairs"]) -> list[int]:
    """Return the indices that sort scores from high to low; equal scores keep their order."""
    return np.argsort(-scores, kind="stable").tolist()


def _check_template(tokenizer: PreTrainedTokenizerFast) -> None:
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = tokenizer.backend_tokenizer.encode("", "").ids
    if None in (start, end) or ids != [start, end, end, end]:
        raise ValueError(
            f"the tokenizer joins two empty texts as {ids}; expected <s></s></s></s> ({start}, {end}, {end}, {end}), "
            "the form of XLM-R: put the reranker's own tokenizer.json beside its weights"
        )


def _checked_pairs(pairs: Any, documents: Any) -> Sequence[tuple[str, str]]:
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable | None):
        raise TypeError(f"documents is {repr(documents)[:60]}; expected a list of strings")
    if isinstance(pairs, str) != (documents is not None):
        raise TypeError(
            "expected either a list of pairs (query, document), or one query, a string, and a list of documents"
        )
    checked = list(pairs) if documents is None else [(pairs, document) for document in documents]
    for index, pair in enumerate(checked):
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise TypeError(f"pair {index} is {repr(pair)[:60]}; expected two strings, a query and a document")
    return checked


@lru_cache(maxsize=8)
def _logits_on_local_devices(encoder: EncoderFunctions) -> Any:
    def logits(params: CrossEncoderParams, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return relevance_logits(encoder, params, ids, mask)

    return parallel.pmap(logits, in_axes=(None, 0, 0), devices=jax.local_devices())
