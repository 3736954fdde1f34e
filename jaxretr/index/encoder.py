"""The encoder that belongs to an index: what an index says comes in, the one that made its vectors goes out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxretr.model.encode import Encoder


def describe_encoder(encoder: Encoder, model: str) -> dict[str, Any]:
    """What an index keeps of the encoder that makes its vectors.

    Args:
      model: the directory or hub name that it was loaded from.
    """
    return {
        "model": model,
        "fingerprint": encoder.fingerprint,
        "max_length": encoder.max_length,
        "dtype": str(encoder.functions.dtype),
        "dim": encoder.dim,
    }


def load_encoder(about: Mapping[str, Any], model: str | Path | None = None) -> Encoder:
    """The encoder that an index was built with, as it was then.

    Args:
      about: what the index says (`Index.describe`).
      model: where the model is now, if not where the index found it.

    Raises:
      FileNotFoundError: there is no such model.
      ValueError: it is another one: its query vectors would not belong to the passages'.
    """
    model = model or about["model"]
    encoder = Encoder.load(model, dtype=about["dtype"], max_length=about["max_length"])
    if encoder.fingerprint != about["fingerprint"]:
        raise ValueError(
            f"{model} (dim {encoder.dim}, fingerprint {encoder.fingerprint}) is not the model that the index was built "
            f"with ({about['model']} as it was then, dim {about['dim']}, fingerprint {about['fingerprint']}); name "
            "that one, or build the index anew"
        )
    return encoder
