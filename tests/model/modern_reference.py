"""ModernBERT once more, in numpy and float64, head by head, written from the definition of the architecture alone."""

from typing import Any

import numpy as np
from scipy import special

from jaxretr.model.families.modern_bert_config import ModernBertArchitecture


def encode(architecture: ModernBertArchitecture, params: Any, embeds: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Unit embeddings [texts, dim] from word embeddings [texts, length, hidden], with mean pooling."""
    pooled = [
        hidden_states(architecture, params, row[:length]).mean(0) for row, length in zip(embeds, lengths, strict=True)
    ]
    return np.stack([vector / np.linalg.norm(vector) for vector in pooled])


def hidden_states(architecture: ModernBertArchitecture, params: Any, x: np.ndarray) -> np.ndarray:
    """The token vectors [length, hidden] of one text."""
    a, layers = architecture, params["layers"]

    def normalized(x: np.ndarray, scale: Any) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + a.layer_norm_eps) * np.asarray(scale, float)

    x = normalized(np.asarray(x, float), params["embeddings"]["norm"]["scale"])
    for i in range(a.num_hidden_layers):
        whole = i % a.global_every == 0
        kernel = {
            "qkv": layers["attention"]["qkv"]["kernel"][i],
            "output": layers["attention"]["output"]["kernel"][i],
            "in": layers["ffn_in"]["kernel"][i],
            "out": layers["ffn_out"]["kernel"][i],
        }
        kernel = {name: np.asarray(matrix, float) for name, matrix in kernel.items()}
        # A checkpoint calls the norm before layer i + 1 its attn_norm; the parameters keep it with layer i.
        read = x if i == 0 else normalized(x, layers["output_norm"]["scale"][i - 1])
        q, k, v = np.split(read @ kernel["qkv"], 3, axis=1)
        theta = a.global_theta if whole else a.local_theta
        heads = [
            _head(*(part[:, h : h + a.head_dim] for part in (q, k, v)), theta, None if whole else a.window // 2)
            for h in range(0, a.hidden_size, a.head_dim)
        ]
        x = x + np.concatenate(heads, axis=1) @ kernel["output"]
        activated, gate = np.split(normalized(x, layers["ffn_norm"]["scale"][i]) @ kernel["in"], 2, axis=1)
        x = x + (activated * special.ndtr(activated) * gate) @ kernel["out"]
    return normalized(x, layers["output_norm"]["scale"][-1])


def _head(q: np.ndarray, k: np.ndarray, v: np.ndarray, theta: float, reach: int | None) -> np.ndarray:
    """Attention of one head; pairs of coordinates are complex numbers, turned by multiplication with e^(i angle)."""
    length, dim = q.shape
    turn = np.exp(1j * np.outer(np.arange(length), theta ** (-np.arange(dim // 2) / (dim // 2))))
    q, k = ((part[:, : dim // 2] + 1j * part[:, dim // 2 :]) * turn for part in (q, k))
    scores = (q @ k.conj().T).real / np.sqrt(dim)
    if reach is not None:
        scores[np.abs(np.subtract.outer(np.arange(length), np.arange(length))) > reach] = -np.inf
    return special.softmax(scores, axis=1) @ v
