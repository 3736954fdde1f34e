"""`Encoder`: a saved model as an object that turns texts into embeddings.

Input: a directory or a hub name, then any number of texts of any length. Output: float32 embeddings of unit length, in
the order of the texts. `Encoder.save` writes a directory that transformers and sentence-transformers load.
"""

import copy
import hashlib
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float32
from transformers import PreTrainedTokenizerFast

from jaxretr import parallel
from jaxretr.files import AnyPath
from jaxretr.model.batches import IN_FLIGHT, plan_batches, run_batches
from jaxretr.model.functions import EncoderFunctions, Params, local_functions
from jaxretr.model.hf_layout import check_weights, find_model, read_settings, replaced_directory, write_settings
from jaxretr.model.hub import read_card, upload_model
from jaxretr.model.tokenizer import check_tokenizer, load_tokenizer, save_tokenizer
from jaxretr.model.weights import load_params, save_params
from jaxretr.tokenization import Tokenization
from jaxretr.tracking import progress_bar, say

_WINDOW = 16_384  # texts that are tokenized and sorted by length together
_BATCH_SIZE = 32  # texts of 128 tokens per device


class Encoder:
    """A sentence encoder: parameters on the devices, tokenizer and prefixes.

    Texts longer than `max_length` tokens are truncated at the end; special tokens are always kept. An empty text is
    encoded as its prefix alone; lone surrogates count as U+FFFD. Up to float tolerance, the embedding of a text does
    not depend on the other texts or on their order.

        encoder = Encoder.load("runs/hybrid/model")
        scores = encoder.similarity(encoder.encode_query(["…"]), encoder.encode_document(["…", "…"]))

    Args:
      functions: the model's functions, with its architecture and compute dtype.
      params: parameters of the architecture, host or device arrays; they are copied to every device of this process.
      tokenizer: tokenizer that fits the architecture.
      max_length: maximum number of tokens per text, special tokens included; None for the number of positions of the
        model.
      query_prefix, passage_prefix: text put before every query or passage.

    Attributes:
      query_tokenization, passage_tokenization: convert queries and passages to the token ids that `encode_query` and
        `encode_document` encode.
      model_card: README.md of the loaded model, which `push_to_hub` uploads; None if the model has none.

    Raises:
      ValueError: the tokenizer or `max_length` does not fit the architecture.
    """

    def __init__(
        self,
        functions: EncoderFunctions,
        params: Params,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
    ):
        architecture = functions.architecture
        check_tokenizer(tokenizer, architecture)
        max_length = architecture.max_length if max_length is None else max_length
        specials = tokenizer.num_special_tokens_to_add()
        if not specials < max_length <= architecture.max_length:
            raise ValueError(
                f"max_length is {max_length}, expected more than the {specials} special tokens and at most the "
                f"model's {architecture.max_length} positions"
            )
        self.functions = functions
        self.params = parallel.replicate(params)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.query_prefix = query_prefix
        self.passage_prefix = passage_prefix
        self.model_card: str | None = None
        self.query_tokenization = Tokenization(
            tokenizer.backend_tokenizer, prefix=query_prefix, max_len=max_length, pad_id=tokenizer.pad_token_id
        )
        self.passage_tokenization = copy.copy(self.query_tokenization)  # shares the vocabulary
        self.passage_tokenization.prefix = passage_prefix

    @classmethod
    def load(
        cls,
        name_or_path: str | AnyPath,
        *,
        dtype: DTypeLike = "float32",
        max_length: int | None = None,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        attention: str = "auto",
    ) -> "Encoder":
        """Load a Hugging Face or sentence-transformers model with its saved pooling, prompts and maximum length.

        Args:
          name_or_path: a directory on a disk or in Cloud Storage, or a hub name such as
            "intfloat/multilingual-e5-base".
          dtype: compute dtype, "float32" or "bfloat16".
          max_length: maximum number of tokens per text, special tokens included; None for the saved value.
          query_prefix, passage_prefix: override the saved prompts. By default, queries get the prompt "query"; passages
            get "document", "passage" or "corpus", the first that exists. If none exists, the default prompt is used.
            Some published models need prompts but have none saved; see their model cards.
          attention: implementation of attention: "auto", "xla" or "fused", see `jaxretr.model.attention`.

        Raises:
          FileNotFoundError: the model does not exist.
          ValueError: weights, configuration and tokenizer do not fit each other.
        """
        directory = find_model(name_or_path)
        settings = read_settings(directory)
        check_weights(directory, name_or_path, dense=settings.dense)
        for note in settings.notes:
            say(f"{name_or_path}: {note}")
        architecture, params = load_params(directory)
        saved_length = min(settings.max_seq_length or architecture.max_length, architecture.max_length)
        encoder = cls(
            local_functions(architecture, dtype=dtype, attention=attention),
            params,
            load_tokenizer(directory),
            max_length=saved_length if max_length is None else max_length,
            query_prefix=settings.query_prefix if query_prefix is None else query_prefix,
            passage_prefix=settings.passage_prefix if passage_prefix is None else passage_prefix,
        )
        encoder.model_card = read_card(directory)
        return encoder

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.functions.architecture.dim

    @property
    def fingerprint(self) -> str:
        """Return a digest of everything that embeddings depend on; a different or retrained encoder has another digest.

        Each call computes the digest again, because any part may have been replaced. This takes about a second for a
        hundred million parameters.
        """
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        settings = {
            "architecture": repr(self.functions.architecture),
            "dtype": self.functions.dtype,
            "max_length": self.max_length,
            "prefixes": [self.query_prefix, self.passage_prefix],
            # A tokenizer keeps the truncation and padding settings of its last use; leave them out.
            "tokenizer": {part: value for part, value in tokenizer.items() if part not in ("truncation", "padding")},
        }
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
        for path, parameter in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(f"{jax.tree_util.keystr(path)} {parameter.dtype} {parameter.shape}".encode())
            digest.update(np.ascontiguousarray(parameter))
        return digest.hexdigest()

    def encode_query(
        self, texts: Iterable[str], *, batch_size: int = _BATCH_SIZE, progress: bool = True
    ) -> Float32[np.ndarray, "queries dim"]:
        """Return the embeddings of queries, with `query_prefix` before each.

        Args:
          texts: any number of texts of any length.
          batch_size: number of texts of 128 tokens that one device encodes at once. Batches of shorter texts are
            larger, batches of longer texts are smaller, so memory use stays constant.
          progress: show a progress bar if there is more than one batch.
        """
        return self._encode(texts, self.query_tokenization, batch_size, progress)

    def encode_document(
        self, texts: Iterable[str], *, batch_size: int = _BATCH_SIZE, progress: bool = True
    ) -> Float32[np.ndarray, "passages dim"]:
        """Return the embeddings of passages, with `passage_prefix` before each; otherwise like `encode_query`."""
        return self._encode(texts, self.passage_tokenization, batch_size, progress)

    def similarity(
        self, queries: Float32[np.ndarray, "queries dim"], passages: Float32[np.ndarray, "passages dim"]
    ) -> Float32[np.ndarray, "queries passages"]:
        """Return the cosine similarities of embeddings."""
        return queries @ passages.T

    def token_vectors(self, ids: Sequence[Sequence[int]]) -> list[Float32[np.ndarray, "tokens hidden"]]:
        """Return the last layer's vector of every token of every text, special tokens included.

        Args:
          ids: token ids per text, as `query_tokenization` or `passage_tokenization` returns them.
        """
        vectors: list[np.ndarray] = [np.empty(0)] * len(ids)
        for rows, hidden in self._batches(_hidden_on_local_devices(self.functions), ids):
            for row, text_vectors in zip(rows, hidden, strict=True):
                vectors[row] = text_vectors[: len(ids[row])].astype(np.float32)
        return vectors

    def pooled_norms(self, ids: Sequence[Sequence[int]]) -> Float32[np.ndarray, " texts"]:
        """Return the L2 norm of every text's pooled vector before normalization; `ids` as in `token_vectors`."""
        norms = np.empty(len(ids), np.float32)
        for rows, pooled in self._batches(_pooled_on_local_devices(self.functions), ids):
            norms[rows] = np.linalg.norm(pooled, axis=1)
        return norms

    def _batches(self, run: Callable, ids: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, batch by batch, the positions of the texts and the output of `run` for them."""
        return run_batches(run, self.params, self.query_tokenization, ids, _BATCH_SIZE)  # both tokenizations pad alike

    def save(self, path: str | AnyPath, model_card: str | None = None) -> None:
        """Write a directory that transformers, sentence-transformers (3 to 6) and `load` read.

        A saved model at `path` is replaced as a whole; on a disk, atomically.

        Args:
          path: the directory.
          model_card: Markdown for the README.md of the model.

        Raises:
          FileExistsError: `path` exists and is not a saved model.
        """
        with replaced_directory(path) as directory:
            save_params(directory, self.functions.architecture, self.params)
            save_tokenizer(self.tokenizer, directory, max_length=self.max_length)
            write_settings(
                directory,
                self.functions.architecture,
                max_seq_length=self.max_length,
                query_prefix=self.query_prefix,
                passage_prefix=self.passage_prefix,
            )
            if model_card is not None:
                (directory / "README.md").write_text(model_card, encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Add a model trained with jaxretr",
    ) -> str:
        """Upload the model to a repository of the model hub, which is created if it does not exist.

        The card is `model_card`. If it is None, a card that the repository already has is kept, or else a minimal card
        is written. Other files of the repository are kept, except the weight files of an older model.

            Encoder.load("runs/hybrid/model").push_to_hub("my-name/my-model", private=True)

        Args:
          repo_id: name of the repository, such as "my-name/my-model".
          private: whether a new repository is private; None for the default of its owner.
          token: access token; None for the token of `hf auth login` or of the variable HF_TOKEN.
          commit_message: title of the commit.

        Returns:
          The address of the commit.

        Raises:
          ValueError: `repo_id` is not a valid name.
          PermissionError: the token is missing, or it does not allow the upload.
          ConnectionError: the hub cannot be reached, or HF_HUB_OFFLINE is set.
        """
        with tempfile.TemporaryDirectory(prefix="jaxretr-") as scratch:
            directory = Path(scratch) / "model"
            self.save(directory, self.model_card)
            return upload_model(directory, repo_id, private=private, token=token, commit_message=commit_message)

    def _encode(self, texts: Iterable[str], tokenize: Tokenization, batch_size: int, progress: bool) -> np.ndarray:
        if isinstance(texts, str):
            raise TypeError(f"texts is one string, {texts[:40]!r}; expected a list of strings")
        if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
            raise TypeError(f"texts is {repr(texts)[:60]} of type {type(texts).__name__}; expected a list of strings")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        texts = list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"texts[{index}] is {repr(text)[:60]} of type {type(text).__name__}; expected a string. Leave it "
                    "out, or give an empty string for a missing text"
                )
        embeddings = np.empty((len(texts), self.dim), np.float32)
        dispatched: deque[tuple[np.ndarray, jax.Array]] = deque()
        run = _encode_on_local_devices(self.functions)
        buckets = tokenize.buckets_for(len(texts))

        def fetch() -> int:
            rows, result = dispatched.popleft()
            embeddings[rows] = parallel.merge(result)[: len(rows)]
            return len(rows)

        with progress_bar(enabled=progress and len(texts) > batch_size) as bar:
            task = bar.add_task("encode", total=len(texts))
            for start in range(0, len(texts), _WINDOW):
                ids = tokenize(texts[start : start + _WINDOW])
                for batch in plan_batches([len(row) for row in ids], buckets, batch_size):
                    empty: list[list[int]] = [[]] * (batch.size - len(batch.rows))
                    tokens = tokenize.pad([ids[row] for row in batch.rows] + empty, batch.length)
                    dispatched.append((start + batch.rows, run(self.params, *parallel.split(tokens))))
                    if len(dispatched) > IN_FLIGHT:
                        bar.advance(task, fetch())
            while dispatched:
                bar.advance(task, fetch())
        return embeddings


@lru_cache(maxsize=8)
def _encode_on_local_devices(encoder: EncoderFunctions) -> Any:
    return parallel.pmap(encoder.encode_ids, in_axes=(None, 0, 0), devices=jax.local_devices())


@lru_cache(maxsize=8)
def _hidden_on_local_devices(encoder: EncoderFunctions) -> Any:
    def hidden(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return encoder.hidden_states(params, encoder.embed_tokens(params, ids), mask)

    return parallel.pmap(hidden, in_axes=(None, 0, 0), devices=jax.local_devices())


@lru_cache(maxsize=8)
def _pooled_on_local_devices(encoder: EncoderFunctions) -> Any:
    def pooled(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
        hidden = encoder.hidden_states(params, encoder.embed_tokens(params, ids), mask)
        return encoder.pool(params, hidden, mask)

    return parallel.pmap(pooled, in_axes=(None, 0, 0), devices=jax.local_devices())
