"""The tiny encoder once more, in numpy and float64, written from the definition of the architecture alone."""

from typing import Any

import numpy as np
from scipy import special

from jaxretr.model.architecture import Architecture


def encode(architecture: Architecture, params: Any, embeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit embeddings [texts, dim] from word embeddings [texts, length, hidden] of an XLM-R with mean pooling."""
    tree = _float64(params)
    tables, layers = tree["embeddings"], tree["layers"]
    positions = np.cumsum(mask, axis=1) * mask + architecture.pad_token_id
    x = embeds + tables["position"]["embedding"][positions] + tables["token_type"]["embedding"][0]
    x = _normalized(x, tables["norm"], architecture.layer_norm_eps)
    for number in range(architecture.num_hidden_layers):
        layer = _float64(layers, number)
        attention = layer["attention"]
        q, k, v = np.split(_linear(x, attention["qkv"]), 3, axis=2)
        heads = [
            _attend(*(part[:, :, head : head + architecture.head_dim] for part in (q, k, v)), mask)
            for head in range(0, architecture.hidden_size, architecture.head_dim)
        ]
        attended = _linear(np.concatenate(heads, axis=2), attention["output"])
        x = _normalized(x + attended, layer["attention_norm"], architecture.layer_norm_eps)
        inner = _linear(x, layer["ffn_in"])
        inner = inner * 0.5 * (1 + special.erf(inner / np.sqrt(2)))
        x = _normalized(x + _linear(inner, layer["ffn_out"]), layer["ffn_norm"], architecture.layer_norm_eps)
    pooled = (x * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    scores = np.einsum("bqd,bkd->bqk", q, k) / np.sqrt(q.shape[2])
    weights = special.softmax(np.where(mask[:, None, :], scores, -np.inf), axis=2)
    return np.einsum("bqk,bkd->bqd", weights, v)


def _linear(x: np.ndarray, layer: dict[str, np.ndarray]) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def _normalized(x: np.ndarray, norm: dict[str, np.ndarray], epsilon: float) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * norm["scale"] + norm["bias"]


def _float64(tree: Any, row: int | None = None) -> Any:
    if isinstance(tree, dict):
        return {name: _float64(part, row) for name, part in tree.items()}
    whole = np.asarray(tree, np.float64)
    return whole if row is None else whole[row]
