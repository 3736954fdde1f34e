"""The matrix products of the model's mathematics, counted by formula.

Input: an `Architecture` and lengths. Output: floating-point operations; a multiply-add counts as two. LayerNorm,
softmax and everything else that is no matrix product is left out, and so is everything that a compiler adds.
"""

from jaxretr.config import Config
from jaxretr.model.architecture import Architecture


def weights(architecture: Architecture, length: int) -> int:
    """Products with weights to encode one text: 4 hidden² + 2 hidden · ffn per token and layer, and the head."""
    a = architecture
    per_token = 4 * a.hidden_size**2 + 2 * a.hidden_size * a.intermediate_size
    head = a.dense_head[0] * a.dense_head[1] if a.dense_head else 0
    return 2 * (a.num_hidden_layers * length * per_token + head)


def attention(architecture: Architecture, length: int) -> int:
    """Products of queries with keys and of probabilities with values, to encode one text."""
    return 2 * architecture.num_hidden_layers * 2 * length**2 * architecture.hidden_size


def encode(architecture: Architecture, length: int) -> int:
    """All products to encode one text."""
    return weights(architecture, length) + attention(architecture, length)


def train(config: Config, architecture: Architecture, batch: int, devices: int) -> int:
    """Products of one update on one device with `batch` pairs: a gradient costs three forward passes, scores included.

    Recomputation in the backward pass (`model.remat`) and hardening are not counted.
    """
    columns = 1 + config.data.num_hard_negatives
    query, passage = (
        encode(architecture, config.model.query_max_len),
        encode(architecture, config.model.passage_max_len),
    )
    candidates = batch * devices * (columns + config.train.symmetric)
    return 3 * batch * (query + columns * passage + 2 * candidates * architecture.dim)


def recomputed(config: Config, architecture: Architecture, batch: int) -> int:
    """Products that one device repeats by design.

    With `model.remat="dots"`, the products inside attention; with "full", every layer; with `train.chunk_size`, one
    more encoding of everything before the gradient.
    """
    again = {"none": lambda *_: 0, "dots": attention, "full": encode}[config.model.remat]
    columns = 1 + config.data.num_hard_negatives
    lengths = (config.model.query_max_len, *[config.model.passage_max_len] * columns)
    twice = sum(again(architecture, length) for length in lengths)
    if config.train.chunk_size:
        twice += sum(encode(architecture, length) for length in lengths)
    return batch * twice


def pgd(architecture: Architecture, length: int, batch: int, steps: int) -> int:
    """Products of projected gradient ascent on token vectors: a gradient costs two forward passes, since no weight gets
    one.

    Besides `steps` gradients there are three encodings: the clean text, the last point and the best point.
    """
    return batch * encode(architecture, length) * (2 * steps + 3)
