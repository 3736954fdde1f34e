"""Record the encoder that an index is built with, and load it again to encode queries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxretr.model.encode import Encoder


def describe_encoder(encoder: Encoder, model: str) -> dict[str, Any]:
    """Return what an index records about its encoder.

    Args:
      encoder: encoder of the passages.
      model: directory or hub name that the encoder was loaded from.
    """
    return {
        "model": model,
        "fingerprint": encoder.fingerprint,
        "max_length": encoder.max_length,
        "dtype": str(encoder.functions.dtype),
        "dim": encoder.dim,
    }


def load_encoder(about: Mapping[str, Any], model: str | Path | None = None) -> Encoder:
    """Load the encoder that an index was built with, and check that it is unchanged.

    Args:
      about: description of the index (`Index.describe`).
      model: present location of the model, if it differs from the recorded one.

    Raises:
      FileNotFoundError: the model does not exist.
      ValueError: the model differs from the one that encoded the passages, so its query vectors would not match.
    """
    model = model or about["model"]
    encoder = Encoder.load(model, dtype=about["dtype"], max_length=about["max_length"])
    if encoder.fingerprint != about["fingerprint"]:
        raise ValueError(
            f"{model} (dim {encoder.dim}, fingerprint {encoder.fingerprint}) is not the model that the index was built "
            f"with ({about['model']}, dim {about['dim']}, fingerprint {about['fingerprint']}); give the path of the "
            "original model, or rebuild the index"
        )
    return encoder
