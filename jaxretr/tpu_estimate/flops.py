"""Count the matrix products of a model by formula.

Input: an `Architecture` and lengths. Output: floating-point operations; a multiply-add counts as two. LayerNorm,
softmax and all other operations that are not matrix products are left out, and so are operations that a compiler adds.
"""

from jaxretr.config import Config
from jaxretr.model.architecture import Architecture


def weights(architecture: Architecture, length: int) -> int:
    """Count products with weights to encode one text: those of each layer per token, and the head."""
    a = architecture
    head = a.dense_head[0] * a.dense_head[1] if a.dense_head else 0
    return 2 * (a.num_hidden_layers * length * a.weights_per_layer + head)


def attention(architecture: Architecture, length: int) -> int:
    """Count products of queries with keys, and of probabilities with values, to encode one text.

    Layers with a window compute all products and mask those outside the window, so they count in full.
    """
    return 2 * architecture.num_hidden_layers * 2 * length**2 * architecture.hidden_size


def encode(architecture: Architecture, length: int) -> int:
    """Count all products to encode one text."""
    return weights(architecture, length) + attention(architecture, length)


def train(config: Config, architecture: Architecture, batch: int, devices: int) -> int:
    """Count products of one update on one device with `batch` pairs: a gradient costs three forward passes.

    Products of scores are included. Recomputation in the backward pass (`model.remat`) and hardening are not.
    """
    columns = 1 + config.data.num_hard_negatives
    query, passage = (
        encode(architecture, config.model.query_max_len),
        encode(architecture, config.model.passage_max_len),
    )
    candidates = batch * devices * (columns + config.train.symmetric)
    return 3 * batch * (query + columns * passage + 2 * candidates * architecture.dim)


def recomputed(config: Config, architecture: Architecture, batch: int) -> int:
    """Count products that one device repeats by design.

    `model.remat="dots"` repeats the products inside attention, "full" repeats every layer, and `train.chunk_size`
    encodes all texts once more before the gradient.
    """
    repeated_products = {"none": lambda *_: 0, "dots": attention, "full": encode}[config.model.remat]
    columns = 1 + config.data.num_hard_negatives
    lengths = (config.model.query_max_len, *[config.model.passage_max_len] * columns)
    total = sum(repeated_products(architecture, length) for length in lengths)
    if config.train.chunk_size:
        total += sum(encode(architecture, length) for length in lengths)
    return batch * total


def pgd(architecture: Architecture, length: int, batch: int, steps: int) -> int:
    """Count products of projected gradient ascent on token vectors.

    A gradient costs two forward passes, since weights need no gradient. Besides `steps` gradients there are three
    encodings: of the clean text, the last point and the best point.
    """
    return batch * encode(architecture, length) * (2 * steps + 3)
