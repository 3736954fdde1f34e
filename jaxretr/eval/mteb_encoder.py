"""A jaxretr encoder as a model of mteb 2, for mteb's benchmarks, caches and leaderboards.

Input: an `Encoder` and a name. Output: an object that `mteb.evaluate` accepts. mteb needs PyTorch, so it is in its own
dependency group and is imported only when an `MTEBEncoder` is created. JAX still computes the embeddings.

    import mteb
    model = MTEBEncoder(Encoder.load("runs/hybrid/model"), name="me/hybrid")
    mteb.evaluate(model, mteb.get_tasks(tasks=["NanoArguAnaRetrieval"]))
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Shaped

from jaxretr.model.encode import Encoder


class MTEBEncoder:
    """An encoder with mteb's `EncoderProtocol`.

    In a retrieval or reranking task, queries are encoded as queries and documents as passages; mteb has already put the
    title before a document's text, as `Passage.full_text` does. Tasks whose texts all have one role (similarity, bitext
    mining, pair classification, clustering, classification) name no role; their texts are encoded as queries, as the E5
    models prescribe. The model's own prefixes are used; mteb's prompts and instructions for a task are not.

    Attributes:
      encoder: the encoder that computes the embeddings.
      mteb_model_meta: the `mteb.models.ModelMeta` under which mteb files results. Facts that only the user knows, such
        as license and training data, are unset; assign `mteb_model_meta.model_copy(update=...)` to set them.

    Args:
      encoder: the model.
      name: "organization/model". The revision is computed from the model, see `revision`.

    Raises:
      ImportError: mteb is not installed.
      ValueError: `name` has no organization.
    """

    def __init__(self, encoder: Encoder, *, name: str):
        self.encoder = encoder
        self.mteb_model_meta = _model_meta(encoder, name)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool = True,
        precision: str = "float32",
    ) -> Float32[np.ndarray, "texts dim"]:
        """Embed the texts of all batches, in order.

        Args:
          inputs: batches with a list of strings under "text", as mteb's data loaders yield them.
          task_metadata, hf_split, hf_subset: identify the task; the embeddings do not depend on them.
          prompt_type: mteb's `PromptType`, which is a string: "query", "document", or None if all texts have one role.
          batch_size: as in `Encoder.encode_query`.
          show_progress_bar: whether to show a progress bar.
          precision: only "float32". mteb files results under the precision that was requested.

        Raises:
          ValueError: `precision` is not "float32".
        """
        if precision != "float32":
            raise ValueError(
                f"precision is {precision!r}, but the embeddings are float32; leave precision out of encode_kwargs"
            )
        texts = [text for batch in inputs for text in batch["text"]]
        encode = self.encoder.encode_document if prompt_type == "document" else self.encoder.encode_query
        return encode(texts, batch_size=batch_size, progress=show_progress_bar)

    def similarity(
        self, embeddings1: Shaped[Any, "*first dim"], embeddings2: Shaped[Any, "*second dim"]
    ) -> Float32[Any, "..."]:
        """Return the cosine similarities of NumPy or PyTorch embeddings; a number for two single embeddings."""
        return np.asarray(embeddings1, np.float32) @ np.asarray(embeddings2, np.float32).T

    def similarity_pairwise(
        self, embeddings1: Shaped[Any, "pairs dim"], embeddings2: Shaped[Any, "pairs dim"]
    ) -> Float32[np.ndarray, " pairs"]:
        """Return the cosine similarity of each embedding and its counterpart."""
        return np.vecdot(np.asarray(embeddings1, np.float32), np.asarray(embeddings2, np.float32))


def revision(encoder: Encoder) -> str:
    """Return a digest of everything that determines the embeddings of `encoder`.

    The digest covers weights, architecture, compute dtype, prefixes and length. mteb skips a task if it already has
    results for a model's name and revision. With this revision, a model that is trained further under the same name is
    measured again.
    """
    functions = encoder.functions
    settings = (
        functions.architecture,
        functions.dtype,
        encoder.max_length,
        encoder.query_prefix,
        encoder.passage_prefix,
    )
    digest = hashlib.sha256(repr(settings).encode())
    for parameter in jax.tree.leaves(encoder.params):
        digest.update(np.ascontiguousarray(parameter))
    return digest.hexdigest()[:40]


def _model_meta(encoder: Encoder, name: str) -> Any:
    try:
        from mteb.models import ModelMeta
    except ImportError as error:
        raise ImportError(
            "MTEBEncoder needs mteb, which depends on PyTorch and is not installed by default; "
            "start Python with `uv run --group mteb`"
        ) from error
    architecture = encoder.functions.architecture
    parameters = sum(parameter.size for parameter in jax.tree.leaves(encoder.params))
    known = {
        "name": name,
        "revision": revision(encoder),
        "n_parameters": parameters,
        "n_embedding_parameters": architecture.vocab_size * architecture.hidden_size,
        "memory_usage_mb": parameters * 4 / 2**20,
        "max_tokens": encoder.max_length,
        "embed_dim": encoder.dim,
        "framework": ["JAX"],
        "similarity_fn_name": "cosine",
        "use_instructions": bool(encoder.query_prefix or encoder.passage_prefix),
    }
    return ModelMeta.model_validate(ModelMeta.create_empty().model_dump() | known)
